//! What a weight can become, and how much error each of that makes.

use ndarray::Array2;
use tn_formats::{Layout, MatrixModes};

use super::feedback::Effort;
use super::form::{Candidate, Form};
use super::low_rank::Directions;
use super::metric::Metric;
use super::solve::solve;
use super::train::Kronecker;
use crate::blocks::{BlockFormat, Levels};
use crate::calibrate::{Target, TargetKind};
use crate::emit::packed::RunsOn;

/// Above this inner size no low rank is tried: the eigenvectors would take longer than all else.
const LARGEST_INNER: usize = 2048;

/// Unknowns of one row in the normal equations of a train's core, at most.
const LARGEST_CORE: usize = 2048;

/// A train whose plain decomposition loses this many times what another candidate of no more bytes does is hopeless: the fit
/// in the inputs' norm takes less than that away.
const HOPELESS: f64 = 4.0;

/// All candidates for a weight, [`Candidate::Keep`] first. Where engines are named that keep matrices packed, a dense layer's
/// matrix is offered in formats that they keep so, and in no other.
pub(crate) fn candidates(target: &Target, runs_on: RunsOn) -> Vec<Candidate> {
    let [m, k] = target.shape();
    let unpacked = runs_on != RunsOn::Portable && matches!(target.kind(), TargetKind::Dense(_));
    let mut all = vec![Candidate::Keep];
    let mut push = |candidate: Candidate| {
        let refused = unpacked
            && match &candidate {
                Candidate::Dense { format } => runs_on.packed_bits(format.fitted(k), k).is_none(),
                // Its sum is made when the engine loads, and stays unpacked.
                Candidate::Corrected { .. } => true,
                _ => false,
            };
        if !refused
            && candidate.bytes(target, runs_on) < target.bytes()
            && !all.contains(&candidate)
        {
            all.push(candidate);
        }
    };
    let format = |levels, block: usize| BlockFormat {
        levels,
        block: block.min(k),
    };
    for levels in Levels::ALL {
        let blocks: &[usize] = match levels {
            Levels::L256 => &[128],
            Levels::L9 | Levels::L16 => &[128, 64, 32, 16],
            _ => &[128, 64, 32],
        };
        blocks.iter().for_each(|&b| {
            push(Candidate::Dense {
                format: format(levels, b),
            })
        });
    }
    let inner = m.min(k);
    let fine = |levels| BlockFormat { levels, block: 128 };
    if inner <= LARGEST_INNER {
        for (part, levels) in [
            (32, Levels::L256),
            (16, Levels::L256),
            (64, Levels::L16),
            (32, Levels::L16),
            (16, Levels::L16),
            (8, Levels::L16),
            (4, Levels::L16),
            (3, Levels::L16),
        ] {
            let rank = (inner / part).max(1);
            let format = fine(levels);
            push(Candidate::LowRank { rank, format });
        }
        if matches!(target.kind(), TargetKind::Table(_)) {
            for sixteenths in [2, 3, 4, 5, 6, 7, 8, 9, 11, 13] {
                let rank = (inner * sixteenths / 16).max(1);
                for levels in [Levels::L9, Levels::L16] {
                    let format = fine(levels);
                    push(Candidate::LowRank { rank, format });
                }
            }
        }
        if matches!(target.kind(), TargetKind::Dense(_)) {
            for levels in [Levels::L3, Levels::L4, Levels::L6] {
                let rank = (inner / 24).max(1);
                push(Candidate::Corrected {
                    base: format(levels, 128),
                    rank,
                    format: fine(Levels::L16),
                });
            }
            for part in [16, 8, 4, 3, 2] {
                let rank = (inner / part).max(1);
                let format = fine(Levels::L16);
                push(Candidate::Tucker { rank, format });
            }
        }
    }
    if let TargetKind::Conv(layers) = target.kind() {
        let (channels, taps) = layers.first().map_or((k, 1), |l| (l.channels(), l.taps()));
        let sides = [channels, m].map(|n| n.min(LARGEST_INNER));
        for (part, levels) in [
            (8, Levels::L256),
            (4, Levels::L256),
            (2, Levels::L256),
            (6, Levels::L16),
            (4, Levels::L16),
            (3, Levels::L16),
            (2, Levels::L16),
        ] {
            let ranks = sides.map(|n| n.div_ceil(part));
            if taps > 1 && ranks.iter().zip([channels, m]).all(|(r, n)| *r < n) {
                push(Candidate::Kernel {
                    ranks,
                    taps,
                    format: fine(levels),
                });
            }
        }
    }
    if let Some([rows, cols]) = train_modes(target) {
        let most = LARGEST_CORE / cols[0].max(cols[1]);
        for (rank, levels) in [
            (4, Levels::L256),
            (8, Levels::L16),
            (16, Levels::L16),
            (32, Levels::L16),
            (most, Levels::L16),
        ] {
            if rank <= most {
                push(Candidate::Train {
                    rank,
                    rows,
                    cols,
                    format: fine(levels),
                });
            }
        }
    }
    all
}

