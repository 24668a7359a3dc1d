//! What a weight can become, and what it became.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::blocks::{BlockFormat, BlockMatrix};
use crate::calibrate::{Operand, Target, TargetKind};
use crate::emit::packed::RunsOn;

/// One thing that a weight can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
pub enum Candidate {
    /// As it is.
    Keep,
    /// The matrix itself on a few levels.
    Dense {
        /// The grid and the blocks.
        format: BlockFormat,
    },
    /// `L R`, both on a few levels: a train of two cores.
    LowRank {
        /// The inner size.
        rank: usize,
        /// Grid and blocks of both factors.
        format: BlockFormat,
    },
    /// The matrix on a few levels plus a low-rank train that takes up part of its error, `Q + L R`.
    Corrected {
        /// Of the matrix.
        base: BlockFormat,
        /// The inner size of the train.
        rank: usize,
        /// Of the train's two cores.
        format: BlockFormat,
    },
    /// An interleaved train of two cores, a sum of Kronecker products.
    Train {
        /// The inner size.
        rank: usize,
        /// Row modes of the first and of the second core.
        rows: [usize; 2],
        /// Column modes of the first and of the second core.
        cols: [usize; 2],
        /// Grid and blocks of both cores.
        format: BlockFormat,
    },
    /// A kernel as two channel maps around a window of few channels: Tucker-2 over the channel modes.
    Kernel {
        /// Channels before and behind the window.
        ranks: [usize; 2],
        /// Places of the window.
        taps: usize,
        /// Grid and blocks of the core and both maps.
        format: BlockFormat,
    },
    /// `L C R`: a core between two factors.
    Tucker {
        /// Both sizes of the core.
        rank: usize,
        /// Grid and blocks of the core and the factors.
        format: BlockFormat,
    },
}

