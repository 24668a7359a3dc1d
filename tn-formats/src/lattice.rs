//! Rounding one core to its grid under the metric its neighbours give it.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, s};
use quant_core::{Groups, QuantParams};
use rayon::prelude::*;

use crate::error::Result;
use crate::fold::Fold;
use crate::linalg::{Threads, cholesky, gemm_with, mm, solve_cholesky};
use crate::scalar::Real;

/// The quadratic form a core is judged by: `sum_n tr(left E_n right E_nᵀ)` for an error E `[r, n, r']`, with Cholesky factors.
pub(crate) struct Metric {
    pub(crate) left: Array2<f64>,
    pub(crate) right: Array2<f64>,
    left_factor: Array2<f64>,
    right_factor: Array2<f64>,
}

/// Share of the mean diagonal added before factorizing a metric.
const DAMPING: f64 = 1e-7;

impl Metric {
    /// # Errors
    /// [`crate::Error::LinAlg`] when a form is not positive.
    pub(crate) fn new(left: Array2<f64>, right: Array2<f64>) -> Result<Self> {
        let factor = |m: &Array2<f64>| {
            let mut damped = m.clone();
            let mean = damped.diag().mean().unwrap_or(0.0);
            damped
                .diag_mut()
                .mapv_inplace(|x| x + DAMPING * mean + f64::MIN_POSITIVE.sqrt());
            cholesky(damped.view())
        };
        let (left_factor, right_factor) = (factor(&left)?, factor(&right)?);
        Ok(Self {
            left,
            right,
            left_factor,
            right_factor,
        })
    }

    /// `left X right` slice by slice.
    pub(crate) fn apply(&self, x: ArrayView3<'_, f64>) -> Array3<f64> {
        two_sided(x, |m| mm(self.left.view(), m), |m| mm(m, self.right.view()))
    }

    /// The core that minimises `<Y, M Y> - 2 <b, Y>`.
    pub(crate) fn solve(&self, b: ArrayView3<'_, f64>) -> Array3<f64> {
        two_sided(
            b,
            |m| solve_cholesky(self.left_factor.view(), m),
            |m| solve_cholesky(self.right_factor.view(), m.t()).reversed_axes(),
        )
    }

    /// Rounds `target` to `grid`, feeding the error of each element to those after it: over both sides (Babai's nearest
    /// plane), over one as GPTQ goes through the columns, or not at all. The codes in the order they are stored.
    ///
    /// # Source
    /// Babai 1986, Combinatorica 6; Frantar et al. 2022, arXiv 2210.17323.
    pub(crate) fn round(
        &self,
        target: ArrayView3<'_, f64>,
        grid: &Grid,
        fold: &Fold,
        feed: Feed,
    ) -> Vec<i32> {
        let (r, n, e) = target.dim();
        let factor = |side: &Array2<f64>, fed: bool| match fed {
            true => unit_columns(side),
            false => Array2::eye(side.nrows()),
        };
        let left = factor(&self.left_factor, matches!(feed, Feed::Both | Feed::Left));
        let right = factor(&self.right_factor, matches!(feed, Feed::Both | Feed::Right));
        // The longer side runs innermost; with the sides swapped the same plane is walked in the other order.
        let swap = r > e;
        let (outer, inner) = if swap { (right, left) } else { (left, right) };
        // Rows by columns by slices, so that what is done to a column is done to many slices at once.
        let target = match swap {
            true => target.permuted_axes([2, 0, 1]),
            false => target.permuted_axes([0, 2, 1]),
        };
        let at = |a: usize, b: usize, j: usize| {
            let (i, k) = if swap { (b, a) } else { (a, b) };
            fold.index(i, j, k)
        };
        let starts: Vec<usize> = (0..n).step_by(SLICES).collect();
        let parts: Vec<Vec<i32>> = starts
            .par_iter()
            .map(|&from| {
                let part = target.slice(s![.., .., from..(from + SLICES).min(n)]);
                round_slices(part, &outer, &inner, |a, b, j, x| {
                    grid.nearest(at(a, b, from + j), x)
                })
            })
            .collect();
        let mut flat = vec![0; r * n * e];
        let cols = inner.nrows();
        for (&from, part) in starts.iter().zip(&parts) {
            let width = SLICES.min(n - from);
            for (k, &code) in part.iter().enumerate() {
                let (row, j) = (k / width, k % width);
                flat[at(row / cols, row % cols, from + j)] = code;
            }
        }
        flat
    }
}

/// Where an element's rounding error goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    None,
    Left,
    Right,
    Both,
}

/// Slices rounded together.
const SLICES: usize = 64;
/// Columns whose errors are fed to the columns before them in one product.
const BLOCK: usize = 16;

