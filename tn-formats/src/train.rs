//! Tensor trains.

use ndarray::{Array2, Array3, ArrayD, ArrayView2, ArrayView3, ArrayViewD, IxDyn};

use crate::decompose::tt_svd;
use crate::error::{Error, Result, checked_product};
use crate::linalg::mm;
use crate::reorder::Unfolding;
use crate::scalar::Real;
use crate::truncation::{Certificate, Truncation};

/// One core of a tensor train, `[r, n, r']`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct TtCore<T = f32> {
    data: Array3<T>,
}

impl<T: Real> TtCore<T> {
    /// A core from an array `[r, n, r']`; an array in another memory order is copied to row-major.
    ///
    /// # Errors
    /// [`Error::Empty`] when an axis has length 0.
    pub fn new(data: Array3<T>) -> Result<Self> {
        if data.is_empty() {
            return Err(Error::Empty {
                what: "core of a train",
            });
        }
        let data = if data.is_standard_layout() {
            data
        } else {
            data.as_standard_layout().into_owned()
        };
        Ok(Self { data })
    }

    /// Rank to the left, r.
    pub fn left_rank(&self) -> usize {
        self.data.dim().0
    }

    /// Mode size, n.
    pub fn mode(&self) -> usize {
        self.data.dim().1
    }

    /// Rank to the right, r'.
    pub fn right_rank(&self) -> usize {
        self.data.dim().2
    }

    /// The elements, `[r, n, r']`.
    pub fn view(&self) -> ArrayView3<'_, T> {
        self.data.view()
    }

    /// The elements, row-major.
    pub fn as_slice(&self) -> &[T] {
        self.data.as_slice().expect("a core is row-major")
    }

    /// The left unfolding `(r n) x r'`, without a copy.
    pub fn left_unfolding(&self) -> ArrayView2<'_, T> {
        let (r, n, s) = self.data.dim();
        ArrayView2::from_shape((r * n, s), self.as_slice()).expect("same number of elements")
    }

    /// The right unfolding `r x (n r')`, without a copy.
    pub fn right_unfolding(&self) -> ArrayView2<'_, T> {
        let (r, n, s) = self.data.dim();
        ArrayView2::from_shape((r, n * s), self.as_slice()).expect("same number of elements")
    }

    /// The array itself.
    pub fn into_array(self) -> Array3<T> {
        self.data
    }

    /// A core from its left or right unfolding, of which only the number of elements counts.
    pub(crate) fn from_unfolding(m: Array2<T>, r: usize, n: usize, s: usize) -> Self {
        let m = if m.is_standard_layout() {
            m
        } else {
            m.as_standard_layout().into_owned()
        };
        Self {
            data: m
                .into_shape_with_order((r, n, s))
                .expect("same number of elements"),
        }
    }
}

/// A tensor train: `A[i_1, .., i_d] = G_1[:, i_1, :] G_2[:, i_2, :] .. G_d[:, i_d, :]`.
///
/// ```
/// use ndarray::Array;
/// use tn_formats::{TensorTrain, Truncation};
/// let a = Array::from_shape_fn((4, 5, 6), |(i, j, k)| (i + 2 * j) as f64 + (k as f64).sin()).into_dyn();
/// let (train, certificate) = TensorTrain::decompose(a.view(), &Truncation::RelativeError(1e-9))?;
/// assert_eq!(train.ranks(), [1, 2, 2, 1]);
/// assert!(certificate.relative_error() <= 1e-9);
/// assert!((&train.to_dense() - &a).iter().all(|d| d.abs() < 1e-8));
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TensorTrain<T = f32> {
    cores: Vec<TtCore<T>>,
}

impl<T: Real> TensorTrain<T> {
    /// A train from its cores.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::RankMismatch`], [`Error::OuterRank`], [`Error::TooLarge`].
    pub fn from_cores(cores: Vec<TtCore<T>>) -> Result<Self> {
        check_chain(
            cores
                .iter()
                .map(|c| (c.left_rank(), c.mode(), c.right_rank())),
        )?;
        Ok(Self { cores })
    }

