//! Low rank in the activation norm, and the rounding of its two factors one after the other.

use ndarray::{Array2, ArrayView2, s};
use tn_formats::linalg;

use super::feedback::{Effort, quantize};
use super::metric::Metric;
use super::spd::solve_right;
use crate::blocks::{BlockFormat, BlockMatrix};

/// The directions of a weight's outputs that matter, those with most energy first.
#[derive(Debug, Clone)]
pub(crate) struct Directions {
    /// `[M, d]`, orthonormal columns.
    left: Array2<f32>,
}

/// `a b` through the backend; inner sizes are equal wherever this is called.
pub(crate) fn product(
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
) -> Result<Array2<f32>, String> {
    linalg::matmul(a, b).map_err(|e| e.to_string())
}

impl Directions {
    /// The left singular vectors of `W C^(1/2)`.
    ///
    /// # Source
    /// Wang et al. 2024, SVD-LLM, arXiv 2403.07378: truncating in this norm is optimal. With `U` the left singular
    /// vectors, `U (Uᵀ W)` is that optimum, so `C^(1/2)` need not be undone.
    pub(crate) fn new(weight: ArrayView2<'_, f32>, metric: &Metric) -> Result<Self, String> {
        let ordered = weight.select(ndarray::Axis(1), metric.order());
        let t = product(ordered.view(), metric.factor().t())?;
        let (m, k) = t.dim();
        if m <= k {
            let gram = product(t.view(), t.t())?.mapv(f64::from);
            let (_, vectors) = linalg::eigh(gram.view()).map_err(|e| e.to_string())?;
            return Ok(Self {
                left: vectors.mapv(|v| v as f32),
            });
        }
        let gram = product(t.t(), t.view())?.mapv(f64::from);
        let (values, vectors) = linalg::eigh(gram.view()).map_err(|e| e.to_string())?;
        let mut right = vectors.mapv(|v| v as f32);
        let largest = values.iter().copied().fold(0.0, f64::max);
        for (value, mut column) in values.iter().zip(right.columns_mut()) {
            let norm = if *value > 1e-10 * largest {
                1.0 / value.sqrt()
            } else {
                0.0
            };
            column.mapv_inplace(|v| v * norm as f32);
        }
        Ok(Self {
            left: product(t.view(), right.view())?,
        })
    }

    /// The first `rank` directions.
    fn basis(&self, rank: usize) -> ArrayView2<'_, f32> {
        let rank = rank.clamp(1, self.left.ncols().max(1));
        self.left.slice(s![.., ..rank])
    }

    /// The factors `L [M, r]`, `R [r, K]`, rounded: `R` in the norm, then `L` solved anew against the rounded `R` and
    /// rounded in the norm that `R` gives it.
    pub(crate) fn quantize(
        &self,
        weight: ArrayView2<'_, f32>,
        metric: &Metric,
        rank: usize,
        format: BlockFormat,
        effort: Effort,
    ) -> Result<[BlockMatrix; 2], String> {
        let right = product(self.basis(rank).t(), weight)?;
        let right = quantize(right.view(), metric, format, effort)?;
        let rounded = super::form::dense(&right);
        let left = against(weight, rounded.view(), metric, format, effort)?;
        Ok([left, right])
    }

    /// `L [M, r]`, `C [r, r]`, `R [r, K]`, rounded from the right: `R` an orthonormal basis of the rows that the directions
    /// leave, each of the others solved anew against what stands right of it.
    pub(crate) fn quantize_tucker(
        &self,
        weight: ArrayView2<'_, f32>,
        metric: &Metric,
        rank: usize,
        format: BlockFormat,
        effort: Effort,
    ) -> Result<[BlockMatrix; 3], String> {
        let basis = self.basis(rank);
        let rows = product(basis.t(), weight)?;
        let gram = product(rows.view(), rows.t())?.mapv(f64::from);
        let (values, vectors) = linalg::eigh(gram.view()).map_err(|e| e.to_string())?;
        let largest = values.iter().copied().fold(0.0, f64::max);
        let scale = values.mapv(|v| v.max(1e-10 * largest).max(f64::MIN_POSITIVE).sqrt().recip());
        let turn = (&vectors * &scale).mapv(|v| v as f32);
        let right = product(turn.t(), rows.view())?;
        let right = quantize(right.view(), metric, format, effort)?;
        let rounded = super::form::dense(&right);
        let core = against(rows.view(), rounded.view(), metric, format, effort)?;
        let inner = product(super::form::dense(&core).view(), rounded.view())?;
        let left = against(weight, inner.view(), metric, format, effort)?;
        Ok([left, core, right])
    }
}

/// `L` with `L R` nearest to the weight for a given `R`, rounded in the norm that `R` gives it.
fn against(
    weight: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    metric: &Metric,
    format: BlockFormat,
    effort: Effort,
) -> Result<BlockMatrix, String> {
    let weighted = product(right, metric.moment())?;
    let inner = product(weighted.view(), right.t())?.mapv(f64::from);
    let mut damped = inner.clone();
    let mean = inner.diag().iter().sum::<f64>() / inner.nrows().max(1) as f64;
    damped
        .diag_mut()
        .iter_mut()
        .for_each(|d| *d += 1e-6 * mean + f64::MIN_POSITIVE);
    let wanted = product(weight, weighted.t())?.mapv(f64::from);
    let left = solve_right(damped, wanted).mapv(|v| v as f32);
    quantize(
        left.view(),
        &Metric::new(inner.view(), 1e-4)?,
        format,
        effort,
    )
}
