//! The dominant column space of one unfolding: the step every decomposition here repeats.
//!
//! Given `a` (m x n), find an orthonormal `q` (m x r), `b = qᵀ a` and `||a - q b||`. The path follows the shape:
//!
//! | case | path | cost |
//! |---|---|---|
//! | rank cap far below m, n at least 8 m | Gram matrix in `T`, Krylov on it | m² n, a few passes over m² |
//! | rank cap far below the short side | in `f32` first where the tail allows it: block Krylov with Rayleigh-Ritz (Musco and Musco 2015, arXiv 1504.05477), restarted from its best block | some passes |
//! | otherwise | Gram matrix of the short side in `f64` and its eigenvectors | m n min(m, n) |
//! | `f64` and an error below 1e-5 wanted or found | QR, then SVD of the triangle | twice the Gram path |
//!
//! The tail is exact in every path: the projection is orthogonal, whatever subspace it uses.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::error::Result;
use crate::linalg::{add_gram_lower, eigh, mm, qr, svd};
use crate::scalar::Real;

/// Result of [`dominant_range`].
pub(crate) struct Range<T> {
    /// Orthonormal columns, m x r.
    pub(crate) q: Array2<T>,
    /// `qᵀ a`, r x n.
    pub(crate) b: Array2<T>,
    /// `||a - q b||²`.
    pub(crate) tail_sq: f64,
}

/// How many columns to keep: the fewest whose tail is within `tail_sq`, but never more than `cap`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) cap: usize,
    pub(crate) tail_sq: f64,
}

/// Squared relative tails below this are beyond the Gram matrix in `f64`.
pub(crate) const GRAM_FLOOR: f64 = 1e-10;
/// Columns beyond the rank in a Krylov block.
const OVERSAMPLING: usize = 10;
/// Krylov stops when what it would still gain is less than this share of the tail.
const KRYLOV_TOLERANCE: f64 = 2e-5;
/// Blocks of a Krylov space before it is restarted from the best of them: memory stays at a few blocks.
const DEPTH: usize = 4;
/// Rounds of restarts before Krylov gives up.
const MAX_ROUNDS: usize = 24;
/// Squared relative tails below this are taken from the residual, not from a difference of norms.
const CANCELLATION: f64 = 1e-3;
/// From this ratio of columns to rows on, one product with the whole array beats the passes of Krylov.
const WIDE: usize = 8;
/// Columns per strip of a Gram matrix in the element type.
const COARSE_STRIP: usize = 4096;
/// Squared relative tails below this are beyond it.
const COARSE_FLOOR: f64 = 1e-3;
/// Squared relative tails below this are beyond a space found in single precision.
const SINGLE_FLOOR: f64 = 1e-2;
/// Columns per strip of a projection in the element type.
const PROJECTED: usize = 2048;
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

pub(crate) fn dominant_range<T: Real>(
    a: ArrayView2<'_, T>,
    norm_sq: f64,
    keep: Keep,
) -> Result<Range<T>> {
    let (m, n) = a.dim();
    let short = m.min(n);
    if keep.cap >= m && keep.tail_sq <= 0.0 {
        return Ok(Range {
            q: Array2::eye(m),
            b: a.to_owned(),
            tail_sq: 0.0,
        });
    }
    let capped = keep.cap != usize::MAX && 4 * (keep.cap + OVERSAMPLING) <= short;
    if capped
        && short > GRAM_SIDE
        && WIDE * m <= n
        && let Some(range) = by_coarse_gram(a, norm_sq, keep.cap)?
    {
        return Ok(range);
    }
    let fine = T::BYTES == 8;
    if short > GRAM_SIDE && capped {
        if fine && let Some(range) = by_single_krylov(a, norm_sq, keep)? {
            return Ok(range);
        }
        if let Some(q) = krylov(a, norm_sq, keep)? {
            return Ok(project_exactly(q.view(), a, norm_sq));
        }
    }
    if fine && keep.tail_sq > 0.0 && keep.tail_sq < GRAM_FLOOR * norm_sq {
        return by_svd(a, keep);
    }
    let range = by_gram(a, norm_sq, keep)?;
    if fine && range.tail_sq < GRAM_FLOOR * norm_sq {
        return by_svd(a, keep);
    }
    Ok(range)
}

