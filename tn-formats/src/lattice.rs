//! Rounding one core to its grid under the metric its neighbours give it.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, s};
use quant_core::{QuantParams, QuantizedTensor};
use rayon::prelude::*;

use crate::error::Result;
use crate::linalg::{cholesky, mm, solve_cholesky};
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

    /// Rounds `target` to the grid of `params`, feeding the error of each element to those after it (Babai's nearest
    /// plane; with one side the identity, the column order of GPTQ).
    ///
    /// # Source
    /// Babai 1986, Combinatorica 6; Frantar et al. 2022, arXiv 2210.17323.
    pub(crate) fn round(
        &self,
        target: ArrayView3<'_, f64>,
        shape: &[usize],
        params: QuantParams,
    ) -> Result<QuantizedTensor> {
        let (r, n, e) = target.dim();
        let grid = Grid::new(shape, &params)?;
        // The longer side runs innermost; with the sides swapped the same plane is walked in the other order.
        let swap = r > e;
        let (outer, inner) = if swap {
            (
                unit_columns(&self.right_factor),
                unit_columns(&self.left_factor),
            )
        } else {
            (
                unit_columns(&self.left_factor),
                unit_columns(&self.right_factor),
            )
        };
        let at = |a: usize, j: usize, b: usize| {
            let (i, k) = if swap { (b, a) } else { (a, b) };
            (i * n + j) * e + k
        };
        let slices: Vec<Vec<i32>> = (0..n)
            .into_par_iter()
            .map(|j| {
                let slice = target.slice(s![.., j, ..]);
                let slice = if swap { slice.reversed_axes() } else { slice };
                round_slice(slice, &outer, &inner, |a, b, x| {
                    grid.nearest(at(a, j, b), x)
                })
            })
            .collect();
        let mut flat = vec![0; r * n * e];
        let width = inner.nrows();
        for (j, slice) in slices.iter().enumerate() {
            for (k, &code) in slice.iter().enumerate() {
                flat[at(k / width, j, k % width)] = code;
            }
        }
        Ok(QuantizedTensor::from_codes(shape, params, &flat)?)
    }
}

/// Nearest plane over one slice from its last element to its first. `outer` and `inner` hold the unit upper factors of the
/// two sides by columns; `nearest` gives code and value.
fn round_slice(
    slice: ArrayView2<'_, f64>,
    outer: &Array2<f64>,
    inner: &Array2<f64>,
    nearest: impl Fn(usize, usize, f64) -> (i32, f64),
) -> Vec<i32> {
    let (rows, cols) = slice.dim();
    let mut codes = vec![0; rows * cols];
    // Row a of `carry` collects what the rows after it feed into it.
    let mut carry = vec![0.0; rows * cols];
    let mut fed = vec![0.0; cols];
    for a in (0..rows).rev() {
        let (before, own) = carry.split_at_mut(a * cols);
        let own = &mut own[..cols];
        fed.fill(0.0);
        for b in (0..cols).rev() {
            let wanted = slice[[a, b]] - own[b] - fed[b];
            let (code, value) = nearest(a, b, wanted);
            codes[a * cols + b] = code;
            let error = value - slice[[a, b]];
            let column = inner.row(b).to_slice().expect("row-major");
            fed[..b]
                .iter_mut()
                .zip(&column[..b])
                .for_each(|(f, w)| *f += w * error);
            fed[b] += error;
        }
        for (earlier, &weight) in before.chunks_exact_mut(cols).zip(outer.row(a)) {
            earlier
                .iter_mut()
                .zip(&fed)
                .for_each(|(c, f)| *c += weight * f);
        }
    }
    codes
}

fn two_sided(
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

/// Step and origin of every element's grid.
struct Grid {
    step: Vec<f64>,
    zero: Vec<f64>,
    min: f64,
    max: f64,
}

impl Grid {
    fn new(shape: &[usize], params: &QuantParams) -> Result<Self> {
        let scheme = params.scheme();
        let (min, max) = (scheme.min_code(), scheme.max_code());
        let len = shape.iter().product();
        // Two neighbouring codes give step and origin whatever shares a scale.
        let low = quant_core::dequantize(&vec![min; len], shape, params)?;
        let high = quant_core::dequantize(&vec![max; len], shape, params)?;
        let span = f64::from(max - min);
        let step: Vec<f64> = low
            .iter()
            .zip(&high)
            .map(|(l, h)| (h.widen() - l.widen()) / span)
            .collect();
        let zero = low
            .iter()
            .zip(&step)
            .map(|(l, s)| (f64::from(min) - l.widen() / s).round())
            .collect();
        Ok(Self {
            step,
            zero,
            min: f64::from(min),
            max: f64::from(max),
        })
    }

    /// The code nearest to `x` and its value.
    fn nearest(&self, index: usize, x: f64) -> (i32, f64) {
        let (step, zero) = (self.step[index], self.zero[index]);
        let code = ((x / step).round_ties_even() + zero).clamp(self.min, self.max);
        (code as i32, (code - zero) * step)
    }
}
