//! Trains whose modes change places: permutations, and with them interleaved and split layouts into each other, never through
//! the dense array.

use ndarray::Array2;

use crate::canonical::{first_columns, push_left, push_right, scale_rows};
use crate::error::{Error, Result};
use crate::linalg::{mm, qr, svd};
use crate::matrix::TtMatrix;
use crate::modes::{Layout, MatrixModes};
use crate::range::{Keep, pick_rank};
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};
use crate::truncation::Truncation;

/// Singular values below this share of the norm are round-off in `f64`.
const NOISE: f64 = 1e-14;

impl<T: Real> TensorTrain<T> {
    /// The train of the array with its axes permuted: mode k of the result is mode `order[k]` of this train.
    ///
    /// # Numerics
    /// In `f64`. Neighbouring cores change places one pair at a time, each pair split again by SVD next to the orthogonality
    /// centre; together the pairs discard at most `eps` of the norm. The second value bounds `||A - B|| / ||A||`: the sum of
    /// what was discarded. With `eps` 0 only round-off is; the ranks then are those that the permuted array has,
    /// which can be far above the train's own.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an order that is no permutation or an eps outside `[0, 1)`, [`Error::LinAlg`].
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{TensorTrain, Truncation};
    /// let a = Array::from_shape_fn((4, 5, 6), |(i, j, k)| (i + 2 * j) as f64 + (k as f64).sin()).into_dyn();
    /// let (train, _) = TensorTrain::decompose(a.view(), &Truncation::RelativeError(0.0))?;
    /// let (turned, bound) = train.permute(&[2, 0, 1], 0.0)?;
    /// let wanted = a.permuted_axes(vec![2, 0, 1]);
    /// assert_eq!(turned.modes(), [6, 4, 5]);
    /// assert!(bound < 1e-12 && (&turned.to_dense() - &wanted).iter().all(|d| d.abs() < 1e-12));
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn permute(&self, order: &[usize], eps: f64) -> Result<(Self, f64)> {
        let (train, bound) = permuted(self.cast(), order, eps, T::UNIT_ROUNDOFF)?;
        Ok((train.cast(), bound))
    }
}

/// [`TensorTrain::permute`] of a train that is exact up to `roundoff`.
fn permuted(
    train: TensorTrain<f64>,
    order: &[usize],
    eps: f64,
    roundoff: f64,
) -> Result<(TensorTrain<f64>, f64)> {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..train.order()) {
        return Err(Error::Parameter {
            what: "order of the modes",
            expected: "every mode once",
            found: format!("{order:?}"),
        });
    }
    let eps = Truncation::RelativeError(eps).epsilon()?;
    // Where each core is to go, by present place.
    let mut target = vec![0; order.len()];
    order
        .iter()
        .enumerate()
        .for_each(|(k, &from)| target[from] = k);
    let swaps = (0..target.len())
        .flat_map(|i| (0..i).map(move |j| (j, i)))
        .filter(|&(j, i)| target[j] > target[i])
        .count();
    let mut state = Centred::new(train.canonical(0)?);
    let share = (eps / swaps.max(1) as f64).max(roundoff.max(NOISE));
    let mut discarded = 0.0;
    // Insertion sort: every inversion is undone once.
    for i in 1..target.len() {
        let mut k = i;
        while k > 0 && target[k - 1] > target[k] {
            discarded += state.swap(k - 1, share)?;
            target.swap(k - 1, k);
            k -= 1;
        }
    }
    Ok((TensorTrain::from_parts(state.cores), discarded))
}

impl<T: Real> TtMatrix<T> {
    /// The same matrix in the other layout (or the same), with the same modes.
    ///
    /// # Numerics
    /// In `f64`, by [`TensorTrain::permute`]: the dense matrix is never made. Half of an error goes to the changes of place,
    /// the rest to rounding the result; ranks are met by rounding alone, so the permuted train's own ranks must be bearable.
    /// The second value bounds `||A - B|| / ||A||`.
    ///
    /// # Errors
    /// [`Error::Length`] when an interleaved layout would have unequal numbers of row and column modes, and the errors of
    /// [`TensorTrain::permute`] and [`TensorTrain::round`].
    ///
    /// ```
    /// use ndarray::Array2;
    /// use tn_formats::{Layout, MatrixModes, Truncation, TtMatrix};
    /// let w = Array2::from_shape_fn((12, 20), |(i, j)| 1.0 / (1 + i + j) as f64);
    /// let modes = MatrixModes::new(Layout::Interleaved, vec![3, 4], vec![4, 5])?;
    /// let (woven, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::RelativeError(1e-6))?;
    /// let (halves, bound) = woven.to_layout(Layout::Split, &Truncation::RelativeError(1e-6))?;
    /// assert_eq!(halves.layout(), Layout::Split);
    /// assert!(bound <= 1e-6 && (&halves.to_dense() - &w).iter().all(|d| d.abs() < 1e-5));
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn to_layout(&self, layout: Layout, truncation: &Truncation) -> Result<(Self, f64)> {
        let modes = MatrixModes::new(layout, self.row_modes().to_vec(), self.col_modes().to_vec())?;
        let eps = truncation.epsilon()?;
        let same = layout == self.layout();
        let (moved, spent) = if same {
            (self.to_train().cast::<f64>(), 0.0)
        } else {
            let (single, order) = self.single_modes()?;
            let (moved, spent) = permuted(single, &order, eps / 2.0, T::UNIT_ROUNDOFF)?;
            (group(moved, &modes), spent)
        };
        let rounding = match truncation {
            Truncation::RelativeError(_) => Truncation::RelativeError((eps - spent).max(0.0)),
            other => other.clone(),
        };
        let (train, certificate) = moved.cast::<T>().round(&rounding)?;
        let bound = spent + certificate.relative_error() * (1.0 + spent);
        Ok((Self::from_train(train, modes)?, bound))
    }

