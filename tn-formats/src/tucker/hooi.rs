//! Tucker decompositions that look at the whole array: HOSVD, and HOOI from there.

use ndarray::{Array2, ArrayViewD};

use super::{Tucker, check_modes, longest_unfolding, mode_basis, mode_caps, project};
use crate::error::{Error, Result};
use crate::linalg::qr;
use crate::range::Keep;
use crate::scalar::{Real, norm_sq};
use crate::truncation::{BondCertificate, Certificate, Truncation};

/// Squared relative errors below this are measured on the dense array, not taken from a difference of norms.
const CANCELLATION: f64 = 1e-3;

impl<T: Real> Tucker<T> {
    /// HOSVD: every factor from the array itself, whatever the other modes keep.
    ///
    /// # Shapes
    /// As [`Tucker::decompose_modes`].
    ///
    /// # Numerics
    /// As [`Tucker::decompose`]; an error budget is shared evenly by the modes, so it is met and seldom used up: ST-HOSVD
    /// needs smaller ranks. The certificate has one entry, the error of the result.
    ///
    /// # Errors
    /// As [`Tucker::decompose_modes`].
    ///
    /// # Source
    /// De Lathauwer, De Moor, Vandewalle 2000, SIAM J. Matrix Anal. Appl. 21(4), 1253.
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{Truncation, Tucker};
    /// let a = Array::from_shape_fn((8, 9, 10), |(i, j, k)| ((i * j + 3 * k) as f64).sin()).into_dyn();
    /// let (tucker, certificate) = Tucker::hosvd(a.view(), &[0, 1, 2], &Truncation::RelativeError(0.5))?;
    /// let error = (&tucker.to_dense() - &a).iter().map(|x| x * x).sum::<f64>().sqrt();
    /// assert!((error - certificate.error()).abs() < 1e-9 && certificate.relative_error() <= 0.5);
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn hosvd(
        a: ArrayViewD<'_, T>,
        modes: &[usize],
        truncation: &Truncation,
    ) -> Result<(Self, Certificate)> {
        check_modes(a.shape(), modes)?;
        let epsilon = truncation.epsilon()?;
        let total_sq = norm_sq(a.view());
        if !total_sq.is_finite() {
            return Err(Error::NotFinite {
                what: "array to decompose",
            });
        }
        let caps = mode_caps(a.view(), modes, truncation)?;
        let rounding_sq = 4.0 * ((a.ndim() + 1) as f64) * T::UNIT_ROUNDOFF.powi(2);
        let tail_sq =
            ((epsilon * epsilon - rounding_sq) * total_sq).max(0.0) / modes.len().max(1) as f64;
        let standard = a.as_standard_layout();
        let keep = |mode: usize| Keep {
            cap: modes
                .iter()
                .position(|&m| m == mode)
                .map_or(usize::MAX, |k| caps[k]),
            tail_sq,
        };
        let tucker = from_the_array(standard.view(), modes, total_sq, keep)?;
        let mut error_sq = (total_sq - norm_sq(tucker.core.view())).max(0.0);
        if error_sq < CANCELLATION * total_sq {
            let dense = tucker.to_dense();
            let pairs = standard.iter().zip(&dense);
            error_sq = pairs.map(|(x, y)| (x.widen() - y.widen()).powi(2)).sum();
        }
        let rank = tucker.core.shape().iter().copied().max().unwrap_or(1);
        let bond = BondCertificate {
            rank,
            discarded: error_sq.sqrt(),
        };
        let certificate = Certificate::new::<T>(
            total_sq.sqrt(),
            epsilon,
            longest_unfolding(a.shape()),
            vec![bond],
        );
        Ok((tucker, certificate))
    }

    /// HOOI: every factor in turn recomputed from the array projected onto the others; from ST-HOSVD and from HOSVD, the
    /// better end kept.
    ///
    /// # Shapes
    /// As [`Tucker::decompose_modes`]; give all axes for a full decomposition.
    ///
    /// # Numerics
    /// As [`Tucker::decompose`]. Sweeps end after `sweeps`, or when one lowers the error by less than 1e-8 of the norm; the
    /// error never rises. The certificate has one entry, the error of the result. Ranks stay those of the start.
    ///
    /// # Errors
    /// As [`Tucker::decompose_modes`].
    ///
    /// # Source
    /// De Lathauwer, De Moor, Vandewalle 2000, SIAM J. Matrix Anal. Appl. 21(4), algorithm 4.2.
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{Truncation, Tucker};
    /// let a = Array::from_shape_fn((8, 9, 10), |(i, j, k)| ((i * j + 3 * k) as f64).sin()).into_dyn();
    /// let (_, start) = Tucker::decompose(a.view(), &Truncation::MaxRank(3))?;
    /// let (_, refined) = Tucker::hooi(a.view(), &[0, 1, 2], &Truncation::MaxRank(3), 20)?;
    /// assert!(refined.error() <= start.error());
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn hooi(
        a: ArrayViewD<'_, T>,
        modes: &[usize],
        truncation: &Truncation,
        sweeps: u32,
    ) -> Result<(Self, Certificate)> {
        let (start, certificate) = Self::decompose_modes(a.view(), modes, truncation)?;
        let standard = a.as_standard_layout();
        let a = standard.view();
        let total_sq = certificate.norm().powi(2);
        let ranks = start.multilinear_ranks();
        // The second start: every factor from the array itself.
        let keep = |mode: usize| Keep {
            cap: ranks[mode],
            tail_sq: -1.0,
        };
        let plain = from_the_array(a.view(), modes, total_sq, keep)?;
        let plain_sq = (total_sq - norm_sq(plain.core.view())).max(0.0);
        let first = start.sweep(
            a.view(),
            modes,
            certificate.error().powi(2),
            total_sq,
            sweeps,
        )?;
        let second = plain.sweep(a.view(), modes, plain_sq, total_sq, sweeps)?;
        let (tucker, error_sq) = if second.1 < first.1 { second } else { first };
        let rank = ranks.iter().copied().max().unwrap_or(1);
        let bond = BondCertificate {
            rank,
            discarded: error_sq.sqrt(),
        };
        let budget = truncation.epsilon()?;
        Ok((
            tucker,
            Certificate::new::<T>(
                certificate.norm(),
                budget,
                longest_unfolding(a.shape()),
                vec![bond],
            ),
        ))
    }