/// The Gram matrix in `T`, strip by strip, and its few dominant eigenvectors by Krylov; the tail from the projection in
/// `f64`. `None` when the tail is so small that the Gram matrix's own round-off would count.
fn by_coarse_gram<T: Real>(
    a: ArrayView2<'_, T>,
    norm_sq: f64,
    cap: usize,
) -> Result<Option<Range<T>>> {
    let (m, n) = a.dim();
    let mut gram = Array2::<f64>::zeros((m, m));
    for from in (0..n).step_by(COARSE_STRIP) {
        let strip = a.slice(s![.., from..(from + COARSE_STRIP).min(n)]);
        let mut part = Array2::<T>::zeros((m, m));
        add_gram_lower(strip, part.view_mut());
        gram.zip_mut_with(&part, |sum, x| *sum += x.widen());
    }
    let full = Array2::from_shape_fn((m, m), |(i, j)| gram[[i.max(j), i.min(j)]]);
    let size = full.iter().map(|x| x * x).sum();
    let q = match krylov(full.view(), size, Keep { cap, tail_sq: 0.0 })? {
        Some(q) => project_exactly(q.view(), full.view(), size).q,
        None => eigh(gram.view())?.1.slice(s![.., ..cap]).to_owned(),
    };
    let b = project_wide(q.view(), a);
    let tail_sq = norm_sq - b.iter().map(|x| x * x).sum::<f64>();
    if tail_sq < COARSE_FLOOR * norm_sq {
        return Ok(None);
    }
    Ok(Some(Range {
        q: narrow(&q),
        b: narrow(&b),
        tail_sq,
    }))
}

