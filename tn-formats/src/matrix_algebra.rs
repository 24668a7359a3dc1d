//! Algebra of matrix trains: what trains have, and products of matrices.

use ndarray::Array2;

use crate::error::{Error, Result};
use crate::linalg::mm;
use crate::matrix::{TtMatrix, TtMatrixCore};
use crate::modes::{Layout, MatrixModes};
use crate::plan::{ContractionOrder, ContractionPlan, left_flops, right_flops};
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore, left_product, right_product};
use crate::truncation::{Certificate, Truncation};

impl<T: Real> TtMatrix<T> {
    fn like(&self, train: TensorTrain<T>) -> Result<Self> {
        Self::from_train(train, self.modes().clone())
    }

    fn check_modes(&self, other: &Self) -> Result<()> {
        if self.modes() == other.modes() {
            return Ok(());
        }
        let flat = |modes: &MatrixModes| [modes.row_modes(), modes.col_modes()].concat();
        Err(Error::Shape {
            what: "second matrix train (modes or layout)",
            expected: flat(self.modes()),
            found: flat(other.modes()),
        })
    }

    /// The matrix with smaller ranks, see [`TensorTrain::round`].
    ///
    /// # Errors
    /// As [`TensorTrain::round`].
    pub fn round(&self, truncation: &Truncation) -> Result<(Self, Certificate)> {
        let (train, certificate) = self.to_train().round(truncation)?;
        Ok((self.like(train)?, certificate))
    }

