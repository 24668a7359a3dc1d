//! TT-SVD.

use ndarray::{Array2, CowArray};

use crate::error::{Error, Result};
use crate::range::{Keep, dominant_range, dominant_range_woven};
use crate::reorder::Unfolding;
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};
use crate::truncation::{BondCertificate, Certificate, Truncation};

/// TT-SVD from the first unfolding `n_1 x (n_2 .. n_d)`, left to right.
pub(crate) fn tt_svd<T: Real>(
    unfolding: Unfolding<'_, T>,
    modes: &[usize],
    truncation: &Truncation,
) -> Result<(TensorTrain<T>, Certificate)> {
    if let Truncation::Bytes(_) = truncation {
        let (train, _) = tt_svd(unfolding, modes, &Truncation::RelativeError(0.0))?;
        return train.round(truncation);
    }
    let bonds = modes.len() - 1;
    let caps = truncation.caps(bonds)?;
    let epsilon = truncation.epsilon()?;
    let total_sq = unfolding.norm_sq();
    if !total_sq.is_finite() {
        return Err(Error::NotFinite {
            what: "array to decompose",
        });
    }
    // Storing d cores in T costs about d roundings on top of the truncation.
    let rounding_sq = 4.0 * (modes.len() as f64) * T::UNIT_ROUNDOFF.powi(2);
    let allowed_sq = ((epsilon * epsilon - rounding_sq) * total_sq).max(0.0);

    let longest = unfolding.dim().0.max(unfolding.dim().1);
    let mut spent_sq = 0.0;
    let mut certificate = Vec::with_capacity(bonds);
    let mut cores = Vec::with_capacity(modes.len());
    let mut rank = 1;
    let mut rest = unfolding;
    for (k, &mode) in modes[..bonds].iter().enumerate() {
        let tail_sq = (allowed_sq - spent_sq).max(0.0) / (bonds - k) as f64;
        let left_sq = total_sq - spent_sq;
        let keep = Keep {
            cap: caps[k],
            tail_sq,
        };
        let range = match rest {
            Unfolding::Plain(rest) => dominant_range(rest, left_sq, keep)?,
            Unfolding::Woven(rest) => dominant_range_woven(&rest, left_sq, keep)?,
        };
        spent_sq += range.tail_sq;
        let next = range.q.ncols();
        certificate.push(BondCertificate {
            rank: next,
            discarded: range.tail_sq.sqrt(),
        });
        cores.push(TtCore::from_unfolding(range.q, rank, mode, next));
        rank = next;
        rest = Unfolding::Plain(CowArray::from(regroup(range.b, modes[k + 1])));
    }
    // It holds the norm, which T may not reach to.
    let last = rest.plain().into_owned();
    if !last.iter().all(|x| x.is_finite()) {
        return Err(Error::NotFinite {
            what: "last core of a train",
        });
    }
    cores.push(TtCore::from_unfolding(last, rank, modes[bonds], 1));
    let certificate = Certificate::new::<T>(total_sq.sqrt(), epsilon, longest, certificate);
    Ok((TensorTrain::from_parts(cores), certificate))
}

/// `r x (n rest)` as `(r n) x rest`.
fn regroup<T: Real>(b: Array2<T>, mode: usize) -> Array2<T> {
    let b = if b.is_standard_layout() {
        b
    } else {
        b.as_standard_layout().into_owned()
    };
    let (r, cols) = b.dim();
    b.into_shape_with_order((r * mode, cols / mode))
        .expect("the next mode divides the columns")
}
