//! The dominant column space of one unfolding: the step every decomposition here repeats.
//!
//! Given `a` (m x n), find an orthonormal `q` (m x r), `b = qᵀ a` and `||a - q b||`. The path follows the shape:
//!
//! | case | path | cost |
//! |---|---|---|
//! | rank cap not below the short side, no error asked for | the identity, or Cholesky of the columns | a copy, or m n² |
//! | rank cap, no error asked for, short side small or n at least 8 m | Gram matrix in `f32`, its eigenvectors by Krylov when it is large | m n min(m, n) |
//! | rank cap far below the short side | in `f32` first where the tail allows it: block Krylov with Rayleigh-Ritz (Musco and Musco 2015, arXiv 1504.05477), restarted from its best block | some passes |
//! | otherwise | Gram matrix of the short side in `f64` and its eigenvectors | m n min(m, n) |
//! | `f64` and an error below 1e-5 wanted or found | QR, then SVD of the triangle | twice the Gram path |
//!
//! What is left of an `f64` array may be kept in `f32` (`A` below, where `Q` is the type of the bases): its round-off adds to the
//! error squared.
//!
//! The tail is exact in every path: the projection is orthogonal, whatever subspace it uses. A subspace found in `f32` or by
//! Krylov may leave a little more than the best one; an error that is asked for never depends on either.

use ndarray::{Array1, Array2, ArrayView2, CowArray, Ix2, s};

use crate::error::Result;
use crate::linalg::{eigh, eigh_single, mm, qr, svd};
use crate::reorder::Woven;
use crate::scalar::Real;

mod krylov;
mod orthonormal;
mod strips;

pub(crate) use strips::gram_rows;

use krylov::krylov;
use orthonormal::{independent, orthonormal};
use strips::{
    SIDE_BY_SIDE, coarse_gram_rows, coarse_gram_woven, narrow, project, project_wide,
    project_woven, residual_sq, single, widen,
};

/// Result of [`dominant_range`]: the basis in `Q`, what is left of an array of `A`.
pub(crate) struct Range<Q, A = Q> {
    /// Orthonormal columns, m x r.
    pub(crate) q: Array2<Q>,
    /// `qᵀ a`, r x n.
    pub(crate) b: Array2<A>,
    /// `||a - q b||²`.
    pub(crate) tail_sq: f64,
}

/// How many columns to keep: the fewest whose tail is within `tail_sq`, but never more than `cap`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) cap: usize,
    pub(crate) tail_sq: f64,
}

impl Keep {
    /// Whether nothing of an unfolding with this short side may be cut off.
    pub(crate) fn is_lossless(&self, short: usize) -> bool {
        self.cap >= short && self.tail_sq <= 0.0
    }
}

/// Squared relative tails below this are beyond the Gram matrix in `f64`.
pub(crate) const GRAM_FLOOR: f64 = 1e-10;
/// Columns beyond the rank that a subspace needs room for.
const OVERSAMPLING: usize = 10;
/// Squared relative tails below this are taken from the residual, not from a difference of norms.
const CANCELLATION: f64 = 1e-3;
/// From this ratio of columns to rows on, one product with the whole array beats the passes of Krylov.
const WIDE: usize = 8;
/// Squared relative tails from this on are told from a projection in `f32`.
pub(crate) const PLAIN: f64 = 0.05;
/// Squared relative tails below this are beyond a Gram matrix in single precision.
const COARSE_FLOOR: f64 = 1e-3;
/// Squared relative tails below this are beyond a space found in single precision.
const SINGLE_FLOOR: f64 = 1e-2;
/// Sides from which the eigenvectors of a Gram matrix in single precision are found in single precision.
const SINGLE_SIDE: usize = 128;
/// Short sides up to this are left to the Gram path.
const GRAM_SIDE: usize = 384;

/// Picks the rank for falling squared singular values, at least 1.
pub(crate) fn pick_rank(squares: &[f64], keep: Keep) -> usize {
    let mut rank = squares.len();
    let mut tail = 0.0;
    while rank > 1 {
        tail += squares[rank - 1].max(0.0);
        if tail > keep.tail_sq {
            break;
        }
        rank -= 1;
    }
    rank.min(keep.cap).max(1)
}

