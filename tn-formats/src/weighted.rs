//! Activation-aware decomposition: the error that counts is the one the layer's inputs see.

use ndarray::{Array2, ArrayView2};

use crate::error::{Error, Result};
use crate::fit::Refinement;
use crate::linalg::{eigh, mm};
use crate::matrix::TtMatrix;
use crate::modes::{Layout, MatrixModes};
use crate::scalar::{Real, norm_sq};
use crate::truncation::{BondCertificate, Certificate, Truncation};

/// Eigenvalues of the second moment are floored at this share of their mean.
const FLOOR: f64 = 1e-4;
/// ALS sweeps where no closed form exists.
const SWEEPS: u32 = 2;

impl<T: Real> TtMatrix<T> {
    /// The matrix train that keeps `E ||(W - W~) x||²` small, given the second moment `C = E[x xᵀ]` of the inputs.
    ///
    /// # Shapes
    /// `w` is `[M, N]`, `second_moment` `[N, N]`.
    ///
    /// # Numerics
    /// In `f64`. `C` is used through its eigenvalues, floored at 1e-4 of their mean. Two split cores (low rank): the best
    /// there is, by an SVD of `W C^(1/2)`, and [`Truncation::RelativeError`] is relative to `||W C^(1/2)||`. Any other
    /// layout: ranks from the plain TT-SVD, then ALS in the weighted norm. The certificate's one entry is the measured
    /// error in the weighted norm.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotFinite`] and the errors of [`TtMatrix::decompose`].
    ///
    /// # Source
    /// Wang et al. 2024, arXiv 2403.07378 (SVD-LLM), with eigenvalues in place of its Cholesky factor.
    ///
    /// ```
    /// use ndarray::Array2;
    /// use tn_formats::{MatrixModes, Truncation, TtMatrix};
    /// let w = Array2::from_shape_fn((6, 5), |(i, j)| ((i * j) as f64).cos());
    /// let c = Array2::from_diag(&ndarray::arr1(&[100.0, 10.0, 1.0, 0.1, 0.01]));
    /// let modes = MatrixModes::low_rank(6, 5)?;
    /// let rank = Truncation::MaxRank(2);
    /// let (aware, certificate) = TtMatrix::decompose_weighted(w.view(), c.view(), &modes, &rank)?;
    /// let (plain, _) = TtMatrix::decompose(w.view(), &modes, &rank)?;
    /// let loss = |m: &TtMatrix<f64>| {
    ///     let e = &m.to_dense() - &w;
    ///     (&e.dot(&c) * &e).sum().sqrt()
    /// };
    /// assert!(loss(&aware) < loss(&plain));
    /// assert!((loss(&aware) - certificate.error()).abs() < 1e-3 * certificate.norm());
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn decompose_weighted(
        w: ArrayView2<'_, T>,
        second_moment: ArrayView2<'_, f64>,
        modes: &MatrixModes,
        truncation: &Truncation,
    ) -> Result<(Self, Certificate)> {
        modes.check(w.nrows(), w.ncols())?;
        let n = w.ncols();
        if second_moment.dim() != (n, n) {
            return Err(Error::Shape {
                what: "second moment",
                expected: vec![n, n],
                found: second_moment.shape().to_vec(),
            });
        }
        if second_moment.iter().any(|x| !x.is_finite()) {
            return Err(Error::NotFinite {
                what: "second moment",
            });
        }
        let (root, inverse) = roots(second_moment)?;
        let weighted = mm(w.mapv(Real::widen).view(), root.view());
        let matrix = if modes.layout() == Layout::Split && modes.cores() == 2 {
            let (train, _) = TtMatrix::decompose(weighted.view(), modes, truncation)?;
            let (cores, outputs) = (train.cores(), train.modes().clone());
            let inputs = mm(inverse.view(), cores[0].as_train_core().left_unfolding());
            let (rank, last) = (inputs.ncols(), cores[1].as_train_core().clone());
            let first = crate::train::TtCore::from_unfolding(inputs, 1, n, rank);
            TtMatrix::from_train(
                crate::train::TensorTrain::from_parts(vec![first, last]),
                outputs,
            )?
            .cast()
        } else {
            let floored = mm(root.view(), root.view());
            let (start, _) = TtMatrix::decompose(w, modes, truncation)?;
            start.refine(w, Some(floored.view()), Refinement::Als, SWEEPS)?
        };
        let error = mm(
            (matrix.to_dense().mapv(Real::widen) - w.mapv(Real::widen)).view(),
            root.view(),
        );
        let rank = matrix.ranks().into_iter().max().unwrap_or(1);
        let bond = BondCertificate {
            rank,
            discarded: norm_sq(error.view()).sqrt(),
        };
        let certificate = Certificate::new::<T>(
            norm_sq(weighted.view()).sqrt(),
            truncation.epsilon()?,
            w.nrows().max(n),
            vec![bond],
        );
        Ok((matrix, certificate))
    }
}

/// Symmetric square root of the floored matrix, and its inverse.
fn roots(c: ArrayView2<'_, f64>) -> Result<(Array2<f64>, Array2<f64>)> {
    let (values, vectors) = eigh(c)?;
    let mean = values.iter().map(|v| v.max(0.0)).sum::<f64>() / values.len() as f64;
    let floor = if mean > 0.0 { FLOOR * mean } else { 1.0 };
    let roots = values.mapv(|v| v.max(floor).sqrt());
    let build =
        |scale: &dyn Fn(f64) -> f64| mm((&vectors * &roots.mapv(scale)).view(), vectors.t());
    Ok((build(&|x| x), build(&f64::recip)))
}