    /// `A + B`; the ranks add up.
    ///
    /// # Errors
    /// [`Error::Shape`] when modes or layouts differ.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.check_modes(other)?;
        self.like(self.to_train().add(&other.to_train())?)
    }

    /// `factor A`; the first core carries it.
    #[must_use]
    pub fn scale(&self, factor: T) -> Self {
        self.like(self.to_train().scale(factor))
            .expect("the modes stay")
    }

    /// The elementwise (Hadamard) product; the ranks multiply.
    ///
    /// # Errors
    /// [`Error::Shape`] when modes or layouts differ.
    pub fn hadamard(&self, other: &Self) -> Result<Self> {
        self.check_modes(other)?;
        self.like(self.to_train().hadamard(&other.to_train())?)
    }

    /// `tr(A Bᵀ)`, the sum over all elements of their product, in `f64`.
    ///
    /// # Errors
    /// [`Error::Shape`] when modes or layouts differ.
    pub fn dot(&self, other: &Self) -> Result<f64> {
        self.check_modes(other)?;
        self.to_train().dot(&other.to_train())
    }

    /// The Frobenius norm, see [`TensorTrain::norm`].
    pub fn norm(&self) -> f64 {
        self.to_train().norm()
    }

    /// `||A - B||`, see [`TensorTrain::distance`].
    ///
    /// # Errors
    /// [`Error::Shape`] when modes or layouts differ.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        self.check_modes(other)?;
        self.to_train().distance(&other.to_train())
    }

    /// The same matrix with its orthogonality centre at a core, see [`TensorTrain::canonical`].
    ///
    /// # Errors
    /// [`Error::Parameter`] when there is no such core.
    pub fn canonical(&self, centre: usize) -> Result<Self> {
        self.like(self.to_train().canonical(centre)?)
    }

    /// `Wᵀ`: interleaved cores swap their modes, two split cores are read from the other end, more split cores change
    /// places ([`TensorTrain::permute`], ranks as they come).
    ///
    /// # Errors
    /// As [`TensorTrain::permute`].
    pub fn transpose(&self) -> Result<Self> {
        let modes = self.modes();
        let turned = MatrixModes::new(
            modes.layout(),
            modes.col_modes().to_vec(),
            modes.row_modes().to_vec(),
        )?;
        if modes.layout() == Layout::Split && modes.cores() > 2 {
            let (inputs, cores) = (modes.col_modes().len(), modes.cores());
            let order: Vec<usize> = (inputs..cores).chain(0..inputs).collect();
            let (train, _) = self.to_train().permute(&order, 0.0)?;
            return Self::from_train(train, turned);
        }
        let axes = match modes.layout() {
            Layout::Interleaved => [0, 2, 1, 3],
            Layout::Split => [3, 2, 1, 0],
        };
        let swap =
            |core: &TtMatrixCore<T>| TtMatrixCore::new(core.view().permuted_axes(axes).to_owned());
        let mut cores = self.cores().iter().map(swap).collect::<Result<Vec<_>>>()?;
        if modes.layout() == Layout::Split {
            cores.reverse();
        }
        Self::from_cores(turned, cores)
    }

    /// `A B` as a train: interleaved ranks multiply (see [`TtMatrix::round`]), the middle rank of a split product is the
    /// smaller of the two.
    ///
    /// # Shapes
    /// `self` is `[M, K]`, `other` `[K, N]` in the same layout, the modes of K equal; the result is `[M, N]`.
    ///
    /// # Numerics
    /// Accumulates in `T`, in the order of [`TtMatrix::plan_product`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the modes of K or the layouts differ.
    ///
    /// ```
    /// use ndarray::Array2;
    /// use tn_formats::{Layout, MatrixModes, Truncation, TtMatrix};
    /// let a = Array2::from_shape_fn((6, 8), |(i, j)| ((i * j) as f64).sin());
    /// let b = Array2::from_shape_fn((8, 10), |(i, j)| ((i + j) as f64).cos());
    /// let exact = Truncation::RelativeError(0.0);
    /// let modes = |rows: [usize; 2], cols: [usize; 2]| MatrixModes::new(Layout::Interleaved, rows.into(), cols.into());
    /// let (ta, _) = TtMatrix::decompose(a.view(), &modes([2, 3], [4, 2])?, &exact)?;
    /// let (tb, _) = TtMatrix::decompose(b.view(), &modes([4, 2], [5, 2])?, &exact)?;
    /// let product = ta.multiply(&tb)?;
    /// assert!((&product.to_dense() - &a.dot(&b)).iter().all(|d| d.abs() < 1e-12));
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn multiply(&self, other: &Self) -> Result<Self> {
        self.check_product(other)?;
        let modes = MatrixModes::new(
            self.layout(),
            self.row_modes().to_vec(),
            other.col_modes().to_vec(),
        )?;
        let cores = match self.layout() {
            Layout::Interleaved => {
                let pairs = self.cores().iter().zip(other.cores());
                pairs.map(|(a, b)| core_product(a, b)).collect()
            }
            Layout::Split => self.split_product(other),
        };
        Self::from_train(TensorTrain::from_cores(cores)?, modes)
    }

    /// What [`TtMatrix::multiply`] costs.
    ///
    /// # Errors
    /// As [`TtMatrix::multiply`].
    pub fn plan_product(&self, other: &Self) -> Result<ContractionPlan> {
        self.check_product(other)?;
        let (mut flops, mut peak) = (0, 0);
        if self.layout() == Layout::Interleaved {
            for (a, b) in self.cores().iter().zip(other.cores()) {
                let ([r, m, k, s], [q, _, n, t]) = (a.shape(), b.shape());
                flops += 2 * r * m * s * k * q * n * t;
                peak = peak.max(r * m * s * k + k * q * n * t + r * m * s * q * n * t);
            }
        } else {
            let (outputs, inputs) = (other.col_modes().len(), self.col_modes().len());
            let (q, r, inner) = (other.ranks()[outputs], self.ranks()[inputs], self.shape().1);
            let (first, second) = (&other.cores()[outputs..], &self.cores()[..inputs]);
            flops = right_flops(first) + left_flops(second);
            flops += 2 * q * r * inner;
            peak = inner * (q + r) + q * r;
        }
        Ok(ContractionPlan::new(ContractionOrder::Cores, flops, peak))
    }

    fn check_product(&self, other: &Self) -> Result<()> {
        if self.col_modes() != other.row_modes() || self.layout() != other.layout() {
            return Err(Error::Shape {
                what: "row modes of the right matrix train, or its layout",
                expected: self.col_modes().to_vec(),
                found: other.row_modes().to_vec(),
            });
        }
        Ok(())
    }

    /// Input cores of `other`, the two inner halves contracted into the smaller side, output cores of `self`.
    fn split_product(&self, other: &Self) -> Vec<TtCore<T>> {
        let parts = |m: &Self| -> Vec<TtCore<T>> {
            let cores = m.cores().iter();
            cores.map(|c| c.as_train_core().clone()).collect()
        };
        let (mut left, mut right) = (parts(other), parts(self));
        let inner_left = left.split_off(other.col_modes().len());
        let inner_right: Vec<_> = right.drain(..self.col_modes().len()).collect();
        let middle = mm(
            right_product(&inner_left).view(),
            left_product(&inner_right).view(),
        );
        let (q, r) = middle.dim();
        if q <= r {
            let first = &right[0];
            let (_, n, s) = first.view().dim();
            let product = mm(middle.view(), first.right_unfolding());
            right[0] = TtCore::from_unfolding(product, q, n, s);
        } else {
            let end = left.len() - 1;
            let (s, n, _) = left[end].view().dim();
            let product = mm(left[end].left_unfolding(), middle.view());
            left[end] = TtCore::from_unfolding(product, s, n, r);
        }
        left.into_iter().chain(right).collect()
    }
}

/// `sum_k A[r, m, k, s] B[q, k, n, t]` as a core `[r q, m n, s t]`.
fn core_product<T: Real>(a: &TtMatrixCore<T>, b: &TtMatrixCore<T>) -> TtCore<T> {
    let ([r, m, k, s], [q, _, n, t]) = (a.shape(), b.shape());
    let flat = |array: ndarray::Array4<T>, rows: usize, cols: usize| {
        array
            .into_shape_with_order((rows, cols))
            .expect("same number of elements")
    };
    let standard = |view: ndarray::ArrayView4<'_, T>| view.as_standard_layout().into_owned();
    let left = flat(standard(a.view().permuted_axes([0, 1, 3, 2])), r * m * s, k);
    let right = flat(standard(b.view().permuted_axes([1, 0, 2, 3])), k, q * n * t);
    let product: Array2<T> = mm(left.view(), right.view());
    let six = product
        .into_shape_with_order((r, m, s, q, n, t))
        .expect("same number of elements");
    let core = six.permuted_axes([0, 3, 1, 4, 2, 5]);
    let core = core.as_standard_layout().into_owned();
    let core = core
        .into_shape_with_order((r * q * m * n, s * t))
        .expect("same number of elements");
    TtCore::from_unfolding(core, r * q, m * n, s * t)
}
