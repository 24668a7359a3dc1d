//! Sums, products and norms of trains, never through the dense array.

use ndarray::{Array2, Array3, ArrayView1, Axis, s};

use crate::error::{Error, Result};
use crate::linalg::mm;
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};

impl<T: Real> TensorTrain<T> {
    fn check_modes(&self, other: &Self) -> Result<()> {
        if self.modes() == other.modes() {
            Ok(())
        } else {
            Err(Error::Shape {
                what: "second train",
                expected: self.modes(),
                found: other.modes(),
            })
        }
    }

    /// `A + B`; the ranks add up.
    ///
    /// # Errors
    /// [`Error::Shape`] when the modes differ.
    ///
    /// # Source
    /// Oseledets 2011, section 4.1.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.check_modes(other)?;
        let last = self.order() - 1;
        let cores = self
            .cores()
            .iter()
            .zip(other.cores())
            .enumerate()
            .map(|(k, (a, b))| {
                let ((r, n, e), (q, _, f)) = (a.view().dim(), b.view().dim());
                let (row, rows) = if k == 0 { (0, 1) } else { (r, r + q) };
                let (col, cols) = if k == last { (0, 1) } else { (e, e + f) };
                let mut sum = Array3::zeros((rows, n, cols));
                sum.slice_mut(s![..r, .., ..e]).assign(&a.view());
                let mut corner = sum.slice_mut(s![row.., .., col..]);
                corner += &b.view();
                TtCore::from_unfolding(flatten(sum), rows, n, cols)
            });
        Ok(Self::from_parts(cores.collect()))
    }

    /// `factor A`; the first core carries it.
    #[must_use]
    pub fn scale(&self, factor: T) -> Self {
        let mut cores = self.cores().to_vec();
        let (r, n, e) = cores[0].view().dim();
        cores[0] = TtCore::from_unfolding(cores[0].left_unfolding().mapv(|x| x * factor), r, n, e);
        Self::from_parts(cores)
    }

    /// The elementwise (Hadamard) product; the ranks multiply.
    ///
    /// # Errors
    /// [`Error::Shape`] when the modes differ.
    pub fn hadamard(&self, other: &Self) -> Result<Self> {
        self.check_modes(other)?;
        let cores = self.cores().iter().zip(other.cores()).map(|(a, b)| {
            let ((r, n, e), (q, _, f)) = (a.view().dim(), b.view().dim());
            let (av, bv) = (a.view(), b.view());
            let product = Array3::from_shape_fn((r * q, n, e * f), |(i, j, k)| {
                av[[i / q, j, k / f]] * bv[[i % q, j, k % f]]
            });
            TtCore::from_unfolding(flatten(product), r * q, n, e * f)
        });
        Ok(Self::from_parts(cores.collect()))
    }

    /// `<A, B>`, the sum over all elements of their product.
    ///
    /// # Numerics
    /// In `f64`, one core at a time: `d n r^3` multiply-adds.
    ///
    /// # Errors
    /// [`Error::Shape`] when the modes differ.
    pub fn dot(&self, other: &Self) -> Result<f64> {
        self.check_modes(other)?;
        let mut overlap = Array2::<f64>::ones((1, 1));
        for (a, b) in self.cores().iter().zip(other.cores()) {
            overlap = step_right(overlap, &widen(a), &widen(b));
        }
        Ok(overlap[[0, 0]])
    }

    /// `||A||`, through the right-canonical form, so that it keeps its accuracy for any gauge.
    pub fn norm(&self) -> f64 {
        let centred = self
            .cast::<f64>()
            .canonical(0)
            .expect("a train has a first core");
        centred.cores()[0]
            .as_slice()
            .iter()
            .map(|x| x * x)
            .sum::<f64>()
            .sqrt()
    }

    /// `||A - B||`, through the norm of the difference.
    ///
    /// # Errors
    /// [`Error::Shape`] when the modes differ.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        Ok(self
            .cast::<f64>()
            .add(&other.cast::<f64>().scale(-1.0))?
            .norm())
    }

    /// One element.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Parameter`] for an index outside the modes.
    pub fn get(&self, index: &[usize]) -> Result<T> {
        if index.len() != self.order() {
            return Err(Error::Length {
                what: "index",
                expected: self.order(),
                found: index.len(),
            });
        }
        let mut row = Array2::ones((1, 1));
        for (core, &i) in self.cores().iter().zip(index) {
            if i >= core.mode() {
                return Err(Error::Parameter {
                    what: "index",
                    expected: "below the mode size",
                    found: i.to_string(),
                });
            }
            row = mm(row.view(), core.view().index_axis_move(Axis(1), i));
        }
        Ok(row[[0, 0]])
    }

    /// Contracts one mode with a vector: the train of the remaining modes, or one of a single mode of size 1.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a mode that does not exist, [`Error::Length`] for a vector of another length.
    ///
    /// ```
    /// use ndarray::{Array, Axis, array};
    /// use tn_formats::{TensorTrain, Truncation};
    /// let a = Array::from_shape_fn((2, 3, 4), |(i, j, k)| (i + j * k) as f64).into_dyn();
    /// let (train, _) = TensorTrain::decompose(a.view(), &Truncation::RelativeError(0.0))?;
    /// let summed = train.contract(1, array![1.0, 1.0, 1.0].view())?;
    /// assert!((&summed.to_dense() - &a.sum_axis(Axis(1))).iter().all(|d| d.abs() < 1e-12));
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn contract(&self, mode: usize, vector: ArrayView1<'_, T>) -> Result<Self> {
        let core = self.cores().get(mode).ok_or_else(|| Error::Parameter {
            what: "mode to contract",
            expected: "an axis of the train",
            found: mode.to_string(),
        })?;
        if vector.len() != core.mode() {
            return Err(Error::Length {
                what: "vector of a contraction",
                expected: core.mode(),
                found: vector.len(),
            });
        }
        let mut matrix = Array2::zeros((core.left_rank(), core.right_rank()));
        for (slice, &x) in core.view().axis_iter(Axis(1)).zip(vector) {
            matrix.scaled_add(x, &slice);
        }
        let mut cores = self.cores().to_vec();
        cores.remove(mode);
        if cores.is_empty() {
            cores.push(TtCore::from_unfolding(matrix, 1, 1, 1));
        } else if mode < cores.len() {
            let (_, n, e) = cores[mode].view().dim();
            let product = mm(matrix.view(), cores[mode].right_unfolding());
            cores[mode] = TtCore::from_unfolding(product, matrix.nrows(), n, e);
        } else {
            let (r, n, _) = cores[mode - 1].view().dim();
            let product = mm(cores[mode - 1].left_unfolding(), matrix.view());
            cores[mode - 1] = TtCore::from_unfolding(product, r, n, matrix.ncols());
        }
        Ok(Self::from_parts(cores))
    }
}

