//! Block Krylov for the dominant columns of a large matrix without a gap in its spectrum.

use ndarray::{Array2, ArrayView2, s};
use rand::{RngExt, SeedableRng};

use super::orthonormal::orthonormalized_share;
use super::strips::{gram_rows, narrow};
use super::{Keep, pick_rank};
use crate::error::Result;
use crate::linalg::{eigenvalues, eigh, mm};
use crate::scalar::Real;

/// Columns of a block at least: the kernels take fewer in the same time.
const NARROWEST: usize = 16;
/// The iteration stops when what it would still gain is less than this share of the tail: half of it in the error, which so is
/// at most about 1.00006 times that of the best subspace.
const TOLERANCE: f64 = 1.2e-4;
/// Blocks between two looks at the captured energy while the end is far.
const STRIDE: usize = 3;
/// Blocks of a Krylov space before it is restarted from the best of them.
const DEPTH: usize = 10;
/// Gains are taken to fall by this factor a block at least.
const SLOWEST: f64 = 0.983;
/// The same factor, to the power of [`STRIDE`] a half, before two gains tell it.
const UNKNOWN: f64 = 0.794;
/// One pass is enough for a block of whose columns at least this share of the squared norm is left. What each such block lacks in
/// orthogonality the next one multiplies, so that it holds for one space, up to the first restart.
const ENOUGH: f64 = 0.1;
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
/// each block gaining a fairly steady share of the one before. That share says how much is left and when to look again.
pub(super) fn krylov<T: Real>(
    a: ArrayView2<'_, T>,
    norm_sq: f64,
    keep: Keep,
) -> Result<Option<Array2<T>>> {
    let (m, n) = a.dim();
    let short = m.min(n);
    let block = keep.cap.max(NARROWEST).min((short / 4).max(1));
    // The space stays well below the whole one, so that there always is a next block.
    let depth = (3 * short / 4 / block).clamp(2, DEPTH);
    let mut basis = Rows::<T>::new(depth * block, m);
    let mut images = Rows::<T>::new(depth * block, n);
    let mut seed = Some(mm(a, gaussian::<T>(n, block).view()));
    let mut image = Array2::zeros((0, 0));
    let (mut captured, mut blocks) = (0.0, 1);
    let mut before = None;
    let mut enough = ENOUGH;
    // Whether the next look is likely to be the last one.
    let mut last = false;
    for look in 0..MAX_LOOKS {
        for _ in 0..blocks {
            let next = seed.take().unwrap_or_else(|| mm(a, image.t()));
            let q = orthonormal_against(basis.view().t(), next, enough);
            image = mm(q.t(), a);
            basis.push(q.t());
            images.push(image.view());
        }
        let gram = gram_rows(images.view());
        let full = basis.used == depth * block;
        let (values, mut vectors) = if full || last {
            let (values, vectors) = eigh(gram.view())?;
            (values, Some(vectors))
        } else {
            (eigenvalues(gram.view())?, None)
        };
        let cap = keep.cap.min(values.len());
        let now: f64 = values.iter().take(cap).sum();
        let tail = (norm_sq - now).max(f64::EPSILON * norm_sq);
        // The first gain is from nothing and says nothing of what follows.
        let (mut done, mut wait) = (false, STRIDE);
        if look > 0 {
            let gain = Gain {
                energy: (now - captured).max(0.0),
                blocks,
            };
            let falls = before.map_or(UNKNOWN, |before| fall(before, gain));
            let share = falls.powi(blocks as i32);
            let open = gain.energy * share / (1.0 - share);
            done = open <= TOLERANCE * tail;
            wait = ((TOLERANCE * tail / open).ln() / falls.ln()) as usize;
            before = Some(gain);
        }
        if done || full {
            let vectors = match vectors.take() {
                Some(vectors) => vectors,
                None => eigh(gram.view())?.1,
            };
            if done {
                let mut squares = values.slice(s![..cap]).to_vec();
                squares.push((norm_sq - now).max(0.0));
                let rank = pick_rank(&squares, Keep { cap, ..keep }).min(cap);
                let best = narrow::<T>(&vectors.slice(s![.., ..rank]).to_owned());
                return Ok(Some(mm(basis.view().t(), best.view())));
            }
            let next = mm(a, image.t());
            enough = f64::INFINITY;
            seed = Some(orthonormal_against(basis.view().t(), next, enough));
            let best = narrow::<T>(&vectors.slice(s![.., ..block]).to_owned());
            let kept = mm(best.t(), basis.view());
            basis.replace(kept.view());
            let kept = mm(best.t(), images.view());
            images.replace(kept.view());
        }
        captured = now;
        last = look > 0 && wait <= STRIDE;
        blocks = wait.clamp(1, STRIDE).min(depth - basis.used / block);
    }
    Ok(None)
}

/// What some blocks in a row captured.
#[derive(Clone, Copy)]
struct Gain {
    energy: f64,
    blocks: usize,
}

/// The factor from block to block by which two gains in a row fall, when it is the same throughout; by bisection.
fn fall(first: Gain, then: Gain) -> f64 {
    let sum = |x: f64, blocks: usize| (0..blocks).fold(0.0, |sum, _| sum * x + 1.0);
    let (mut low, mut high) = (0.0, SLOWEST);
    for _ in 0..40 {
        let x = 0.5 * (low + high);
        let expected = x.powi(first.blocks as i32) * sum(x, then.blocks) * first.energy;
        if expected < then.energy * sum(x, first.blocks) {
            low = x;
        } else {
            high = x;
        }
    }
    high
}

/// Orthonormal columns spanning `y` minus its part in the orthonormal `basis`: in two passes, or in one that leaves every column
/// more than the share `enough` of its squared norm.
fn orthonormal_against<T: Real>(
    basis: ArrayView2<'_, T>,
    mut y: Array2<T>,
    enough: f64,
) -> Array2<T> {
    for _ in 0..2 {
        let mut taken = vec![0.0; y.ncols()];
        if basis.ncols() > 0 {
            let overlap = mm(basis.t(), y.view());
            y -= &mm(basis, overlap.view());
            for row in overlap.rows() {
                for (taken, x) in taken.iter_mut().zip(row) {
                    *taken += x.widen() * x.widen();
                }
            }
        }
        let (q, share) = orthonormalized_share(y, &taken);
        y = q;
        if share > enough {
            break;
        }
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