/// Nearest plane over slices, each from its last element to its first. `target` is rows by columns by slices; `outer` and
/// `inner` hold the unit upper factors of the two sides by columns; `nearest` gives code and value. The codes, in the order
/// of `target`.
fn round_slices(
    target: ArrayView3<'_, f64>,
    outer: &Array2<f64>,
    inner: &Array2<f64>,
    nearest: impl Fn(usize, usize, usize, f64) -> (i32, f64),
) -> Vec<i32> {
    let (rows, cols, slices) = target.dim();
    let width = cols * slices;
    let mut codes = vec![0; rows * width];
    let target = target.as_standard_layout();
    let target = target.as_slice().expect("row-major");
    // Row a of `carry` collects what the rows after it feed into it, `fed` what the columns after a column do.
    let mut carry = vec![0.0; rows * width];
    let mut fed = Array2::<f64>::zeros((cols, slices));
    let mut errors = Array2::<f64>::zeros((BLOCK.min(cols), slices));
    for a in (0..rows).rev() {
        let (before, own) = carry.split_at_mut(a * width);
        fed.fill(0.0);
        for end in (1..=cols).rev().step_by(BLOCK) {
            let from = end.saturating_sub(BLOCK);
            for b in (from..end).rev() {
                let (earlier, current) = fed.view_mut().split_at(Axis(0), b);
                let mut current = current.index_axis_move(Axis(0), 0);
                let mut error = errors.row_mut(b - from);
                for j in 0..slices {
                    let k = b * slices + j;
                    let wanted = target[a * width + k] - own[k] - current[j];
                    let (code, value) = nearest(a, b, j, wanted);
                    codes[a * width + k] = code;
                    error[j] = value - target[a * width + k];
                }
                current += &error;
                let weights = inner.slice(s![b, from..b]);
                for (mut row, &w) in earlier
                    .slice_move(s![from.., ..])
                    .outer_iter_mut()
                    .zip(weights)
                {
                    row.scaled_add(w, &error);
                }
            }
            let weights = inner.slice(s![from..end, ..from]);
            let errors = errors.slice(s![..end - from, ..]);
            let earlier = fed.slice_mut(s![..from, ..]);
            gemm_with(Threads::One, 1.0, weights.t(), errors, 1.0, earlier)
                .expect("equal inner sizes");
        }
        let fed = fed.as_slice().expect("row-major");
        for (earlier, &weight) in before.chunks_exact_mut(width).zip(outer.row(a)) {
            earlier
                .iter_mut()
                .zip(fed)
                .for_each(|(c, f)| *c += weight * f);
        }
    }
    codes
}

/// `left` on the first axis, `right` on the last.
pub(crate) fn two_sided(
    x: ArrayView3<'_, f64>,
    left: impl Fn(ArrayView2<'_, f64>) -> Array2<f64>,
    right: impl Fn(ArrayView2<'_, f64>) -> Array2<f64>,
) -> Array3<f64> {
    let (r, n, e) = x.dim();
    let x = x.as_standard_layout();
    let wide = x
        .view()
        .into_shape_with_order((r, n * e))
        .expect("same number of elements");
    let wide = left(wide).as_standard_layout().into_owned();
    let tall = wide
        .into_shape_with_order((r * n, e))
        .expect("same number of elements");
    let tall = right(tall.view()).as_standard_layout().into_owned();
    tall.into_shape_with_order((r, n, e))
        .expect("same number of elements")
}

/// Row b holds `u[a, b] / u[a, a]` for a up to b, with the upper factor u = lᵀ.
fn unit_columns(l: &Array2<f64>) -> Array2<f64> {
    let n = l.nrows();
    Array2::from_shape_fn(
        (n, n),
        |(b, a)| if b >= a { l[[b, a]] / l[[a, a]] } else { 0.0 },
    )
}

/// Step and origin of every element's grid, elements in the order they are stored.
pub(crate) struct Grid {
    /// Step, its inverse and the zero point, group by group.
    groups: Vec<(f64, f64, f64)>,
    /// The group of every element, where there are several.
    group_of: Vec<u32>,
    min: f64,
    max: f64,
}

/// Adding and taking away 1.5 * 2^52 rounds to the nearest integer, halves to even, as long as that is below 2^51.
const ROUND: f64 = 6_755_399_441_055_744.0;

impl Grid {
    pub(crate) fn new(shape: &[usize], params: &QuantParams) -> Result<Self> {
        let scheme = params.scheme();
        let layout = Groups::new(shape, scheme.granularity())?;
        let scales = params.scales().iter().map(|s| s.widen());
        let zeros = params.zero_points().iter().map(|&z| f64::from(z));
        let mut group_of = Vec::new();
        if layout.count() > 1 {
            group_of.resize(layout.len(), 0);
            layout.for_each_element(|i, group| group_of[i] = group as u32);
        }
        Ok(Self {
            groups: scales.zip(zeros).map(|(s, z)| (s, s.recip(), z)).collect(),
            group_of,
            min: scheme.min_code().into(),
            max: scheme.max_code().into(),
        })
    }

    /// The code nearest to `x` and its value.
    #[inline]
    pub(crate) fn nearest(&self, index: usize, x: f64) -> (i32, f64) {
        let group = self.group_of.get(index).map_or(0, |&g| g as usize);
        let (step, inverse, zero) = self.groups[group];
        let steps = (x * inverse).clamp(self.min - zero, self.max - zero);
        let steps = (steps + ROUND) - ROUND;
        ((steps + zero) as i32, steps * step)
    }
}