fn flatten<T: Real>(a: Array3<T>) -> Array2<T> {
    let (r, n, e) = a.dim();
    a.into_shape_with_order((r * n, e))
        .expect("same number of elements")
}

fn widen<T: Real>(core: &TtCore<T>) -> TtCore<f64> {
    let (r, n, e) = core.view().dim();
    TtCore::from_unfolding(core.left_unfolding().mapv(Real::widen), r, n, e)
}

/// The overlap of two left parts, one core further: `sum_n a_nᵀ overlap b_n`.
pub(crate) fn step_right(overlap: Array2<f64>, a: &TtCore<f64>, b: &TtCore<f64>) -> Array2<f64> {
    let (q, n, f) = b.view().dim();
    let r = a.left_rank();
    debug_assert_eq!(overlap.dim(), (r, q));
    let carried = mm(overlap.view(), b.right_unfolding());
    let carried = carried
        .into_shape_with_order((r * n, f))
        .expect("same number of elements");
    mm(a.left_unfolding().t(), carried.view())
}
/// The overlap of two right parts, one core further: `sum_n a_n overlap b_nᵀ`.
pub(crate) fn step_left(overlap: Array2<f64>, a: &TtCore<f64>, b: &TtCore<f64>) -> Array2<f64> {
    let (r, n, e) = a.view().dim();
    debug_assert_eq!(overlap.dim(), (e, b.right_rank()));
    let carried = mm(a.left_unfolding(), overlap.view());
    let carried = carried
        .into_shape_with_order((r, n * b.right_rank()))
        .expect("same number of elements");
    mm(carried.view(), b.right_unfolding().t())
}