/// The space found in single precision, the projection onto it exact. An error of the space counts squared, so that nothing is
/// lost as long as the tail is not small; `None` where it is.
fn by_single_krylov<T: Real>(
    a: ArrayView2<'_, T>,
    norm_sq: f64,
    keep: Keep,
) -> Result<Option<Range<T>>> {
    let scale = norm_sq.sqrt().recip();
    if !scale.is_finite() {
        return Ok(None);
    }
    let single = a.mapv(|x| f32::narrow(x.widen() * scale));
    let relative = Keep {
        tail_sq: keep.tail_sq / norm_sq,
        ..keep
    };
    let Some(q) = krylov(single.view(), 1.0, relative)? else {
        return Ok(None);
    };
    drop(single);
    let range = project_exactly(q.mapv(|x| T::narrow(x.widen())).view(), a, norm_sq);
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

fn by_gram<T: Real>(a: ArrayView2<'_, T>, norm_sq: f64, keep: Keep) -> Result<Range<T>> {
    let (m, n) = a.dim();
    if m <= n {
        let (values, vectors) = eigh(gram_rows(a).view())?;
        let rank = pick_rank(&values.to_vec(), keep);
        let q = vectors.slice(s![.., ..rank]).to_owned();
        let b = project(q.view(), a);
        return Ok(Range {
            q: narrow(&q),
            b,
            tail_sq: tail_of(&values, rank, norm_sq),
        });
    }
    let (values, vectors) = eigh(gram_rows(a.t()).view())?;
    let rank = pick_rank(&values.to_vec(), keep);
    // a v spans the dominant left singular vectors; QR makes it orthonormal however small the last ones are.
    let y = project(vectors.slice(s![.., ..rank]), a.t());
    let (q, _) = qr(widen(y.view()).t());
    let b = project(q.view(), a);
    Ok(Range {
        q: narrow(&q),
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

/// Block Krylov with restarts: the space of `y, (a aᵀ) y, (a aᵀ)² y, ..` up to [`DEPTH`] blocks, of which the best block is
/// kept and the next ones go on from it, until what is still to be gained no longer counts; `None` when it stays open for
/// so many rounds that the Gram path is cheaper.
///
/// Data without a gap in its spectrum is the normal case here: the space never settles, but its captured energy does,
/// each round gaining a fairly steady share of the round before. That share says how much is left.
fn krylov<T: Real>(a: ArrayView2<'_, T>, norm_sq: f64, keep: Keep) -> Result<Option<Array2<T>>> {
    let (m, n) = a.dim();
    let block = keep.cap + OVERSAMPLING;
    let mut basis: Array2<T> = Array2::zeros((m, 0));
    let mut images: Array2<T> = Array2::zeros((0, n));
    let mut next = mm(a, gaussian::<T>(n, block).view());
    let (mut captured, mut gained) = (0.0, f64::INFINITY);
    for round in 0..MAX_ROUNDS {
        let last = loop {
            let q = orthonormal_against(basis.view(), next);
            let image = mm(q.t(), a);
            basis.append(Axis(1), q.view()).expect("equal rows");
            images.append(Axis(0), image.view()).expect("equal columns");
            if basis.ncols() + block > DEPTH * block {
                break image;
            }
            next = mm(a, image.t());
        };
        let (values, vectors) = eigh(gram_rows(images.view()).view())?;
        let cap = keep.cap.min(values.len());
        let now: f64 = values.iter().take(cap).sum();
        let tail = (norm_sq - now).max(f64::EPSILON * norm_sq);
        let gain = (now - captured).max(0.0);
        let share = (gain / gained).min(0.95);
        if round > 0 && gain * share / (1.0 - share) <= KRYLOV_TOLERANCE * tail {
            let mut squares = values.slice(s![..cap]).to_vec();
            squares.push((norm_sq - now).max(0.0));
            let keep = Keep { cap, ..keep };
            let rank = pick_rank(&squares, keep).min(cap);
            let q = mm(
                basis.view(),
                narrow(&vectors.slice(s![.., ..rank]).to_owned()).view(),
            );
            return Ok(Some(q));
        }
        (captured, gained) = (now, gain);
        next = orthonormal_against(basis.view(), mm(a, last.t()));
        let best = narrow::<T>(&vectors.slice(s![.., ..block.min(values.len())]).to_owned());
        basis = mm(basis.view(), best.view());
        images = mm(best.t(), images.view());
    }
    Ok(None)
}

/// The projection onto the columns of `q`, made orthonormal in `f64`, and the energy it leaves.
fn project_exactly<T: Real>(q: ArrayView2<'_, T>, a: ArrayView2<'_, T>, norm_sq: f64) -> Range<T> {
    let (q, _) = qr(widen(q).view());
    let b = project_wide(q.view(), a);
    let mut tail_sq = norm_sq - b.iter().map(|x| x * x).sum::<f64>();
    if tail_sq < CANCELLATION * norm_sq {
        tail_sq = residual_sq(q.view(), b.view(), a);
    }
    Range {
        q: narrow(&q),
        b: narrow(&b),
        tail_sq,
    }
}

/// `||a - q b||²`, strip by strip.
fn residual_sq<T: Real>(
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

/// Orthonormal columns spanning `y` minus its part in the orthonormal `basis`.
fn orthonormal_against<T: Real>(basis: ArrayView2<'_, T>, mut y: Array2<T>) -> Array2<T> {
    if basis.ncols() == 0 {
        return qr(y.view()).0;
    }
    for _ in 0..2 {
        let overlap = mm(basis.t(), y.view());
        y -= &mm(basis, overlap.view());
        y = qr(y.view()).0;
    }
    y
}

fn gaussian<T: Real>(rows: usize, cols: usize) -> Array2<T> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(0x7454_5356_4400_0001);
    Array2::from_shape_fn((rows, cols), |_| {
        let sum: f64 = (0..4).map(|_| rng.random::<f64>() - 0.5).sum();
        T::narrow(sum)
    })
}

fn widen<T: Real>(a: ArrayView2<'_, T>) -> Array2<f64> {
    a.mapv(Real::widen)
}

fn narrow<T: Real>(a: &Array2<f64>) -> Array2<T> {
    a.mapv(T::narrow)
}

/// Columns per strip when `f32` is widened on the way: the strip stays in the cache.
fn strip(rows: usize) -> usize {
    (1 << 16) / rows.clamp(1, 1 << 12)
}

/// `a aᵀ` in `f64`, the lower triangle. The strips and their order of summation are fixed by the shape alone.
pub(crate) fn gram_rows<T: Real>(a: ArrayView2<'_, T>) -> Array2<f64> {
    let (m, n) = a.dim();
    let parts = if m <= 256 { 8 } else { 1 };
    let per_part = n.div_ceil(parts).max(1);
    let sums: Vec<Array2<f64>> = (0..n.div_ceil(per_part))
        .into_par_iter()
        .map(|part| {
            let mut sum = Array2::zeros((m, m));
            let end = ((part + 1) * per_part).min(n);
            let width = if parts == 1 { 512 } else { strip(m) };
            for from in (part * per_part..end).step_by(width) {
                let to = (from + width).min(end);
                let chunk = widen(a.slice(s![.., from..to]));
                add_gram_lower(chunk.view(), sum.view_mut());
            }
            sum
        })
        .collect();
    let mut sums = sums.into_iter();
    let mut total = sums.next().unwrap_or_else(|| Array2::zeros((m, m)));
    for sum in sums {
        total += &sum;
    }
    total
}

/// `qᵀ a` in `f64`.
fn project_wide<T: Real>(q: ArrayView2<'_, f64>, a: ArrayView2<'_, T>) -> Array2<f64> {
    let (n, r) = (a.ncols(), q.ncols());
    let width = strip(a.nrows()).max(64);
    let strips: Vec<Array2<f64>> = (0..n.div_ceil(width))
        .into_par_iter()
        .map(|k| {
            mm(
                q.t(),
                widen(a.slice(s![.., k * width..((k + 1) * width).min(n)])).view(),
            )
        })
        .collect();
    let mut out = Array2::zeros((r, n));
    for (k, part) in strips.into_iter().enumerate() {
        out.slice_mut(s![.., k * width..k * width + part.ncols()])
            .assign(&part);
    }
    out
}

/// `qᵀ a`, accumulated in `T`; strip by strip, as the backend packs as much of `a` as it is given.
fn project<T: Real>(q: ArrayView2<'_, f64>, a: ArrayView2<'_, T>) -> Array2<T> {
    let q = q.mapv(T::narrow);
    let n = a.ncols();
    if n <= 2 * PROJECTED {
        return mm(q.t(), a);
    }
    let mut out = Array2::zeros((q.ncols(), n));
    for from in (0..n).step_by(PROJECTED) {
        let part = s![.., from..(from + PROJECTED).min(n)];
        out.slice_mut(part).assign(&mm(q.t(), a.slice(part)));
    }
    out
}
