//! Tensor trains that are matrices.

use ndarray::{Array1, Array2, Array4, ArrayView1, ArrayView2, ArrayView4, Axis};

use crate::decompose::tt_svd;
use crate::error::{Error, Result};
use crate::linalg::mm;
use crate::modes::{Layout, MatrixModes};
use crate::plan::ContractionOrder;
use crate::reorder::{fold, unfold};
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore, left_product, right_product};
use crate::truncation::{Certificate, Truncation};

/// One core of a matrix train, `[r, m, n, r']`, row-major; m = 1 or n = 1 in a split layout.
#[derive(Debug, Clone, PartialEq)]
pub struct TtMatrixCore<T = f32> {
    core: TtCore<T>,
    modes: (usize, usize),
}

impl<T: Real> TtMatrixCore<T> {
    /// A core from an array `[r, m, n, r']`; an array in another memory order is copied to row-major.
    ///
    /// # Errors
    /// [`Error::Empty`] when an axis has length 0.
    pub fn new(data: Array4<T>) -> Result<Self> {
        let (r, m, n, s) = data.dim();
        let data = if data.is_standard_layout() {
            data
        } else {
            data.as_standard_layout().into_owned()
        };
        let core = TtCore::new(
            data.into_shape_with_order((r, m * n, s))
                .expect("same number of elements"),
        )?;
        Ok(Self {
            core,
            modes: (m, n),
        })
    }

    /// Row mode m.
    pub fn row_mode(&self) -> usize {
        self.modes.0
    }

    /// Column mode n.
    pub fn col_mode(&self) -> usize {
        self.modes.1
    }

    /// Rank to the left, r.
    pub fn left_rank(&self) -> usize {
        self.core.left_rank()
    }

    /// Rank to the right, r'.
    pub fn right_rank(&self) -> usize {
        self.core.right_rank()
    }

    /// `[r, m, n, r']`.
    pub fn shape(&self) -> [usize; 4] {
        [
            self.left_rank(),
            self.modes.0,
            self.modes.1,
            self.right_rank(),
        ]
    }

    /// The elements, `[r, m, n, r']`.
    pub fn view(&self) -> ArrayView4<'_, T> {
        ArrayView4::from_shape(self.shape(), self.as_slice()).expect("same number of elements")
    }

    /// The elements, row-major.
    pub fn as_slice(&self) -> &[T] {
        self.core.as_slice()
    }

    /// The same elements as a train's core `[r, m n, r']`.
    pub fn as_train_core(&self) -> &TtCore<T> {
        &self.core
    }
}

/// A matrix `W` `[M, N]`, out by in, as a train; `y = W x`.
///
/// ```
/// use ndarray::{Array, Array2};
/// use tn_formats::{Layout, MatrixModes, TtMatrix, Truncation};
/// let w: Array2<f32> = Array::from_shape_fn((12, 10), |(i, j)| ((i * j) as f32 * 0.1).sin());
/// let modes = MatrixModes::new(Layout::Interleaved, vec![3, 4], vec![2, 5])?;
/// let (tt, certificate) = TtMatrix::decompose(w.view(), &modes, &Truncation::RelativeError(1e-3))?;
/// assert!(certificate.relative_error() < 1e-3);
/// let x = Array::linspace(-1.0f32, 1.0, 10);
/// let (y, exact) = (tt.matvec(x.view())?, w.dot(&x));
/// assert!((&y - &exact).iter().all(|d| d.abs() < 1e-2));
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TtMatrix<T = f32> {
    modes: MatrixModes,
    cores: Vec<TtMatrixCore<T>>,
}

impl<T: Real> TtMatrix<T> {
    /// A matrix train from its cores.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Shape`] when the cores do not fit the modes, and the errors of
    /// [`TensorTrain::from_cores`].
    pub fn from_cores(modes: MatrixModes, cores: Vec<TtMatrixCore<T>>) -> Result<Self> {
        check_core_modes(&modes, cores.iter().map(TtMatrixCore::shape))?;
        Ok(Self { modes, cores })
    }

