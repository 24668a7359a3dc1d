//! The choice made from a weight alone, where nobody chose and no calibration data says more.

use ndarray::ArrayView2;
use tn_formats::{Layout, MatrixModes, Truncation};

use crate::choice::{LayerChoice, NetworkChoice, Spec};
use crate::emit;
use crate::inspect::Format;
use crate::network::Network;
use crate::skip::SkipReason;

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

/// The dense form at the asked bits, or low rank or a train where it is smaller **and** as near to the weight; see
/// [`Spec`].
pub(crate) fn best(
    w: ArrayView2<'_, f32>,
    spec: &Spec,
) -> Result<(LayerChoice, Network), SkipReason> {
    let shape = [w.nrows(), w.ncols()];
    let choice = spec.resolve(Format::Dense, shape)?;
    let network = Network::build(w, &choice)?;
    let mut bytes = emit::stored_bytes(&network)?;
    let half = bytes / 2;
    let error = relative_error(w, &network);
    let mut best = (choice, network);
    let truncation = match &spec.truncation {
        Some(truncation) => truncation.clone(),
        None if error > 0.0 => Truncation::RelativeError((DECOMPOSITION_SHARE * error).min(0.9)),
        None => return Ok(best),
    };
    for modes in rivals(spec, shape)? {
        let choice = LayerChoice::new(
            NetworkChoice::Tt {
                modes,
                truncation: truncation.clone(),
            },
            spec.quantization,
        );
        let Ok(network) = Network::build(w, &choice) else {
            continue;
        };
        let (rival_bytes, rival_error) =
            (emit::stored_bytes(&network)?, relative_error(w, &network));
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

fn rivals(spec: &Spec, [rows, cols]: [usize; 2]) -> Result<Vec<MatrixModes>, SkipReason> {
    let misfit = |e: tn_formats::Error| SkipReason::Misfit {
        problem: e.to_string(),
    };
    let mut rivals = vec![MatrixModes::low_rank(rows, cols).map_err(misfit)?];
    rivals.push(match &spec.modes {
        Some((row, col)) => {
            let layout = spec.layout.unwrap_or(Layout::Interleaved);
            let modes = MatrixModes::new(layout, row.clone(), col.clone()).map_err(misfit)?;
            modes.check(rows, cols).map_err(misfit)?;
            modes
        }
        None => MatrixModes::balanced(Layout::Interleaved, rows, cols, 2).map_err(misfit)?,
    });
    Ok(rivals)
}
