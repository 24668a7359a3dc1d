//! Recompression of trains.

use crate::canonical::{first_columns, scale_rows};
use crate::error::Result;
use crate::linalg::{mm, svd};
use crate::range::{Keep, pick_rank};
use crate::scalar::{Real, norm_sq};
use crate::train::{TensorTrain, TtCore};
use crate::truncation::{BondCertificate, Certificate, Truncation, ranks_within, train_size};

impl<T: Real> TensorTrain<T> {
    /// The train with smaller ranks.
    ///
    /// # Numerics
    /// In `f64`: right-orthogonalized by QR, then truncated from the left by SVD, so the certificate is the error against
    /// this train. The cores come out left-orthogonal but for the last.
    ///
    /// # Errors
    /// As [`TensorTrain::decompose`].
    ///
    /// # Source
    /// Oseledets 2011, SIAM J. Sci. Comput. 33(5), algorithm 2.
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{TensorTrain, Truncation};
    /// let a = Array::from_shape_fn((6, 6, 6), |(i, j, k)| 1.0 / (1 + i + j + k) as f64).into_dyn();
    /// let (train, _) = TensorTrain::decompose(a.view(), &Truncation::RelativeError(0.0))?;
    /// let (small, certificate) = train.add(&train)?.round(&Truncation::RelativeError(1e-3))?;
    /// assert!(small.ranks().iter().max() <= Some(&4));
    /// assert!(certificate.relative_error() <= 1e-3);
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn round(&self, truncation: &Truncation) -> Result<(Self, Certificate)> {
        let bonds = self.order() - 1;
        let epsilon = truncation.epsilon()?;
        let caps = match truncation {
            Truncation::Bytes(bytes) => {
                let (_, values) = self.vidal()?.into_parts();
                let squares: Vec<Vec<f64>> = values
                    .iter()
                    .map(|v| v.iter().map(|x| x * x).collect())
                    .collect();
                let modes = self.modes();
                ranks_within(&squares, bytes / T::BYTES, |ranks| {
                    train_size(&modes, ranks)
                })
            }
            other => other.caps(bonds)?,
        };
        let mut cores = self.cast::<f64>().canonical(0)?.into_cores();
        let total_sq = norm_sq(cores[0].view());
        let rounding_sq = 4.0 * (self.order() as f64) * T::UNIT_ROUNDOFF.powi(2);
        let allowed_sq = ((epsilon * epsilon - rounding_sq) * total_sq).max(0.0);
        let longest = cores.iter().map(|c| c.as_slice().len()).max().unwrap_or(1);
        let mut spent_sq = 0.0;
        let mut certificate = Vec::with_capacity(bonds);
        for k in 0..bonds {
            let (u, sigma, vt) = svd(cores[k].left_unfolding())?;
            let squares: Vec<f64> = sigma.iter().map(|x| x * x).collect();
            let tail_sq = (allowed_sq - spent_sq).max(0.0) / (bonds - k) as f64;
            let rank = pick_rank(
                &squares,
                Keep {
                    cap: caps[k],
                    tail_sq,
                },
            );
            let discarded: f64 = squares[rank..].iter().rev().sum();
            spent_sq += discarded;
            certificate.push(BondCertificate {
                rank,
                discarded: discarded.sqrt(),
            });

            let (r, n, _) = cores[k].view().dim();
            let (_, next, end) = cores[k + 1].view().dim();
            let kept = scale_rows(vt, &sigma);
            let rest = mm(
                kept.slice(ndarray::s![..rank, ..]),
                cores[k + 1].right_unfolding(),
            );
            cores[k] = TtCore::from_unfolding(first_columns(&u, rank), r, n, rank);
            cores[k + 1] = TtCore::from_unfolding(rest, rank, next, end);
        }
        let train = TensorTrain::from_parts(cores).cast();
        Ok((
            train,
            Certificate::new::<T>(total_sq.sqrt(), epsilon, longest, certificate),
        ))
    }
}
