//! Block Krylov for the dominant columns of a large matrix without a gap in its spectrum.

use ndarray::{Array2, ArrayView2, s};
use rand::{RngExt, SeedableRng};

use super::orthonormal::orthonormalized;
use super::strips::{gram_rows, narrow};
use super::{Keep, pick_rank};
use crate::error::Result;
use crate::linalg::{eigh, mm};
use crate::scalar::Real;

/// Columns of a block at least: the kernels take fewer in the same time.
const NARROWEST: usize = 16;
/// The iteration stops when what it would still gain is less than this share of the tail: half of it in the error, which so is
/// at most about 1.00006 times that of the best subspace.
const TOLERANCE: f64 = 1.2e-4;
/// Blocks between two looks at the captured energy; a look costs about as much as three blocks.
const STRIDE: usize = 3;
/// Blocks of a Krylov space before it is restarted from the best of them: a multiple of [`STRIDE`], and one.
const DEPTH: usize = 10;
/// Looks before Krylov gives up.
const MAX_LOOKS: usize = 24;

/// Rows that grow in memory taken once.
struct Rows<T> {
    data: Array2<T>,
    used: usize,
}

impl<T: Real> Rows<T> {
    fn new(rows: usize, cols: usize) -> Self {
        let data = Array2::zeros((rows, cols));
        Self { data, used: 0 }
    }

    fn push(&mut self, rows: ArrayView2<'_, T>) {
        let to = self.used + rows.nrows();
        self.data.slice_mut(s![self.used..to, ..]).assign(&rows);
        self.used = to;
    }

    fn view(&self) -> ArrayView2<'_, T> {
        self.data.slice(s![..self.used, ..])
    }

    fn replace(&mut self, rows: ArrayView2<'_, T>) {
        self.used = 0;
        self.push(rows);
    }
}

/// The space of `y, (a aᵀ) y, (a aᵀ)² y, ..`, `y` a random block of `a`'s columns, up to [`DEPTH`] blocks, of which the best
/// block is kept and the next ones go on from it, until what is still to be gained no longer counts; `None` when it stays
/// open for so long that the Gram path is cheaper.
///
/// Data without a gap in its spectrum is the normal case here: the space never settles, but its captured energy does,
/// each [`STRIDE`] of blocks gaining a fairly steady share of the ones before. That share says how much is left.
pub(super) fn krylov<T: Real>(
    a: ArrayView2<'_, T>,
    norm_sq: f64,
    keep: Keep,
) -> Result<Option<Array2<T>>> {
    let (m, n) = a.dim();
    let short = m.min(n);
    let block = keep.cap.max(NARROWEST).min((short / 4).max(1));
    // The space stays well below the whole one, so that there always is a next block.
    let room = (3 * short / 4 / block).clamp(2, DEPTH);
    let stride = STRIDE.min(room - 1);
    let depth = 1 + (room - 1) / stride * stride;
    let mut basis = Rows::<T>::new(depth * block, m);
    let mut images = Rows::<T>::new(depth * block, n);
    let mut seed = Some(mm(a, gaussian::<T>(n, block).view()));
    let mut image = Array2::zeros((0, 0));
    let (mut captured, mut gained) = (0.0, f64::INFINITY);
    for look in 0..MAX_LOOKS {
        let blocks = if look == 0 { 1 } else { stride };
        for _ in 0..blocks {
            let next = seed.take().unwrap_or_else(|| mm(a, image.t()));
            let q = orthonormal_against(basis.view().t(), next);
            image = mm(q.t(), a);
            basis.push(q.t());
            images.push(image.view());
        }
        let (values, vectors) = eigh(gram_rows(images.view()).view())?;
        let cap = keep.cap.min(values.len());
        let now: f64 = values.iter().take(cap).sum();
        let tail = (norm_sq - now).max(f64::EPSILON * norm_sq);
        let gain = (now - captured).max(0.0);
        // The first gain is from nothing and says nothing of what follows.
        let share = if look > 1 {
            (gain / gained).min(0.95)
        } else {
            0.5
        };
        if look > 0 && gain * share / (1.0 - share) <= TOLERANCE * tail {
            let mut squares = values.slice(s![..cap]).to_vec();
            squares.push((norm_sq - now).max(0.0));
            let rank = pick_rank(&squares, Keep { cap, ..keep }).min(cap);
            let best = narrow::<T>(&vectors.slice(s![.., ..rank]).to_owned());
            return Ok(Some(mm(basis.view().t(), best.view())));
        }
        (captured, gained) = (now, gain);
        if basis.used == depth * block {
            let next = mm(a, image.t());
            seed = Some(orthonormal_against(basis.view().t(), next));
            let best = narrow::<T>(&vectors.slice(s![.., ..block]).to_owned());
            let kept = mm(best.t(), basis.view());
            basis.replace(kept.view());
            let kept = mm(best.t(), images.view());
            images.replace(kept.view());
        }
    }
    Ok(None)
}

/// Orthonormal columns spanning `y` minus its part in the orthonormal `basis`.
fn orthonormal_against<T: Real>(basis: ArrayView2<'_, T>, mut y: Array2<T>) -> Array2<T> {
    for _ in 0..2 {
        if basis.ncols() > 0 {
            let overlap = mm(basis.t(), y.view());
            y -= &mm(basis, overlap.view());
        }
        y = orthonormalized(y);
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