    /// The train with one mode per core, and the order that makes it the other layout's.
    fn single_modes(&self) -> Result<(TensorTrain<f64>, Vec<usize>)> {
        let train = self.to_train().cast::<f64>();
        let d = self.row_modes().len();
        if self.layout() == Layout::Split {
            // n_1 .. n_d, m_1 .. m_d to m_1, n_1, m_2, ..
            let n = self.col_modes().len();
            return Ok((train, (0..n).flat_map(|k| [n + k, k]).collect()));
        }
        let mut cores = Vec::with_capacity(2 * d);
        for (core, (m, n)) in train
            .into_cores()
            .into_iter()
            .zip(self.modes().core_modes())
        {
            let (r, _, s) = core.view().dim();
            let wide = reshape(core.left_unfolding().to_owned(), r * m, n * s);
            let (left, right) = if r * m <= n * s {
                (Array2::eye(r * m), wide)
            } else {
                qr(wide.view())
            };
            let rank = left.ncols();
            cores.push(TtCore::from_unfolding(left, r, m, rank));
            cores.push(TtCore::from_unfolding(right, rank, n, s));
        }
        let order = (0..d).map(|k| 2 * k + 1).chain((0..d).map(|k| 2 * k));
        Ok((TensorTrain::from_parts(cores), order.collect()))
    }
}

/// Merges `m_k` and `n_k` of a train of single modes where the layout has them in one core.
fn group(train: TensorTrain<f64>, modes: &MatrixModes) -> TensorTrain<f64> {
    if modes.layout() == Layout::Split {
        return train;
    }
    let cores = train.cores().chunks(2).map(|pair| {
        let (r, m, _) = pair[0].view().dim();
        let (_, n, s) = pair[1].view().dim();
        let product = mm(pair[0].left_unfolding(), pair[1].right_unfolding());
        TtCore::from_unfolding(product, r, m * n, s)
    });
    TensorTrain::from_parts(cores.collect())
}

/// Cores with their orthogonality centre.
struct Centred {
    cores: Vec<TtCore<f64>>,
    centre: usize,
    norm_sq: f64,
}

impl Centred {
    /// `train` has its centre at core 0.
    fn new(train: TensorTrain<f64>) -> Self {
        let cores = train.into_cores();
        let norm_sq = cores[0].as_slice().iter().map(|x| x * x).sum();
        Self {
            cores,
            centre: 0,
            norm_sq,
        }
    }

    /// Cores k and k + 1 change places; what that discards, relative to the norm, is at most `eps`.
    fn swap(&mut self, k: usize, eps: f64) -> Result<f64> {
        while self.centre < k {
            push_right(&mut self.cores, self.centre);
            self.centre += 1;
        }
        while self.centre > k + 1 {
            push_left(&mut self.cores, self.centre);
            self.centre -= 1;
        }
        let (r, a, _) = self.cores[k].view().dim();
        let (_, b, s) = self.cores[k + 1].view().dim();
        let pair = mm(
            self.cores[k].left_unfolding(),
            self.cores[k + 1].right_unfolding(),
        );
        let four = pair
            .into_shape_with_order((r, a, b, s))
            .expect("same number of elements");
        let turned = four.permuted_axes([0, 2, 1, 3]);
        let turned = turned.as_standard_layout().into_owned();
        let turned = turned
            .into_shape_with_order((r * b, a * s))
            .expect("same number of elements");
        let (u, sigma, vt) = svd(turned.view())?;
        let squares: Vec<f64> = sigma.iter().map(|x| x * x).collect();
        let tail_sq = eps * eps * self.norm_sq;
        let cap = usize::MAX;
        let rank = pick_rank(&squares, Keep { cap, tail_sq });
        let tail: f64 = squares[rank..].iter().rev().sum();
        let kept = scale_rows(vt, &sigma);
        let kept = kept.slice(ndarray::s![..rank, ..]).to_owned();
        self.cores[k] = TtCore::from_unfolding(first_columns(&u, rank), r, b, rank);
        self.cores[k + 1] = TtCore::from_unfolding(kept, rank, a, s);
        self.centre = k + 1;
        Ok(if self.norm_sq > 0.0 {
            (tail / self.norm_sq).sqrt()
        } else {
            0.0
        })
    }
}

fn reshape(m: Array2<f64>, rows: usize, cols: usize) -> Array2<f64> {
    m.into_shape_with_order((rows, cols))
        .expect("same number of elements")
}
