//! How much of the loss by a weight is left once the weights behind it are solved.
//!
//! A loss is measured of one weight at a time, all others as they are. But weights are solved in order, on what the network
//! compressed so far really gives them, to make what the original makes: each takes back a part of all that those ahead have
//! lost. So the earlier a weight, the less of its measured loss is in the end there.

use super::apply::{Solved, changed_bias};
use super::context::Context;
use super::losses::measured_on;
use super::runner::put_in;
use super::session::Session;
use crate::calibrate::measure_up_to_each;
use crate::calibrate::segment::Overrides;
use crate::error::Result;

/// The least part of what was lost so far that one stage is taken to leave: less would be an error of what is predicted for it.
const LEAST: f64 = 0.5;

/// Of every weight the part of its predicted loss that is left behind all others, by a plan that was solved.
///
/// With `l_s` what the output loses where the weights up to stage `s` are as solved and all behind as in the original, and with
/// `p_s` what those of stage `s` are predicted to lose, `l_s / (l_(s-1) + p_s)` is what a stage leaves; a weight's part is the
/// product over the stages behind it. `parts` are the predictions, one a weight.
pub(super) fn left_behind(
    context: &Context<'_>,
    session: &Session<'_>,
    solved: &[Solved],
    parts: &[f64],
) -> Result<Vec<f64>> {
    let cut = context.cut();
    let biases = context.targets.iter().zip(solved);
    let overrides: Overrides = biases
        .filter_map(|(target, solved)| changed_bias(context.view, target, solved))
        .collect();
    let Some(batch) = measured_on(context, session)? else {
        return Ok(vec![1.0; solved.len()]);
    };
    let operands = |s: usize| {
        let mut operands = cut.originals(s)?;
        put_in(&mut operands, &context.targets, &|t| solved.get(t));
        Ok(operands)
    };
    let losses = measure_up_to_each(&cut, &batch, &operands, &overrides)?;
    // The weights of a stage run first in the segment behind it.
    Ok(shares(
        context.stages.stages(),
        losses.get(1..).unwrap_or(&[]),
        parts,
    ))
}

/// The part of every weight's loss that is left, by what the output loses up to each stage.
fn shares(stages: &[Vec<usize>], losses: &[f64], parts: &[f64]) -> Vec<f64> {
    let mut shares = vec![1.0; parts.len()];
    let mut left = 1.0;
    for (s, stage) in stages.iter().enumerate().rev() {
        stage.iter().for_each(|&t| shares[t] = left);
        let ahead = s.checked_sub(1).and_then(|s| losses.get(s));
        let added: f64 = stage.iter().map(|&t| parts[t]).sum();
        if let (Some(ahead), Some(loss)) = (ahead, losses.get(s)) {
            let leaves = loss / (ahead + added);
            left *= if leaves.is_finite() {
                leaves.clamp(LEAST, 1.0)
            } else {
                1.0
            };
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_weights_lose_less_in_the_end() {
        let stages = [vec![0, 1], vec![2], vec![3]];
        let parts = [0.3, 0.1, 0.2, 0.1];
        let found = shares(&stages, &[0.4, 0.45, 0.44], &parts);
        let (third, fourth) = (0.45 / 0.6, 0.44 / 0.55);
        let first = third * fourth;
        for (found, expected) in found.iter().zip([first, first, fourth, 1.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        // More than was predicted is no fault of those ahead; less than half of it is none of those behind.
        assert_eq!(
            shares(&stages, &[0.4, 0.7, 0.1], &parts),
            [0.5, 0.5, 0.5, 1.0]
        );
        // Nothing lost, nothing known.
        assert_eq!(shares(&stages, &[0.0; 3], &[0.0; 4]), [1.0; 4]);
        assert_eq!(shares(&stages, &[], &parts), [1.0; 4]);
        assert_eq!(shares(&stages, &[0.1, f64::NAN, 0.2], &parts), [1.0; 4]);
    }
}