pub(crate) fn dominant_range<Q: Real, A: Real>(
    a: CowArray<'_, A, Ix2>,
    norm_sq: f64,
    keep: Keep,
) -> Result<Range<Q, A>> {
    let (m, n) = a.dim();
    let short = m.min(n);
    // Zeros have rank 1 whatever is allowed: their budget is 0, and so is every tail.
    let zeros = norm_sq <= 0.0 && a.iter().all(|x| *x == A::zero());
    let lossless = keep.is_lossless(short) && !zeros;
    if lossless && short == m {
        return Ok(Range {
            q: Array2::eye(m),
            b: a.into_owned(),
            tail_sq: 0.0,
        });
    }
    let a = a.view();
    if lossless
        && short <= GRAM_SIDE
        && let Some(q) = independent(widen(a).view())
    {
        return Ok(Range {
            b: project(q.view(), a),
            q: Q::rounded(q),
            tail_sq: 0.0,
        });
    }
    let few = keep.cap != usize::MAX && 4 * (keep.cap + OVERSAMPLING) <= short;
    let coarse = short <= GRAM_SIDE || (few && WIDE * m <= n);
    let capped = keep.cap < short && keep.tail_sq <= 0.0;
    if capped
        && coarse
        && let Some(range) = by_coarse_gram(a, norm_sq, keep.cap)?
    {
        return Ok(range);
    }
    let fine = A::BYTES == 8;
    if short > GRAM_SIDE && few {
        if fine && let Some(range) = by_single_krylov(a, norm_sq, keep)? {
            return Ok(range);
        }
        if let Some(q) = krylov(a, norm_sq, keep)? {
            return Ok(projected(widen(q.view()), a, norm_sq));
        }
    }
    if fine && keep.tail_sq > 0.0 && keep.tail_sq < GRAM_FLOOR * norm_sq {
        return Ok(by_svd(a, keep)?.recast());
    }
    let range = by_gram(a, norm_sq, keep)?;
    if fine && range.tail_sq < GRAM_FLOOR * norm_sq {
        return Ok(by_svd(a, keep)?.recast());
    }
    Ok(range)
}

/// [`dominant_range`] of `scale` times an unfolding that is not made unless it must be.
pub(crate) fn dominant_range_woven<T: Real, A: Real>(
    a: Woven<'_, T>,
    scale: f64,
    norm_sq: f64,
    keep: Keep,
) -> Result<Range<T, A>> {
    let (m, n) = a.dim();
    let relative = scale / norm_sq.sqrt();
    if m <= SIDE_BY_SIDE.min(n)
        && keep.cap < m
        && keep.tail_sq <= 0.0
        && f32::narrow(relative).is_finite()
    {
        let q = dominant_eigenvectors(coarse_gram_woven(&a, relative), keep.cap)?;
        let b = project_woven(A::rounded(q.clone()).view(), &a, scale);
        let tail_sq = norm_sq - crate::scalar::norm_sq(b.view());
        if tail_sq >= PLAIN * norm_sq {
            let q = T::rounded(q);
            return Ok(Range { q, b, tail_sq });
        }
    }
    let unfolded = CowArray::from(a.unfolded(scale));
    drop(a);
    dominant_range(unfolded, norm_sq, keep)
}

impl<A: Real> Range<A> {
    fn recast<Q: Real>(self) -> Range<Q, A> {
        Range {
            q: Q::rounded(widen(self.q.view())),
            b: self.b,
            tail_sq: self.tail_sq,
        }
    }
}

/// The dominant eigenvectors of the short side's Gram matrix, that in single precision; the projection onto them exact. An error
/// of the space counts squared; `None` when the tail is so small that it would count all the same.
fn by_coarse_gram<Q: Real, A: Real>(
    a: ArrayView2<'_, A>,
    norm_sq: f64,
    cap: usize,
) -> Result<Option<Range<Q, A>>> {
    let scale = norm_sq.sqrt().recip();
    if !f32::narrow(scale).is_finite() {
        return Ok(None);
    }
    let (m, n) = a.dim();
    let q = if m <= n {
        dominant_eigenvectors(coarse_gram_rows(a, scale), cap)?
    } else {
        // a v spans the dominant left singular vectors.
        let v = dominant_eigenvectors(coarse_gram_rows(a.t(), scale), cap)?;
        let y = project(v.view(), a.t());
        widen(y.t())
    };
    let range = projected(q, a, norm_sq);
    let floor = if A::BYTES == 8 {
        SINGLE_FLOOR
    } else {
        COARSE_FLOOR
    };
    Ok((range.tail_sq >= floor * norm_sq).then_some(range))
}

/// An orthonormal basis of the span of the first `cap` eigenvectors, or of one as good in single precision; of the symmetric
/// matrix whose lower triangle is given.
fn dominant_eigenvectors(lower: Array2<f64>, cap: usize) -> Result<Array2<f64>> {
    let m = lower.nrows();
    if m > GRAM_SIDE {
        let full = Array2::from_shape_fn((m, m), |(i, j)| lower[[i.max(j), i.min(j)]]);
        let size = full.iter().map(|x| x * x).sum();
        if let Some(q) = krylov(full.view(), size, Keep { cap, tail_sq: 0.0 })? {
            return Ok(q);
        }
    }
    if m < SINGLE_SIDE {
        return Ok(eigh(lower.view())?.1.slice(s![.., ..cap]).to_owned());
    }
    let vectors = eigh_single(narrow::<f32>(&lower).view())?.1;
    Ok(orthonormal(widen(vectors.slice(s![.., ..cap]))))
}