    /// TT-SVD of a dense matrix.
    ///
    /// # Shapes
    /// `w` is `[M, N]` with M and N the products of `modes`.
    ///
    /// # Numerics
    /// As [`TensorTrain::decompose`]. Besides the matrix, at most one reordered copy and one unfolding are alive.
    ///
    /// # Errors
    /// [`Error::ModeProduct`] when the modes do not fit, and the errors of [`TensorTrain::decompose`].
    pub fn decompose(
        w: ArrayView2<'_, T>,
        modes: &MatrixModes,
        truncation: &Truncation,
    ) -> Result<(Self, Certificate)> {
        modes.check(w.nrows(), w.ncols())?;
        let merged: Vec<usize> = modes.core_modes().iter().map(|(m, n)| m * n).collect();
        let (train, certificate) = tt_svd(unfold(w, modes), &merged, truncation)?;
        Ok((Self::from_train(train, modes.clone())?, certificate))
    }

    /// A matrix train from a train whose mode k is `m_k n_k`, row mode first.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Shape`] when they do not fit.
    pub fn from_train(train: TensorTrain<T>, modes: MatrixModes) -> Result<Self> {
        let pairs = modes.core_modes();
        if pairs.len() != train.order() {
            return Err(Error::Length {
                what: "cores of a matrix train",
                expected: pairs.len(),
                found: train.order(),
            });
        }
        let cores = train
            .into_cores()
            .into_iter()
            .zip(pairs)
            .map(|(core, modes)| TtMatrixCore { core, modes })
            .collect();
        Self::from_cores(modes, cores)
    }

    /// The same cores as a train whose mode k is `m_k n_k`.
    pub fn into_train(self) -> TensorTrain<T> {
        TensorTrain::from_parts(self.cores.into_iter().map(|c| c.core).collect())
    }

    /// A copy of the cores as a train whose mode k is `m_k n_k`.
    pub fn to_train(&self) -> TensorTrain<T> {
        self.clone().into_train()
    }