impl Candidate {
    /// The name of its format, as jobs name formats.
    pub fn format_name(&self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Dense { .. } => "dense",
            Self::LowRank { .. } => "low-rank",
            Self::Corrected { .. } => "corrected",
            Self::Train { .. } => "tt",
            Self::Tucker { .. } | Self::Kernel { .. } => "tucker",
        }
    }

    /// Input modes and output modes: of a train one for each core, else the whole width.
    pub fn modes(&self, [m, k]: [usize; 2]) -> [Vec<usize>; 2] {
        match self {
            Self::Train { rows, cols, .. } => [cols.to_vec(), rows.to_vec()],
            _ => [vec![k], vec![m]],
        }
    }

    /// The bits of its codes, rounded to what they are reported as; 32 for a weight that stays.
    pub fn bits(&self) -> u8 {
        match self {
            Self::Keep => 32,
            Self::Dense { format }
            | Self::LowRank { format, .. }
            | Self::Train { format, .. }
            | Self::Kernel { format, .. }
            | Self::Tucker { format, .. } => format.levels.nominal_bits(),
            Self::Corrected { base, .. } => base.levels.nominal_bits(),
        }
    }

    /// The inner sizes.
    pub fn ranks(&self) -> Vec<usize> {
        match self {
            Self::Keep | Self::Dense { .. } => Vec::new(),
            Self::LowRank { rank, .. }
            | Self::Corrected { rank, .. }
            | Self::Train { rank, .. } => vec![1, *rank, 1],
            Self::Kernel { ranks, .. } => ranks.to_vec(),
            Self::Tucker { rank, .. } => vec![*rank, *rank],
        }
    }

    /// The one inner size, of a form that has one.
    pub(crate) fn rank(&self) -> Option<usize> {
        match self {
            Self::LowRank { rank, .. }
            | Self::Corrected { rank, .. }
            | Self::Train { rank, .. }
            | Self::Tucker { rank, .. } => Some(*rank),
            Self::Keep | Self::Dense { .. } | Self::Kernel { .. } => None,
        }
    }

    /// The same with another inner size; a form without one as it is.
    pub(crate) fn with_rank(mut self, other: usize) -> Self {
        match &mut self {
            Self::LowRank { rank, .. }
            | Self::Corrected { rank, .. }
            | Self::Train { rank, .. }
            | Self::Tucker { rank, .. } => *rank = other,
            Self::Keep | Self::Dense { .. } | Self::Kernel { .. } => {}
        }
        self
    }

    /// The bytes of its data in the file, exactly, as it is written for some engines.
    pub fn bytes(&self, target: &Target, runs_on: RunsOn) -> u64 {
        let [m, k] = target.shape();
        let table = matches!(target.kind(), TargetKind::Table(_));
        let matrix = |format: &BlockFormat, m, k| format.fitted(k).matrix_bytes(m, k);
        let whole = |format: &BlockFormat, m, k| {
            if table {
                format.fitted(k).table_bytes(m, k)
            } else {
                matrix(format, m, k)
            }
        };
        match self {
            Self::Keep => target.bytes(),
            Self::Dense { format } if !table => runs_on
                .packed_bytes(format.fitted(k), [m, k])
                .unwrap_or_else(|| matrix(format, m, k)),
            Self::Dense { format } => whole(format, m, k),
            Self::LowRank { rank, format } => whole(format, m, *rank) + matrix(format, *rank, k),
            Self::Corrected { base, rank, format } => {
                whole(base, m, k) + matrix(format, m, *rank) + matrix(format, *rank, k)
            }
            Self::Train {
                rank,
                rows: [m1, m2],
                cols: [n1, n2],
                format,
            } => matrix(format, rank * m1, *n1) + matrix(format, *m2, rank * n2),
            Self::Kernel {
                ranks: [inner, outer],
                taps,
                format,
            } => {
                matrix(format, m, *outer)
                    + matrix(format, *outer, inner * taps)
                    + matrix(format, *inner, k / taps)
            }
            Self::Tucker { rank, format } => {
                matrix(format, m, *rank) + matrix(format, *rank, *rank) + matrix(format, *rank, k)
            }
        }
    }

    /// The form of a weight `[M, K]` with empty codes: what takes as many bytes in the file as the solved one.
    pub(crate) fn blank(&self, [m, k]: [usize; 2]) -> Result<Form, String> {
        let matrix = |m: usize, k: usize, format: &BlockFormat| {
            let format = format.fitted(k);
            let steps = vec![0; m * format.blocks(k)];
            BlockMatrix::new([m, k], format, vec![0; m * k], steps, 1.0)
        };
        Ok(match self {
            Self::Keep => Form::Keep,
            Self::Dense { format } => Form::Dense(matrix(m, k, format)?),
            Self::LowRank { rank, format } => Form::LowRank {
                left: matrix(m, *rank, format)?,
                right: matrix(*rank, k, format)?,
            },
            Self::Corrected { base, rank, format } => Form::Corrected {
                base: matrix(m, k, base)?,
                left: matrix(m, *rank, format)?,
                right: matrix(*rank, k, format)?,
            },
            Self::Train {
                rank,
                rows,
                cols,
                format,
            } => Form::Train {
                first: matrix(rank * rows[0], cols[0], format)?,
                second: matrix(rows[1], rank * cols[1], format)?,
                modes: [*rows, *cols],
            },
            Self::Kernel {
                ranks: [inner, outer],
                taps,
                format,
            } => Form::Kernel {
                left: matrix(m, *outer, format)?,
                core: matrix(*outer, inner * taps, format)?,
                right: matrix(*inner, k / taps, format)?,
                taps: *taps,
            },
            Self::Tucker { rank, format } => Form::Tucker {
                left: matrix(m, *rank, format)?,
                core: matrix(*rank, *rank, format)?,
                right: matrix(*rank, k, format)?,
            },
        })
    }

    /// Multiply-adds of one row, and bytes that it reads: what a run costs, on the scale of multiply-adds.
    pub fn time(&self, target: &Target) -> f64 {
        let [m, k] = target.shape();
        let dense = (m * k) as f64;
        match (target.kind(), self) {
            (TargetKind::Table(_), Self::LowRank { rank, .. }) => (rank * k) as f64,
            (TargetKind::Table(_), _) => k as f64,
            (_, Self::LowRank { rank, .. }) => (rank * (m + k)) as f64,
            (
                _,
                Self::Kernel {
                    ranks: [inner, outer],
                    taps,
                    ..
                },
            ) => (inner * (k / taps) + inner * taps * outer + outer * m) as f64,
            (_, Self::Tucker { rank, .. }) => (rank * (m + k + rank)) as f64,
            (
                _,
                Self::Train {
                    rank, rows, cols, ..
                },
            ) => (rank * (k * rows[0] + cols[1] * m)) as f64,
            // Engines unpack once, on loading.
            _ => dense,
        }
    }
}