/// The space found in single precision, the projection onto it exact. An error of the space counts squared, so that nothing is
/// lost as long as the tail is not small; `None` where it is.
fn by_single_krylov<Q: Real, A: Real>(
    a: ArrayView2<'_, A>,
    norm_sq: f64,
    keep: Keep,
) -> Result<Option<Range<Q, A>>> {
    let scale = norm_sq.sqrt().recip();
    if !f32::narrow(scale).is_finite() {
        return Ok(None);
    }
    let relative = Keep {
        tail_sq: keep.tail_sq / norm_sq,
        ..keep
    };
    let single = single(a, scale);
    let Some(q) = krylov(single.view(), 1.0, relative)? else {
        return Ok(None);
    };
    drop(single);
    let range = projected(widen(q.view()), a, norm_sq);
    Ok((range.tail_sq >= SINGLE_FLOOR * norm_sq).then_some(range))
}

/// QR of the long side, SVD of the triangle: small singular values are exact to the round-off of `T`.
pub(crate) fn by_svd<T: Real>(a: ArrayView2<'_, T>, keep: Keep) -> Result<Range<T>> {
    let (m, n) = a.dim();
    let (u, sigma, vt) = if m >= n {
        let (q, r) = qr(a);
        let (u, sigma, vt) = svd(r.view())?;
        (mm(q.view(), u.view()), sigma, vt)
    } else {
        let (q, r) = qr(a.t());
        let (u, sigma, vt) = svd(r.t())?;
        (u, sigma, mm(vt.view(), q.t()))
    };
    let squares: Vec<f64> = sigma.iter().map(|s| s.widen() * s.widen()).collect();
    let rank = pick_rank(&squares, keep);
    let tail_sq = squares[rank..].iter().rev().sum();
    let mut b = vt.slice(s![..rank, ..]).to_owned();
    for (mut row, &s) in b.outer_iter_mut().zip(&sigma) {
        row.mapv_inplace(|x| x * s);
    }
    Ok(Range {
        q: u.slice(s![.., ..rank]).to_owned(),
        b,
        tail_sq,
    })
}

fn by_gram<Q: Real, A: Real>(
    a: ArrayView2<'_, A>,
    norm_sq: f64,
    keep: Keep,
) -> Result<Range<Q, A>> {
    let (m, n) = a.dim();
    if m <= n {
        let (values, vectors) = eigh(gram_rows(a).view())?;
        let rank = pick_rank(&values.to_vec(), keep);
        let q = vectors.slice(s![.., ..rank]).to_owned();
        let b = project(q.view(), a);
        return Ok(Range {
            q: Q::rounded(q),
            b,
            tail_sq: tail_of(&values, rank, norm_sq),
        });
    }
    let (values, vectors) = eigh(gram_rows(a.t()).view())?;
    let rank = pick_rank(&values.to_vec(), keep);
    // a v spans the dominant left singular vectors; QR makes it orthonormal however small the last ones are.
    let y = project(vectors.slice(s![.., ..rank]), a.t());
    let q = orthonormal(widen(y.t()));
    let b = project(q.view(), a);
    Ok(Range {
        q: Q::rounded(q),
        b,
        tail_sq: tail_of(&values, rank, norm_sq),
    })
}

fn tail_of(values: &Array1<f64>, rank: usize, norm_sq: f64) -> f64 {
    let tail: f64 = values.iter().skip(rank).rev().map(|v| v.max(0.0)).sum();
    if rank == values.len() || norm_sq == 0.0 {
        0.0
    } else {
        tail
    }
}

/// The projection onto the span of `y`, and the energy it leaves: exact but for the round-off of `A` in what is kept.
fn projected<Q: Real, A: Real>(y: Array2<f64>, a: ArrayView2<'_, A>, norm_sq: f64) -> Range<Q, A> {
    let q = orthonormal(y);
    if A::BYTES == 4 {
        let b = project(q.view(), a);
        let tail_sq = norm_sq - crate::scalar::norm_sq(b.view());
        if tail_sq >= PLAIN * norm_sq {
            let q = Q::rounded(q);
            return Range { q, b, tail_sq };
        }
    }
    let b = project_wide(q.view(), a);
    let mut tail_sq = norm_sq - crate::scalar::norm_sq(b.view());
    if tail_sq < CANCELLATION * norm_sq {
        tail_sq = residual_sq(q.view(), b.view(), a);
    }
    Range {
        q: Q::rounded(q),
        b: A::rounded(b),
        tail_sq,
    }
}