    /// TT-SVD of a dense array.
    ///
    /// # Shapes
    /// `a` is `[n_1, .., n_d]`, d at least 1; core k becomes `[r_k, n_k, r_k+1]`.
    ///
    /// # Numerics
    /// Gram matrices, eigenvalues and the certificate are computed in `f64`. Truncation errors of successive bonds are
    /// orthogonal, so the certificate is the error itself and not a bound; what one bond leaves of the error budget is
    /// carried to the next. Storing the cores in `T` adds a relative error of about the unit round-off, which
    /// [`Truncation::RelativeError`] allows for. All cores but the last are left-orthogonal. Under a cap of ranks a bond's space
    /// may be found in `f32` and by an iteration that stops when what it could still gain is about 6e-5 of the bond's error;
    /// the certificate counts what it left. A large `f64` matrix that loses more than a fifth of its norm to such a cap
    /// ([`TtMatrix::decompose`](crate::TtMatrix::decompose)) is multiplied in `f32`: all cores but the last are orthogonal to the
    /// round-off of `f64`, the last one has that of `f32`, which adds less than 1e-10 of itself to the error.
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::NotFinite`] for a NaN, an infinity or a norm beyond the largest number; [`Error::Parameter`] and
    /// [`Error::Length`] for a truncation that does not fit.
    ///
    /// # Source
    /// Oseledets 2011, SIAM J. Sci. Comput. 33(5), algorithm 1; Röhrig-Zöllner et al. 2022, arXiv 2102.00104.
    pub fn decompose(a: ArrayViewD<'_, T>, truncation: &Truncation) -> Result<(Self, Certificate)> {
        let modes = a.shape().to_vec();
        let total = checked_product(&modes)?;
        if total == 0 || modes.is_empty() {
            return Err(Error::Empty {
                what: "array to decompose",
            });
        }
        let unfolding = a
            .to_shape((modes[0], total / modes[0]))
            .map_err(|_| Error::TooLarge {
                shape: modes.clone(),
            })?;
        tt_svd(Unfolding::Plain(unfolding), &modes, truncation)
    }

    /// Number of cores, d.
    pub fn order(&self) -> usize {
        self.cores.len()
    }

    /// Mode sizes, d of them.
    pub fn modes(&self) -> Vec<usize> {
        self.cores.iter().map(TtCore::mode).collect()
    }

    /// Ranks, d + 1 of them; first and last are 1.
    pub fn ranks(&self) -> Vec<usize> {
        std::iter::once(1)
            .chain(self.cores.iter().map(TtCore::right_rank))
            .collect()
    }

    /// The cores from left to right.
    pub fn cores(&self) -> &[TtCore<T>] {
        &self.cores
    }

    /// The cores, given away.
    pub fn into_cores(self) -> Vec<TtCore<T>> {
        self.cores
    }

    /// Number of elements in all cores.
    pub fn parameters(&self) -> usize {
        self.cores.iter().map(|c| c.data.len()).sum()
    }

    /// The dense array `[n_1, .., n_d]`.
    ///
    /// # Numerics
    /// Accumulates in `T`, from the cheaper end of the train.
    pub fn to_dense(&self) -> ArrayD<T> {
        let flat = chain_product(&self.cores);
        flat.into_shape_with_order(IxDyn(&self.modes()))
            .expect("same number of elements")
    }

    /// The same train with elements of another type, each rounded to the nearest.
    pub fn cast<U: Real>(&self) -> TensorTrain<U> {
        let cores = self
            .cores
            .iter()
            .map(|c| TtCore {
                data: c.data.mapv(|x| U::narrow(x.widen())),
            })
            .collect();
        TensorTrain { cores }
    }

    /// Trusted constructor for algorithms that keep the chain by construction.
    pub(crate) fn from_parts(cores: Vec<TtCore<T>>) -> Self {
        debug_assert!(
            check_chain(
                cores
                    .iter()
                    .map(|c| (c.left_rank(), c.mode(), c.right_rank()))
            )
            .is_ok()
        );
        Self { cores }
    }
}

/// Checks that `(r, n, r')` triples form a train.
pub(crate) fn check_chain(shapes: impl Iterator<Item = (usize, usize, usize)>) -> Result<()> {
    let shapes: Vec<_> = shapes.collect();
    let (Some(&(first, ..)), Some(&(_, _, last))) = (shapes.first(), shapes.last()) else {
        return Err(Error::Empty { what: "train" });
    };
    if first != 1 || last != 1 {
        return Err(Error::OuterRank { first, last });
    }
    for (core, pair) in shapes.windows(2).enumerate() {
        if pair[0].2 != pair[1].0 {
            return Err(Error::RankMismatch {
                core,
                left: pair[0].2,
                right: pair[1].0,
            });
        }
    }
    checked_product(&shapes.iter().map(|s| s.1).collect::<Vec<_>>()).map(drop)
}

/// The product of all cores as one row of `n_1 .. n_d` elements, halves multiplied last.
fn chain_product<T: Real>(cores: &[TtCore<T>]) -> Array2<T> {
    let half = cores.len().div_ceil(2);
    let total: usize = cores.iter().map(TtCore::mode).product();
    let left = left_product(&cores[..half]);
    let product = if half == cores.len() {
        left
    } else {
        mm(left.view(), right_product(&cores[half..]).view())
    };
    product
        .into_shape_with_order((1, total))
        .expect("same number of elements")
}

/// Product of some neighbouring cores as `(r n_1 .. n_k) x r'`.
pub(crate) fn left_product<T: Real>(cores: &[TtCore<T>]) -> Array2<T> {
    let mut acc = cores[0].left_unfolding().to_owned();
    for core in &cores[1..] {
        let product = mm(acc.view(), core.right_unfolding());
        let rows = product.len() / core.right_rank();
        acc = product
            .into_shape_with_order((rows, core.right_rank()))
            .expect("same number of elements");
    }
    acc
}

/// Product of some neighbouring cores as `r x (n_1 .. n_k r')`.
pub(crate) fn right_product<T: Real>(cores: &[TtCore<T>]) -> Array2<T> {
    let last = cores.len() - 1;
    let mut acc = cores[last].right_unfolding().to_owned();
    for core in cores[..last].iter().rev() {
        let product = mm(core.left_unfolding(), acc.view());
        let cols = product.len() / core.left_rank();
        acc = product
            .into_shape_with_order((core.left_rank(), cols))
            .expect("same number of elements");
    }
    acc
}