/// What a weight became.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// It stays.
    Keep,
    /// The matrix on a few levels.
    Dense(BlockMatrix),
    /// `L R`.
    LowRank {
        /// `L [M, r]`.
        left: BlockMatrix,
        /// `R [r, N]`.
        right: BlockMatrix,
    },
    /// `Q + L R`.
    Corrected {
        /// `Q [M, N]`.
        base: BlockMatrix,
        /// `L [M, r]`.
        left: BlockMatrix,
        /// `R [r, N]`.
        right: BlockMatrix,
    },
    /// `W[(m1 m2), (n1 n2)] = sum_r first[(r m1), n1] second[m2, (r n2)]`.
    Train {
        /// The first core `[(r m1), n1]`.
        first: BlockMatrix,
        /// The second core `[m2, (r n2)]`.
        second: BlockMatrix,
        /// `[m1, m2]` and `[n1, n2]`.
        modes: [[usize; 2]; 2],
    },
    /// `W[m, (c t)] = sum L[m, o] C[o, (i t)] R[i, c]`.
    Kernel {
        /// `L [M, r_out]`.
        left: BlockMatrix,
        /// `C [r_out, (r_in taps)]`.
        core: BlockMatrix,
        /// `R [r_in, channels]`.
        right: BlockMatrix,
        /// Places of the window.
        taps: usize,
    },
    /// `L C R`.
    Tucker {
        /// `L [M, r]`.
        left: BlockMatrix,
        /// `C [r, r]`.
        core: BlockMatrix,
        /// `R [r, N]`.
        right: BlockMatrix,
    },
}

/// A block matrix as an array.
pub(crate) fn dense(matrix: &BlockMatrix) -> Array2<f32> {
    Array2::from_shape_vec(matrix.shape(), matrix.dequantize())
        .expect("a block matrix has as many values as its shape")
}

impl Form {
    /// The matrix that it stands for; `None` for a weight that stays.
    pub fn matrix(&self) -> Option<Array2<f32>> {
        Some(match self {
            Self::Keep => return None,
            Self::Dense(matrix) => dense(matrix),
            Self::LowRank { left, right } => dense(left).dot(&dense(right)),
            Self::Corrected { base, left, right } => dense(base) + dense(left).dot(&dense(right)),
            Self::Train {
                first,
                second,
                modes,
            } => super::train::contract(dense(first).view(), dense(second).view(), *modes),
            Self::Kernel {
                left,
                core,
                right,
                taps,
            } => {
                let [left, core, right] = [left, core, right].map(dense);
                super::kernel::contract(left.view(), core.view(), right.view(), *taps)
            }
            Self::Tucker { left, core, right } => dense(left).dot(&dense(core)).dot(&dense(right)),
        })
    }

    /// What stands in the weight's place while the compressed network is run; `None` for a weight that stays. Of a table
    /// only the rows that are looked up are ever unpacked.
    pub(crate) fn operand(&self, kind: &TargetKind) -> Option<Operand<'_>> {
        Some(match (self, kind) {
            (Self::Keep, _) => return None,
            (Self::Dense(matrix), TargetKind::Table(_)) => Operand::Coded(matrix, None),
            (Self::LowRank { left, right }, TargetKind::Table(_)) => {
                Operand::Coded(left, Some(dense(right)))
            }
            (Self::LowRank { left, right }, _) => Operand::Factors(dense(left), dense(right)),
            _ => Operand::Matrix(self.matrix()?.into()),
        })
    }

    /// Its block matrices, in a fixed order.
    pub(crate) fn parts(&self) -> Vec<&BlockMatrix> {
        match self {
            Self::Keep => Vec::new(),
            Self::Dense(matrix) => vec![matrix],
            Self::LowRank { left, right } => vec![left, right],
            Self::Corrected { base, left, right } => vec![base, left, right],
            Self::Train { first, second, .. } => vec![first, second],
            Self::Kernel {
                left, core, right, ..
            }
            | Self::Tucker { left, core, right } => vec![left, core, right],
        }
    }

    /// The form of a candidate from its block matrices.
    pub(crate) fn from_parts(candidate: &Candidate, parts: Vec<BlockMatrix>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut next = || parts.next();
        Some(match candidate {
            Candidate::Keep => Self::Keep,
            Candidate::Dense { .. } => Self::Dense(next()?),
            Candidate::LowRank { .. } => Self::LowRank {
                left: next()?,
                right: next()?,
            },
            Candidate::Corrected { .. } => Self::Corrected {
                base: next()?,
                left: next()?,
                right: next()?,
            },
            Candidate::Train { rows, cols, .. } => Self::Train {
                first: next()?,
                second: next()?,
                modes: [*rows, *cols],
            },
            Candidate::Kernel { taps, .. } => Self::Kernel {
                left: next()?,
                core: next()?,
                right: next()?,
                taps: *taps,
            },
            Candidate::Tucker { .. } => Self::Tucker {
                left: next()?,
                core: next()?,
                right: next()?,
            },
        })
    }
}
