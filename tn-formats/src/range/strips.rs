//! Gram matrices and projections of arrays too large to be converted or packed at once: strip by strip, on all threads. The
//! strips and the order of their sums are fixed by the shape alone.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, ShapeBuilder, s};
use rayon::prelude::*;

use crate::linalg::{Threads, add_gram_lower, gemm_with, mm};
use crate::reorder::{Columns, Woven};
use crate::scalar::{Real, scaled};

/// Columns at most that a Gram matrix is summed over in its own precision.
const COARSE_STRIP: usize = 8192;
/// Parts at least of a Gram matrix whose parts are made side by side.
const PARTS: usize = 8;
/// Sides of a Gram matrix up to which its parts are made side by side, each on one thread.
pub(super) const SIDE_BY_SIDE: usize = 256;
/// Elements of a strip that is gathered from a matrix: wide, so that what is read lies together.
const WOVEN_STRIP: usize = 1 << 18;
/// Elements of a strip that is converted or packed on the way: it stays in the second-level cache.
const STRIP: usize = 1 << 16;

pub(crate) fn widen<T: Real>(a: ArrayView2<'_, T>) -> Array2<f64> {
    a.mapv(Real::widen)
}

pub(crate) fn narrow<T: Real>(a: &Array2<f64>) -> Array2<T> {
    a.mapv(T::narrow)
}

/// `scale a` in single precision.
pub(super) fn single<T: Real>(a: ArrayView2<'_, T>, scale: f64) -> Array2<f32> {
    let (m, n) = a.dim();
    let mut out = Array2::zeros((m, n));
    let rows = (STRIP / n.max(1)).max(1);
    let strips: Vec<_> = a
        .axis_chunks_iter(Axis(0), rows)
        .zip(out.axis_chunks_iter_mut(Axis(0), rows))
        .collect();
    strips.into_par_iter().for_each(|(from, mut to)| {
        to.zip_mut_with(&from, |to, x| *to = scaled(*x, scale));
    });
    out
}

/// Whether columns are the runs in memory, so that copies of strips should keep them.
fn by_columns<T>(a: ArrayView2<'_, T>) -> bool {
    a.strides()[0].abs() < a.strides()[1].abs()
}

/// Columns per strip when `f32` is widened on the way: the strip stays in the cache.
fn strip(rows: usize) -> usize {
    STRIP / rows.clamp(1, 1 << 12)
}

/// `a aᵀ` in `f64`, the lower triangle.
pub(crate) fn gram_rows<T: Real>(a: ArrayView2<'_, T>) -> Array2<f64> {
    let (m, n) = a.dim();
    if m <= SIDE_BY_SIDE {
        return gram_side_by_side::<T, f64>(a, 1.0);
    }
    let mut sum = Array2::zeros((m, m));
    add_gram(a, 1.0, n, &mut sum);
    sum
}

/// `scale² a aᵀ` in single precision, summed in `f64` over long rows; the lower triangle.
pub(super) fn coarse_gram_rows<T: Real>(a: ArrayView2<'_, T>, scale: f64) -> Array2<f64> {
    let m = a.nrows();
    if m <= SIDE_BY_SIDE {
        return gram_side_by_side::<T, f32>(a, scale);
    }
    let mut total = Array2::zeros((m, m));
    for strip in a.axis_chunks_iter(Axis(1), COARSE_STRIP) {
        let mut sum = Array2::<f32>::zeros((m, m));
        add_gram(strip, scale, strip.ncols(), &mut sum);
        total.zip_mut_with(&sum, |total, x| *total += f64::from(*x));
    }
    total
}

fn gram_side_by_side<T: Real, S: Real>(a: ArrayView2<'_, T>, scale: f64) -> Array2<f64> {
    let (m, n) = a.dim();
    let per_part = n.div_ceil(PARTS).clamp(1, COARSE_STRIP);
    let parts: Vec<_> = a.axis_chunks_iter(Axis(1), per_part).collect();
    let sums: Vec<Array2<S>> = parts
        .into_par_iter()
        .map(|part| {
            let mut sum = Array2::zeros((m, m));
            add_gram(part, scale, strip(m), &mut sum);
            sum
        })
        .collect();
    let mut total = Array2::zeros((m, m));
    for sum in sums {
        total.zip_mut_with(&sum, |total, x| *total += x.widen());
    }
    total
}

/// `sum += scale² a aᵀ`, converted in strips of `width` columns, or of 512 where more are asked for.
fn add_gram<T: Real, S: Real>(a: ArrayView2<'_, T>, scale: f64, width: usize, sum: &mut Array2<S>) {
    let width = width.clamp(1, 512).min(a.ncols().max(1));
    let mut scratch = Array2::zeros((a.nrows(), width).set_f(by_columns(a)));
    for strip in a.axis_chunks_iter(Axis(1), width) {
        let mut part = scratch.slice_mut(s![.., ..strip.ncols()]);
        part.zip_mut_with(&strip, |to, x| *to = S::narrow(x.widen() * scale));
        add_gram_lower(part.view(), sum.view_mut());
    }
}

