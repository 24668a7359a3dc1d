//! In which order a matrix train meets its inputs.

use crate::matrix::{TtMatrix, TtMatrixCore};
use crate::modes::Layout;
use crate::scalar::Real;

/// An order of contraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContractionOrder {
    /// Core by core (interleaved), or the input cores merged, then the output cores merged (split).
    Cores,
    /// The dense matrix first, then one product with the whole batch.
    Dense,
}

/// What multiplying with a matrix train costs: a batch in the cheapest order ([`TtMatrix::plan`]), another train
/// ([`TtMatrix::plan_product`]).
///
/// ```
/// use ndarray::Array2;
/// use tn_formats::{ContractionOrder, Layout, MatrixModes, Truncation, TtMatrix};
/// let w = Array2::from_shape_fn((64, 64), |(i, j)| ((i * j) as f32).sin());
/// let modes = MatrixModes::new(Layout::Interleaved, vec![8, 8], vec![8, 8])?;
/// let (train, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(2))?;
/// let plan = train.plan(1);
/// assert_eq!(plan.order(), ContractionOrder::Cores);
/// assert_eq!(plan.flops(), 2 * (8 * 8 * 8 * 2 + 8 * 8 * 2 * 8));
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContractionPlan {
    order: ContractionOrder,
    flops: usize,
    peak_scratch: usize,
}

impl ContractionPlan {
    pub(crate) fn new(order: ContractionOrder, flops: usize, peak_scratch: usize) -> Self {
        Self {
            order,
            flops,
            peak_scratch,
        }
    }

    /// The order.
    pub fn order(&self) -> ContractionOrder {
        self.order
    }

    /// Floating-point operations, two per multiply-add.
    pub fn flops(&self) -> usize {
        self.flops
    }

    /// Most elements alive at once beside input, cores and result.
    pub fn peak_scratch(&self) -> usize {
        self.peak_scratch
    }
}

impl<T: Real> TtMatrix<T> {
    /// The cheapest order for a batch of this many inputs.
    pub fn plan(&self, batch: usize) -> ContractionPlan {
        let cores = match self.layout() {
            Layout::Interleaved => self.plan_interleaved(batch),
            Layout::Split => self.plan_split(batch),
        };
        let (rows, cols) = self.shape();
        let merge = self.merge_flops();
        let dense = ContractionPlan {
            order: ContractionOrder::Dense,
            flops: merge.saturating_add(2 * batch * rows * cols),
            peak_scratch: 2 * rows * cols,
        };
        if dense.flops < cores.flops {
            dense
        } else {
            cores
        }
    }

    fn plan_interleaved(&self, batch: usize) -> ContractionPlan {
        let mut state = batch * self.shape().1;
        let (mut flops, mut peak_scratch) = (0, 0);
        for core in self.cores() {
            let [_, m, n, s] = core.shape();
            let [r, ..] = core.shape();
            flops += 2 * state * m * s;
            let next = state / (n * r) * m * s;
            peak_scratch = peak_scratch.max(2 * state + next);
            state = next;
        }
        ContractionPlan {
            order: ContractionOrder::Cores,
            flops,
            peak_scratch,
        }
    }

    fn plan_split(&self, batch: usize) -> ContractionPlan {
        let inputs = self.col_modes().len();
        let rank = self.ranks()[inputs];
        let (rows, cols) = self.shape();
        let flops = self.half_flops() + 2 * batch * rank * (rows + cols);
        let peak_scratch = rank * (rows + cols) + batch * rank;
        ContractionPlan {
            order: ContractionOrder::Cores,
            flops,
            peak_scratch,
        }
    }

    /// Merging each half of a split train.
    fn half_flops(&self) -> usize {
        let (inputs, outputs) = self.cores().split_at(self.col_modes().len());
        left_flops(inputs) + right_flops(outputs)
    }

    /// Merging all cores into the dense matrix, the two halves last.
    fn merge_flops(&self) -> usize {
        let half = self.order().div_ceil(2);
        let (mut flops, mut size) = (0, 1);
        for core in &self.cores()[..half] {
            let [r, m, n, s] = core.shape();
            flops += if size == 1 {
                0
            } else {
                2 * size * r * m * n * s
            };
            size *= m * n;
        }
        let (rows, cols) = self.shape();
        flops + 2 * rows * cols * self.ranks()[half]
    }
}

/// Merging neighbouring cores from the left.
pub(crate) fn left_flops<T: Real>(cores: &[TtMatrixCore<T>]) -> usize {
    merge(cores.iter())
}

/// Merging neighbouring cores from the right.
pub(crate) fn right_flops<T: Real>(cores: &[TtMatrixCore<T>]) -> usize {
    merge(cores.iter().rev())
}

/// `cores` in the order of merging.
fn merge<'a, T: Real>(cores: impl Iterator<Item = &'a TtMatrixCore<T>>) -> usize {
    let (mut flops, mut size) = (0, 1);
    for (k, core) in cores.enumerate() {
        flops += if k == 0 {
            0
        } else {
            2 * size * core.as_slice().len()
        };
        size *= core.row_mode() * core.col_mode();
    }
    flops
}
