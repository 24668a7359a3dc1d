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
pub(crate) fn product(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Result<Array2<f32>, String> {
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
        let rank = rank.clamp(1, self.left.ncols().max(1));
        let basis = self.left.slice(s![.., ..rank]);
        let right = product(basis.t(), weight)?;
        let right = quantize(right.view(), metric, format, effort)?;
        let rounded = super::form::dense(&right);
        let weighted = product(rounded.view(), metric.moment())?;
        let inner = product(weighted.view(), rounded.t())?.mapv(f64::from);
        let mut damped = inner.clone();
        let mean = inner.diag().iter().sum::<f64>() / rank as f64;
        damped
            .diag_mut()
            .iter_mut()
            .for_each(|d| *d += 1e-6 * mean + f64::MIN_POSITIVE);
        let against = product(weight, weighted.t())?.mapv(f64::from);
        let left = solve_right(damped, against).mapv(|v| v as f32);
        let left = quantize(
            left.view(),
            &Metric::new(inner.view(), 1e-4)?,
            format,
            effort,
        )?;
        Ok([left, right])
    }
}