/// The modes of an interleaved train of two cores; `None` where the weight is a table or has no such modes.
fn train_modes(target: &Target) -> Option<[[usize; 2]; 2]> {
    let [m, k] = target.shape();
    if !matches!(target.kind(), TargetKind::Dense(_)) {
        return None;
    }
    let modes = MatrixModes::balanced(Layout::Interleaved, m, k, 2).ok()?;
    let rows: [usize; 2] = modes.row_modes().try_into().ok()?;
    let cols: [usize; 2] = modes.col_modes().try_into().ok()?;
    let unfolded = [rows[0] * cols[0], rows[1] * cols[1]];
    let proper = rows.iter().chain(&cols).all(|&n| n > 1);
    (proper && unfolded[0].min(unfolded[1]) <= LARGEST_INNER).then_some([rows, cols])
}

/// What an offer is worth looking at: a Tucker network of a matrix is a low rank with a core more, so it is offered only
/// where nothing but it is allowed.
pub(crate) fn sensible(offered: Vec<Candidate>) -> Vec<Candidate> {
    let better = |c: &Candidate| !matches!(c, Candidate::Keep | Candidate::Tucker { .. });
    if offered.iter().any(better) {
        let kept = |c: &Candidate| !matches!(c, Candidate::Tucker { .. });
        return offered.into_iter().filter(kept).collect();
    }
    if offered.is_empty() {
        return vec![Candidate::Keep];
    }
    offered
}

/// The error of every candidate, in squared output units per row, where the rows of a table that are given stand for all.
/// Infinite where a candidate is not worth solving. `made` is shown what each of the others makes of the weight.
pub(crate) fn errors(
    weight: &Array2<f32>,
    metric: &Metric,
    offered: &[Candidate],
    target: &Target,
    runs_on: RunsOn,
    made: &mut dyn FnMut(usize, &Form),
) -> Result<Vec<f64>, String> {
    let rows = match target.kind() {
        TargetKind::Table(_) => weight.nrows() as f64,
        TargetKind::Dense(_) | TargetKind::Conv(_) => 1.0,
    };
    let mut directions = None;
    let mut pairs = None;
    let mut found: Vec<f64> = Vec::with_capacity(offered.len());
    for candidate in offered {
        let form = match *candidate {
            Candidate::LowRank { rank, format } => {
                let known = match &directions {
                    Some(known) => known,
                    None => directions.insert(Directions::new(weight.view(), metric)?),
                };
                let [left, right] =
                    known.quantize(weight.view(), metric, rank, format, Effort::Feedback)?;
                Form::LowRank { left, right }
            }
            Candidate::Train {
                rank,
                rows,
                cols,
                format,
            } => {
                let modes = [rows, cols];
                let known = match &pairs {
                    Some(known) => known,
                    None => pairs.insert(Kronecker::new(weight.view(), modes)?),
                };
                let bytes = |c: &Candidate| c.bytes(target, runs_on);
                let plain = known.tail(rank);
                let plain = plain * metric.energy(weight.view());
                let beaten = |(c, error): (&Candidate, &f64)| {
                    bytes(c) <= bytes(candidate) && error * HOPELESS < plain
                };
                if offered.iter().zip(&found).any(beaten) {
                    found.push(f64::INFINITY);
                    continue;
                }
                let [first, second] =
                    known.quantize(weight.view(), metric, rank, format, Effort::Feedback)?;
                Form::Train {
                    first,
                    second,
                    modes,
                }
            }
            ref other => solve(weight.view(), metric, other, Effort::Feedback)?,
        };
        made(found.len(), &form);
        found.push(match form.matrix() {
            Some(matrix) => metric.energy((weight - &matrix).view()) / rows,
            None => 0.0,
        });
    }
    Ok(found)
}
