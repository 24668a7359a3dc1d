//! Orthonormal columns by Cholesky, and by Householder reflections where they are too close to dependent for that.

use ndarray::{Array2, ArrayView2};

use super::strips::{gram_rows, narrow};
use crate::linalg::{cholesky, lower_inverse, mm, qr};
use crate::scalar::Real;

/// Columns of the span of `y`, orthonormal to the round-off of `T`: two passes of Cholesky.
pub(super) fn orthonormal<T: Real>(y: Array2<T>) -> Array2<T> {
    orthonormalized(orthonormalized(y))
}

/// [`orthonormal`] where the columns of `y` are independent enough for Cholesky.
pub(super) fn independent<T: Real>(y: ArrayView2<'_, T>) -> Option<Array2<T>> {
    by_cholesky(y).map(orthonormalized)
}

/// One pass: as orthonormal as the condition of `y` lets it be, squared.
pub(super) fn orthonormalized<T: Real>(y: Array2<T>) -> Array2<T> {
    by_cholesky(y.view()).unwrap_or_else(|| qr(y.view()).0)
}

/// `y l⁻ᵀ` for `yᵀ y = l lᵀ`; `None` for a column so close to the span of those before it that round-off would count.
fn by_cholesky<T: Real>(y: ArrayView2<'_, T>) -> Option<Array2<T>> {
    if y.nrows() < y.ncols() {
        return None;
    }
    let gram = gram_rows(y.t());
    let l = cholesky(gram.view()).ok()?;
    let least = 64.0 * T::UNIT_ROUNDOFF;
    let apart = |j: usize| l[[j, j]] * l[[j, j]] > least * gram[[j, j]];
    if !(0..l.nrows()).all(apart) {
        return None;
    }
    Some(mm(y, narrow::<T>(&lower_inverse(l.view())).t()))
}