    /// `(M, N)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.modes.rows(), self.modes.cols())
    }

    /// Modes and layout.
    pub fn modes(&self) -> &MatrixModes {
        &self.modes
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.modes.layout()
    }

    /// Row (output) modes.
    pub fn row_modes(&self) -> &[usize] {
        self.modes.row_modes()
    }

    /// Column (input) modes.
    pub fn col_modes(&self) -> &[usize] {
        self.modes.col_modes()
    }

    /// Number of cores.
    pub fn order(&self) -> usize {
        self.cores.len()
    }

    /// Ranks, one more than cores; first and last are 1.
    pub fn ranks(&self) -> Vec<usize> {
        std::iter::once(1)
            .chain(self.cores.iter().map(TtMatrixCore::right_rank))
            .collect()
    }

    /// The cores from left to right.
    pub fn cores(&self) -> &[TtMatrixCore<T>] {
        &self.cores
    }

    /// Number of elements in all cores.
    pub fn parameters(&self) -> usize {
        self.cores.iter().map(|c| c.as_slice().len()).sum()
    }

    /// The dense matrix `[M, N]`.
    ///
    /// # Numerics
    /// Accumulates in `T`.
    pub fn to_dense(&self) -> Array2<T> {
        let dense = self.to_train().to_dense();
        let len = dense.len();
        fold(
            dense
                .into_shape_with_order((1, len))
                .expect("same number of elements"),
            &self.modes,
        )
    }

    /// `y = W x`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` has not N elements.
    pub fn matvec(&self, x: ArrayView1<'_, T>) -> Result<Array1<T>> {
        let batch = self.matmul(x.insert_axis(Axis(0)))?;
        Ok(batch.index_axis_move(Axis(0), 0))
    }

    /// `Y = X Wᵀ`: every row of `x` through the matrix.
    ///
    /// # Shapes
    /// `x` is `[batch, N]`, the result `[batch, M]`.
    ///
    /// # Numerics
    /// Accumulates in `T`, in the order of [`TtMatrix::plan`].
    ///
    /// # Errors
    /// [`Error::Shape`] when a row has not N elements.
    pub fn matmul(&self, x: ArrayView2<'_, T>) -> Result<Array2<T>> {
        let (batch, found) = x.dim();
        let (_, cols) = self.shape();
        if found != cols {
            return Err(Error::Shape {
                what: "input of a matrix train",
                expected: vec![batch, cols],
                found: vec![batch, found],
            });
        }
        if self.plan(batch).order() == ContractionOrder::Dense {
            return Ok(mm(x, self.to_dense().t()));
        }
        Ok(match self.layout() {
            Layout::Split => self.matmul_split(x),
            Layout::Interleaved => self.matmul_interleaved(x),
        })
    }

    fn matmul_split(&self, x: ArrayView2<'_, T>) -> Array2<T> {
        let inputs = self.modes.col_modes().len();
        let cores: Vec<TtCore<T>> = self.cores.iter().map(|c| c.core.clone()).collect();
        let hidden = mm(x, left_product(&cores[..inputs]).view());
        mm(hidden.view(), right_product(&cores[inputs..]).view())
    }

    /// Keeps the state as `[n_k, .., n_d, batch, m_1, .., m_k-1, r]`, so that each core is one product on the right of a
    /// transposed view.
    fn matmul_interleaved(&self, x: ArrayView2<'_, T>) -> Array2<T> {
        let batch = x.nrows();
        // [N, batch] = [n_1, rest, r = 1]
        let mut state = x
            .t()
            .as_standard_layout()
            .into_owned()
            .into_shape_with_order((self.shape().1 * batch, 1))
            .expect("same number of elements");
        for core in &self.cores {
            let [r, m, n, s] = core.shape();
            let rest = state.len() / (n * r);
            // (n, rest, r) -> (rest, r, n)
            let lhs = state
                .into_shape_with_order((n, rest, r))
                .expect("same number of elements");
            let lhs = lhs
                .permuted_axes([1, 2, 0])
                .as_standard_layout()
                .into_owned();
            let lhs = lhs
                .into_shape_with_order((rest, r * n))
                .expect("same number of elements");
            // (r, m, n, s) -> (r, n, m, s)
            let rhs = core
                .view()
                .permuted_axes([0, 2, 1, 3])
                .as_standard_layout()
                .into_owned();
            let rhs = rhs
                .into_shape_with_order((r * n, m * s))
                .expect("same number of elements");
            state = mm(lhs.view(), rhs.view());
            let len = state.len();
            state = state
                .into_shape_with_order((len / s, s))
                .expect("same number of elements");
        }
        state
            .into_shape_with_order((batch, self.shape().0))
            .expect("same number of elements")
    }

    /// The same matrix with elements of another type, each rounded to the nearest.
    pub fn cast<U: Real>(&self) -> TtMatrix<U> {
        let cores = self
            .to_train()
            .cast()
            .into_cores()
            .into_iter()
            .zip(&self.cores);
        TtMatrix {
            modes: self.modes.clone(),
            cores: cores
                .map(|(core, c)| TtMatrixCore {
                    core,
                    modes: c.modes,
                })
                .collect(),
        }
    }
}

/// Checks core shapes `[r, m, n, r']` against the modes of a matrix and against each other.
pub(crate) fn check_core_modes(
    modes: &MatrixModes,
    shapes: impl Iterator<Item = [usize; 4]>,
) -> Result<()> {
    let shapes: Vec<_> = shapes.collect();
    let pairs = modes.core_modes();
    if pairs.len() != shapes.len() {
        return Err(Error::Length {
            what: "cores of a matrix train",
            expected: pairs.len(),
            found: shapes.len(),
        });
    }
    for (&[r, m, n, s], &(mk, nk)) in shapes.iter().zip(&pairs) {
        if (m, n) != (mk, nk) {
            return Err(Error::Shape {
                what: "core of a matrix train",
                expected: vec![r, mk, nk, s],
                found: vec![r, m, n, s],
            });
        }
    }
    crate::train::check_chain(shapes.iter().map(|&[r, m, n, s]| (r, m * n, s)))
}