/// [`coarse_gram_rows`] of at most [`SIDE_BY_SIDE`] rows.
pub(super) fn coarse_gram_woven<T: Real>(a: &Woven<'_, T>, scale: f64) -> Array2<f64> {
    let (m, n) = a.dim();
    let strips = a.strips(STRIP / m, Columns::OfTheMatrix);
    let per_part = (n.div_ceil(PARTS).clamp(1, COARSE_STRIP) / strips.width()).max(1);
    let numbers: Vec<usize> = (0..strips.len()).collect();
    let sums: Vec<Array2<f32>> = numbers
        .par_chunks(per_part)
        .map(|part| {
            let mut sum = Array2::zeros((m, m));
            let mut scratch = vec![0.0; m * strips.width()];
            for &k in part {
                strips.copy_to(k, scale, &mut scratch);
                let strip = rows_of(&scratch, strips.width());
                add_gram_lower(strip, sum.view_mut());
            }
            sum
        })
        .collect();
    let mut total = Array2::zeros((m, m));
    for sum in sums {
        total.zip_mut_with(&sum, |total, x| *total += f64::from(*x));
    }
    total
}

/// `scale qᵀ a`, accumulated in `S`.
pub(super) fn project_woven<T: Real, S: Real>(
    q: ArrayView2<'_, S>,
    a: &Woven<'_, T>,
    scale: f64,
) -> Array2<S> {
    let ((m, n), r) = (a.dim(), q.ncols());
    let strips = a.strips(WOVEN_STRIP / m, Columns::OfTheTensor);
    let width = strips.width();
    let mut out = Array2::zeros((r, n));
    let targets: Vec<_> = out.axis_chunks_iter_mut(Axis(1), width).collect();
    let scratch = || (vec![S::zero(); m * width], Array2::zeros((r, width)));
    targets
        .into_par_iter()
        .enumerate()
        .for_each_init(scratch, |(from, to), (k, mut result)| {
            strips.copy_to(k, scale, from);
            product(q, rows_of(from, width), to.view_mut());
            result.assign(to);
        });
    out
}

fn rows_of<S>(values: &[S], width: usize) -> ArrayView2<'_, S> {
    ArrayView2::from_shape((values.len() / width, width), values).expect("whole rows")
}

/// `qᵀ a` in `f64`.
pub(super) fn project_wide<T: Real>(q: ArrayView2<'_, f64>, a: ArrayView2<'_, T>) -> Array2<f64> {
    project_in(q, a)
}

/// `qᵀ a`, accumulated in `T`.
pub(super) fn project<T: Real>(q: ArrayView2<'_, f64>, a: ArrayView2<'_, T>) -> Array2<T> {
    project_in(q.mapv(T::narrow).view(), a)
}

fn project_in<T: Real, S: Real>(q: ArrayView2<'_, S>, a: ArrayView2<'_, T>) -> Array2<S> {
    let ((m, n), r) = (a.dim(), q.ncols());
    if m > 4 * n {
        return project_tall(q, a);
    }
    let mut out = Array2::zeros((r, n));
    let width = strip(m).max(64);
    let strips: Vec<_> = a
        .axis_chunks_iter(Axis(1), width)
        .zip(out.axis_chunks_iter_mut(Axis(1), width))
        .collect();
    let columns = by_columns(a);
    let scratch = || {
        (
            Array2::zeros((m, width).set_f(columns)),
            Array2::zeros((r, width)),
        )
    };
    strips
        .into_par_iter()
        .for_each_init(scratch, |(from, to), (strip, mut result)| {
            let mut from = from.slice_mut(s![.., ..strip.ncols()]);
            from.zip_mut_with(&strip, |to, x| *to = S::narrow(x.widen()));
            let mut to = to.slice_mut(s![.., ..strip.ncols()]);
            product(q, from.view(), to.view_mut());
            result.assign(&to);
        });
    out
}

/// `qᵀ a` as a sum over strips of rows.
fn project_tall<T: Real, S: Real>(q: ArrayView2<'_, S>, a: ArrayView2<'_, T>) -> Array2<S> {
    let rows = (STRIP / a.ncols().max(1)).max(256);
    let strips: Vec<_> = a
        .axis_chunks_iter(Axis(0), rows)
        .zip(q.axis_chunks_iter(Axis(0), rows))
        .collect();
    let scratch = || Array2::zeros((rows, a.ncols()));
    let parts: Vec<Array2<S>> = strips
        .into_par_iter()
        .map_init(scratch, |from, (strip, q)| {
            let mut from = from.slice_mut(s![..strip.nrows(), ..]);
            from.zip_mut_with(&strip, |to, x| *to = S::narrow(x.widen()));
            let mut part = Array2::zeros((q.ncols(), strip.ncols()));
            product(q, from.view(), part.view_mut());
            part
        })
        .collect();
    let mut parts = parts.into_iter();
    let first = parts
        .next()
        .unwrap_or_else(|| Array2::zeros((q.ncols(), a.ncols())));
    parts.fold(first, |sum, part| sum + part)
}

/// `to = qᵀ a` on this thread.
fn product<S: Real>(q: ArrayView2<'_, S>, a: ArrayView2<'_, S>, to: ArrayViewMut2<'_, S>) {
    gemm_with(Threads::One, S::one(), q.t(), a, S::zero(), to).expect("shapes by construction");
}

/// `||a - q b||²`, strip by strip.
pub(super) fn residual_sq<T: Real>(
    q: ArrayView2<'_, f64>,
    b: ArrayView2<'_, f64>,
    a: ArrayView2<'_, T>,
) -> f64 {
    let n = a.ncols();
    let width = strip(a.nrows()).max(64);
    let strips: Vec<f64> = (0..n.div_ceil(width))
        .into_par_iter()
        .map(|k| {
            let part = k * width..((k + 1) * width).min(n);
            let rest = widen(a.slice(s![.., part.clone()])) - mm(q, b.slice(s![.., part]));
            rest.iter().map(|x| x * x).sum::<f64>()
        })
        .collect();
    strips.iter().sum()
}
