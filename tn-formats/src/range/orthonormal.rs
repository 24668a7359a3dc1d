//! Orthonormal columns by Cholesky, and by Householder reflections where they are too close to dependent for that.

use ndarray::{Array2, ArrayView2};

use super::strips::{gram_rows, narrow};
use crate::linalg::{cholesky, lower_inverse, mm, qr};
use crate::scalar::Real;

/// Columns of the span of `y`, orthonormal to the round-off of `T`: two passes of Cholesky, or one where the columns are nearly
/// orthogonal as they come.
pub(super) fn orthonormal<T: Real>(y: Array2<T>) -> Array2<T> {
    let gram = gram_rows(y.t());
    match by_cholesky(y.view(), &gram, &[]) {
        Some((q, _)) if nearly_diagonal(&gram) => q,
        Some((q, _)) => orthonormalized(q),
        None => orthonormalized(qr(y.view()).0),
    }
}

/// Whether the columns that have this Gram matrix, each scaled to norm 1, have a condition below 2: by the circles of
/// Gershgorin, from the lower triangle.
fn nearly_diagonal(gram: &Array2<f64>) -> bool {
    let n = gram.nrows();
    (0..n).all(|i| {
        let off = (0..n).filter(|&j| j != i).map(|j| {
            let scale = (gram[[i, i]] * gram[[j, j]]).sqrt();
            gram[[i.max(j), i.min(j)]].abs() / scale
        });
        off.sum::<f64>() < 0.5
    })
}

/// [`orthonormal`] where the columns of `y` are independent enough for Cholesky.
pub(super) fn independent<T: Real>(y: ArrayView2<'_, T>) -> Option<Array2<T>> {
    by_cholesky(y, &gram_rows(y.t()), &[]).map(|(q, _)| orthonormalized(q))
}

/// One pass: as orthonormal as the condition of `y` lets it be, squared.
pub(super) fn orthonormalized<T: Real>(y: Array2<T>) -> Array2<T> {
    orthonormalized_share(y, &[]).0
}

/// One pass, and the least share of a column's squared norm that was not in the span of those before it; `taken` is what had been
/// taken out of each column before. A share of 0 where reflections were needed.
pub(super) fn orthonormalized_share<T: Real>(y: Array2<T>, taken: &[f64]) -> (Array2<T>, f64) {
    by_cholesky(y.view(), &gram_rows(y.t()), taken).unwrap_or_else(|| (qr(y.view()).0, 0.0))
}

/// `y l⁻ᵀ` for `yᵀ y = gram = l lᵀ`, and the share of [`orthonormalized_share`]; `None` for a column so close to the span of those
/// before it that round-off would count.
fn by_cholesky<T: Real>(
    y: ArrayView2<'_, T>,
    gram: &Array2<f64>,
    taken: &[f64],
) -> Option<(Array2<T>, f64)> {
    if y.nrows() < y.ncols() {
        return None;
    }
    let l = cholesky(gram.view()).ok()?;
    let least = 64.0 * T::UNIT_ROUNDOFF;
    let apart = |j: usize| l[[j, j]] * l[[j, j]] > least * gram[[j, j]];
    if !(0..l.nrows()).all(apart) {
        return None;
    }
    let share = |j: usize| l[[j, j]].powi(2) / (gram[[j, j]] + taken.get(j).unwrap_or(&0.0));
    let share = (0..l.nrows()).map(share).fold(1.0, f64::min);
    let q = mm(y, narrow::<T>(&lower_inverse(l.view())).t());
    Some((q, share))
}
