//! The choice made from a weight alone, where nobody chose and no calibration data says more.

use ndarray::ArrayView2;
use tn_formats::Truncation;

use crate::choice::{LayerChoice, Spec};
use crate::inspect::Format;
use crate::network::Network;
use crate::skip::SkipReason;
use crate::subject::Subject;

/// The share of the dense form's error that the decomposition of a rival may take; quantization takes the rest.
const DECOMPOSITION_SHARE: f64 = 0.7;

/// A rival of at most half the dense form's bytes may have up to twice its error: every further factor of a network adds
/// a rounding error like the dense form's own.
const ERROR_AT_HALF_THE_BYTES: f64 = 2.0;

/// `||W - W~|| / ||W||` in the Frobenius norm, accumulated in `f64`; 0 where both are zero.
pub(crate) fn relative_error(w: ArrayView2<'_, f32>, network: &Network) -> f64 {
    let approximation = network.to_dense();
    let (mut error, mut norm) = (0.0f64, 0.0f64);
    for (a, b) in w.iter().zip(approximation.iter()) {
        error += (f64::from(*a) - f64::from(*b)).powi(2);
        norm += f64::from(*a).powi(2);
    }
    if norm > 0.0 {
        (error / norm).sqrt()
    } else {
        error.sqrt()
    }
}

/// The dense form at the asked bits, or a rival where it is smaller **and** as near to the weight; see [`Spec`].
pub(crate) fn best(
    w: ArrayView2<'_, f32>,
    spec: &Spec,
    subject: &Subject<'_>,
) -> Result<(LayerChoice, Network), SkipReason> {
    let choice = subject.resolve(spec, Format::Dense)?;
    let network = subject.build(w, &choice)?;
    let mut bytes = subject.stored_bytes(&network)?;
    let half = bytes / 2;
    let error = relative_error(w, &network);
    let mut best = (choice, network);
    let truncation = match &spec.truncation {
        Some(truncation) => truncation.clone(),
        None if error > 0.0 => Truncation::RelativeError((DECOMPOSITION_SHARE * error).min(0.9)),
        None => return Ok(best),
    };
    for choice in subject.rivals(spec, &truncation)? {
        let Ok(network) = subject.build(w, &choice) else {
            continue;
        };
        let (rival_bytes, rival_error) =
            (subject.stored_bytes(&network)?, relative_error(w, &network));
        let allowed = if rival_bytes <= half {
            ERROR_AT_HALF_THE_BYTES * error
        } else {
            error
        };
        if rival_bytes < bytes && rival_error <= allowed {
            (bytes, best) = (rival_bytes, (choice, network));
        }
    }
    Ok(best)
}