    /// HOOI from this network: every factor of `modes` in turn recomputed from `a` projected onto the others. What was fitted
    /// to an array of earlier training, or by other means, is a warm start for the present one.
    ///
    /// # Shapes
    /// `a` has this network's modes; `modes` are axes, each at most once. Ranks stay.
    ///
    /// # Numerics
    /// As [`Tucker::hooi`]. The factors are made orthonormal first and the core is recomputed from `a`, so that the error
    /// never is above that of this network.
    ///
    /// # Errors
    /// [`Error::Shape`] when the modes differ, [`Error::NotFinite`], and [`Error::Parameter`] for an axis out of range or given
    /// twice.
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{Truncation, Tucker};
    /// let before = Array::from_shape_fn((8, 9, 10), |(i, j, k)| ((i * j + 3 * k) as f64).sin()).into_dyn();
    /// let (start, _) = Tucker::decompose(before.view(), &Truncation::MaxRank(3))?;
    /// let now = &before * 1.01 + 0.001;
    /// let (_, certificate) = start.refine(now.view(), &[0, 1, 2], 5)?;
    /// let apart = (&start.to_dense() - &now).iter().map(|x| x * x).sum::<f64>().sqrt();
    /// assert!(certificate.error() < apart);
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn refine(
        &self,
        a: ArrayViewD<'_, T>,
        modes: &[usize],
        sweeps: u32,
    ) -> Result<(Self, Certificate)> {
        if a.shape() != self.modes() {
            return Err(Error::Shape {
                what: "array to fit",
                expected: self.modes(),
                found: a.shape().to_vec(),
            });
        }
        check_modes(a.shape(), modes)?;
        let standard = a.as_standard_layout();
        let a = standard.view();
        let total_sq = norm_sq(a.view());
        if !total_sq.is_finite() {
            return Err(Error::NotFinite {
                what: "array to fit",
            });
        }
        let factors: Vec<_> = self.factors.iter().map(|f| qr(f.view()).0).collect();
        let core = project(a.view(), &factors, 0..factors.len());
        let error_sq = (total_sq - norm_sq(core.view())).max(0.0);
        let start = Self { core, factors };
        let (tucker, error_sq) = start.sweep(a.view(), modes, error_sq, total_sq, sweeps)?;
        let rank = tucker.core.shape().iter().copied().max().unwrap_or(1);
        let bond = BondCertificate {
            rank,
            discarded: error_sq.sqrt(),
        };
        let longest = longest_unfolding(a.shape());
        let certificate = Certificate::new::<T>(total_sq.sqrt(), 0.0, longest, vec![bond]);
        Ok((tucker, certificate))
    }

    /// HOOI sweeps from this network, whose squared error is given; the network and its squared error.
    fn sweep(
        mut self,
        a: ArrayViewD<'_, T>,
        modes: &[usize],
        mut error_sq: f64,
        total_sq: f64,
        sweeps: u32,
    ) -> Result<(Self, f64)> {
        let ranks = self.multilinear_ranks();
        for _ in 0..sweeps {
            let mut next = self.clone();
            for &mode in modes {
                // A square factor turns its mode without leaving anything out.
                let others = (0..ranks.len()).filter(|&m| m != mode && ranks[m] < a.shape()[m]);
                let projected = project(a.view(), &next.factors, others);
                let keep = Keep {
                    cap: ranks[mode],
                    tail_sq: -1.0,
                };
                next.factors[mode] = mode_basis(projected.view(), mode, total_sq, keep)?.0;
            }
            next.core = project(a.view(), &next.factors, 0..ranks.len());
            let next_sq = (total_sq - norm_sq(next.core.view())).max(0.0);
            if next_sq >= error_sq {
                break;
            }
            let gained = error_sq.sqrt() - next_sq.sqrt();
            (self, error_sq) = (next, next_sq);
            if gained <= 1e-8 * total_sq.sqrt() {
                break;
            }
        }
        Ok((self, error_sq))
    }
}

/// Every factor of `modes` from the array, the others identities; `a` is row-major.
fn from_the_array<T: Real>(
    a: ArrayViewD<'_, T>,
    modes: &[usize],
    total_sq: f64,
    keep: impl Fn(usize) -> Keep,
) -> Result<Tucker<T>> {
    let mut factors: Vec<Array2<T>> = a.shape().iter().map(|&n| Array2::eye(n)).collect();
    for &mode in modes {
        factors[mode] = mode_basis(a.view(), mode, total_sq, keep(mode))?.0;
    }
    let core = project(a, &factors, modes.iter().copied());
    Ok(Tucker { core, factors })
}
