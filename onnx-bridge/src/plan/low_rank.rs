//! Low rank in the activation norm, and the rounding of its two factors one after the other.

use ndarray::{Array2, ArrayView2, Axis, CowArray, Ix2, s};
use tn_formats::linalg;

use super::feedback::{Effort, quantize};
use super::metric::Metric;
use super::spd::solve_right;
use crate::blocks::{BlockFormat, BlockMatrix};

/// Rows of a tall weight that are worked on together, at least.
const ROWS: usize = 4096;

/// The directions of a weight's outputs that matter, those with most energy first.
#[derive(Debug, Clone)]
pub(crate) enum Directions {
    /// Themselves, `[M, d]`, orthonormal columns.
    Wide(Array2<f32>),
    /// Of a weight with more outputs than inputs: what it is multiplied by to give them, `[K, d]`.
    Tall(Array2<f32>),
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
        let (m, k) = weight.dim();
        let scaled = |rows: ArrayView2<'_, f32>| -> Result<Array2<f32>, String> {
            let ordered = rows.select(Axis(1), metric.order());
            product(ordered.view(), metric.factor().t())
        };
        if m <= k {
            let t = scaled(weight)?;
            let gram = product(t.view(), t.t())?.mapv(f64::from);
            let (_, vectors) = linalg::eigh(gram.view()).map_err(|e| e.to_string())?;
            return Ok(Self::Wide(vectors.mapv(|v| v as f32)));
        }
        let mut gram = Array2::<f64>::zeros((k, k));
        for rows in weight.axis_chunks_iter(Axis(0), ROWS) {
            let t = scaled(rows)?;
            gram.zip_mut_with(&product(t.t(), t.view())?, |g, v| *g += f64::from(*v));
        }
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
        let turned = product(metric.factor().t(), right.view())?;
        let mut turn = Array2::zeros(turned.dim());
        for (&at, row) in metric.order().iter().zip(turned.outer_iter()) {
            turn.row_mut(at).assign(&row);
        }
        Ok(Self::Tall(turn))
    }

    /// The first `rank` directions, `[M, rank]`.
    fn basis(
        &self,
        weight: ArrayView2<'_, f32>,
        rank: usize,
    ) -> Result<CowArray<'_, f32, Ix2>, String> {
        let (Self::Wide(all) | Self::Tall(all)) = self;
        let some = all.slice(s![.., ..rank.clamp(1, all.ncols().max(1))]);
        match self {
            Self::Wide(_) => Ok(some.into()),
            Self::Tall(_) => Ok(product(weight, some)?.into()),
        }
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
        let right = product(self.basis(weight, rank)?.t(), weight)?;
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
        let basis = self.basis(weight, rank)?;
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
pub(super) fn against(
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
    let mut left = Array2::zeros((weight.nrows(), right.nrows()));
    let rows = ROWS.max(right.nrows());
    for (some, mut solved) in weight
        .axis_chunks_iter(Axis(0), rows)
        .zip(left.axis_chunks_iter_mut(Axis(0), rows))
    {
        let wanted = product(some, weighted.t())?.mapv(f64::from);
        solved.zip_mut_with(&solve_right(damped.clone(), wanted), |l, s| *l = *s as f32);
    }
    quantize(
        left.view(),
        &Metric::new(inner.view(), 1e-4)?,
        format,
        effort,
    )
}
