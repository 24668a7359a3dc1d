//! Low rank in the activation norm, and the rounding of its two factors one after the other.

use ndarray::{Array2, ArrayView2, Axis, s};
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
    /// `D^(1/2) U`, `[M, d]`, the columns of `U` orthonormal.
    Wide(Array2<f32>),
    /// Of a weight with more outputs than inputs: what `D^(1/2) W` is multiplied by to give `U`, `[K, d]`, and the roots of how
    /// much the rows count, `[M]`, where they do not count the same.
    Tall(Array2<f32>, Option<Vec<f32>>),
}

/// Rows times their factors, from a row on.
fn scale_rows(rows: &mut Array2<f32>, roots: Option<&[f32]>, start: usize) {
    if let Some(roots) = roots {
        for (mut row, root) in rows.outer_iter_mut().zip(&roots[start..]) {
            row *= *root;
        }
    }
}

/// `a b` through the backend; inner sizes are equal wherever this is called.
pub(crate) fn product(
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
) -> Result<Array2<f32>, String> {
    linalg::matmul(a, b).map_err(|e| e.to_string())
}

impl Directions {
    /// The left singular vectors of `W C^(1/2)`, of `D^(1/2) W C^(1/2)` where rows do not count alike.
    ///
    /// # Source
    /// Wang et al. 2024, SVD-LLM, arXiv 2403.07378: truncating in this norm is optimal. With `U` the left singular
    /// vectors, `U (Uᵀ W)` is that optimum, so `C^(1/2)` need not be undone.
    pub(crate) fn new(weight: ArrayView2<'_, f32>, metric: &Metric) -> Result<Self, String> {
        let (m, k) = weight.dim();
        let roots = metric.rows(m);
        let roots: Option<Vec<f32>> = roots.map(|rows| rows.iter().map(|v| v.sqrt()).collect());
        let scaled = |rows: ArrayView2<'_, f32>, start: usize| -> Result<Array2<f32>, String> {
            let mut ordered = rows.select(Axis(1), metric.order());
            scale_rows(&mut ordered, roots.as_deref(), start);
            product(ordered.view(), metric.factor().t())
        };
        if m <= k {
            let t = scaled(weight, 0)?;
            let gram = product(t.view(), t.t())?.mapv(f64::from);
            let (_, vectors) = linalg::eigh(gram.view()).map_err(|e| e.to_string())?;
            let mut directions = vectors.mapv(|v| v as f32);
            scale_rows(&mut directions, roots.as_deref(), 0);
            return Ok(Self::Wide(directions));
        }
        let mut gram = Array2::<f64>::zeros((k, k));
        for (i, rows) in weight.axis_chunks_iter(Axis(0), ROWS).enumerate() {
            let t = scaled(rows, i * ROWS)?;
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
        Ok(Self::Tall(turn, roots))
    }

    /// `U_rᵀ D^(1/2) W` for the first `rank` directions: rows that span what is left of the weight, `[rank, K]`.
    fn rows(&self, weight: ArrayView2<'_, f32>, rank: usize) -> Result<Array2<f32>, String> {
        let (Self::Wide(all) | Self::Tall(all, _)) = self;
        let some = all.slice(s![.., ..rank.clamp(1, all.ncols().max(1))]);
        let Self::Tall(_, roots) = self else {
            return product(some.t(), weight);
        };
        let mut basis = product(weight, some)?;
        // Once for `U`, once for `D^(1/2) U`.
        scale_rows(&mut basis, roots.as_deref(), 0);
        scale_rows(&mut basis, roots.as_deref(), 0);
        product(basis.t(), weight)
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
        let right = self.rows(weight, rank)?;
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
        let rows = self.rows(weight, rank)?;
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

#[cfg(test)]
mod tests {
    use super::super::metric::tests::sample;
    use super::*;
    use crate::blocks::Levels;

    #[test]
    fn rows_that_count_more_are_nearer() {
        let format = BlockFormat {
            levels: Levels::L256,
            block: 32,
        };
        for (m, k) in [(60, 16), (16, 60)] {
            let (weight, moment) = sample(m, k);
            let importance: Vec<f64> = (0..m)
                .map(|i| if i % 15 == 0 { 20.0 } else { 0.5 })
                .collect();
            let alike = Metric::new(moment.view(), 0.01).unwrap();
            let counted = alike.clone().with_rows(&importance);
            let factors = [&alike, &counted].map(|metric| {
                let directions = Directions::new(weight.view(), metric).unwrap();
                let (weight, effort) = (weight.view(), Effort::Feedback);
                let [left, right] = directions
                    .quantize(weight, metric, 5, format, effort)
                    .unwrap();
                let [l, core, r] = directions
                    .quantize_tucker(weight, metric, 5, format, effort)
                    .unwrap();
                let [left, right, l, core, r] =
                    [left, right, l, core, r].map(|part| super::super::form::dense(&part));
                [left.dot(&right), l.dot(&core).dot(&r)]
            });
            let energy =
                |metric: &Metric, made: &Array2<f32>| metric.energy((&weight - made).view());
            let [plain, weighed] = &factors;
            for (plain, weighed) in plain.iter().zip(weighed) {
                let (before, after) = (energy(&counted, plain), energy(&counted, weighed));
                assert!(after < 0.8 * before, "{m}x{k}: {after} {before}");
                assert!(energy(&alike, plain) < energy(&alike, weighed), "{m}x{k}");
            }
        }
    }
}
