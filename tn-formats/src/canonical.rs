//! Canonical forms: where the orthogonality centre of a train stands.

use ndarray::{Array1, Array2, Axis, s};

use crate::error::{Error, Result};
use crate::linalg::{mm, qr, svd};
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};

/// A train in Vidal's form: left-orthogonal cores and the singular values of every bond.
///
/// The train is the product of the cores; `values[k]` are the singular values of the unfolding at the bond after core k.
#[derive(Debug, Clone, PartialEq)]
pub struct Vidal {
    train: TensorTrain<f64>,
    values: Vec<Array1<f64>>,
}

impl Vidal {
    /// The train: all cores but the last left-orthogonal, bonds in the basis of their singular vectors.
    pub fn train(&self) -> &TensorTrain<f64> {
        &self.train
    }

    /// Singular values, falling, bond by bond (order - 1 of them).
    pub fn singular_values(&self) -> &[Array1<f64>] {
        &self.values
    }

    /// Train and singular values, given away.
    pub fn into_parts(self) -> (TensorTrain<f64>, Vec<Array1<f64>>) {
        (self.train, self.values)
    }
}

impl<T: Real> TensorTrain<T> {
    /// The same tensor with every core left of `centre` left-orthogonal and every core right of it right-orthogonal.
    ///
    /// `centre = order - 1` is the left-canonical form, `centre = 0` the right-canonical one. The norm of the centre core
    /// is the norm of the tensor.
    ///
    /// # Numerics
    /// Householder QR in `T`; the tensor changes by round-off only. Ranks above what their neighbours can carry shrink.
    ///
    /// # Errors
    /// [`Error::Parameter`] when there is no such core.
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{TensorTrain, Truncation};
    /// let a = Array::from_shape_fn((4, 5, 6), |(i, j, k)| ((i * j + k) as f64).cos()).into_dyn();
    /// let (train, _) = TensorTrain::decompose(a.view(), &Truncation::MaxRank(3))?;
    /// let centred = train.canonical(1)?;
    /// let left = centred.cores()[0].left_unfolding().to_owned();
    /// let gram = left.t().dot(&left);
    /// assert!((gram[[0, 0]] - 1.0).abs() < 1e-12 && gram[[0, 1]].abs() < 1e-12);
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn canonical(&self, centre: usize) -> Result<Self> {
        if centre >= self.order() {
            return Err(Error::Parameter {
                what: "orthogonality centre",
                expected: "the index of a core",
                found: centre.to_string(),
            });
        }
        let mut cores = self.cores().to_vec();
        for k in 0..centre {
            push_right(&mut cores, k);
        }
        for k in (centre + 1..cores.len()).rev() {
            push_left(&mut cores, k);
        }
        Ok(Self::from_parts(cores))
    }

    /// Vidal's form, computed in `f64`.
    ///
    /// # Errors
    /// [`Error::LinAlg`] when a singular value decomposition does not converge.
    ///
    /// # Source
    /// Vidal 2003, Phys. Rev. Lett. 91, 147902.
    pub fn vidal(&self) -> Result<Vidal> {
        let mut cores = self.cast::<f64>().canonical(0)?.into_cores();
        let mut values = Vec::with_capacity(cores.len() - 1);
        for k in 0..cores.len() - 1 {
            let (u, sigma, vt) = svd(cores[k].left_unfolding())?;
            let (r, n, _) = cores[k].view().dim();
            let rest = mm(
                scale_rows(vt, &sigma).view(),
                cores[k + 1].right_unfolding(),
            );
            let (_, next, end) = cores[k + 1].view().dim();
            cores[k] = TtCore::from_unfolding(u, r, n, sigma.len());
            cores[k + 1] = TtCore::from_unfolding(rest, sigma.len(), next, end);
            values.push(sigma);
        }
        Ok(Vidal {
            train: TensorTrain::from_parts(cores),
            values,
        })
    }
}

/// Makes core k left-orthogonal and multiplies the triangle into core k + 1.
pub(crate) fn push_right<T: Real>(cores: &mut [TtCore<T>], k: usize) {
    let (r, n, _) = cores[k].view().dim();
    let (_, next, end) = cores[k + 1].view().dim();
    let (q, triangle) = qr(cores[k].left_unfolding());
    let rank = q.ncols();
    let rest = mm(triangle.view(), cores[k + 1].right_unfolding());
    cores[k] = TtCore::from_unfolding(q, r, n, rank);
    cores[k + 1] = TtCore::from_unfolding(rest, rank, next, end);
}

/// Makes core k right-orthogonal and multiplies the triangle into core k - 1.
pub(crate) fn push_left<T: Real>(cores: &mut [TtCore<T>], k: usize) {
    let (_, n, end) = cores[k].view().dim();
    let (r, previous, _) = cores[k - 1].view().dim();
    let (q, triangle) = qr(cores[k].right_unfolding().t());
    let rank = q.ncols();
    let rest = mm(cores[k - 1].left_unfolding(), triangle.t());
    cores[k] = TtCore::from_unfolding(q.reversed_axes(), rank, n, end);
    cores[k - 1] = TtCore::from_unfolding(rest, r, previous, rank);
}

/// `diag(s) m`.
pub(crate) fn scale_rows(mut m: Array2<f64>, s: &Array1<f64>) -> Array2<f64> {
    for (mut row, &x) in m.axis_iter_mut(Axis(0)).zip(s) {
        row.mapv_inplace(|v| v * x);
    }
    m
}

/// The first `rank` columns.
pub(crate) fn first_columns<T: Real>(m: &Array2<T>, rank: usize) -> Array2<T> {
    m.slice(s![.., ..rank]).to_owned()
}
