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

/// The part of what a stage's weights are predicted to lose that they do lose: they are rounded with more effort in the end, and what
/// stands right behind, as the second product of a feed-forward block does behind the first, takes back more of it than of older
/// errors. Between 0.2 and 1.2 for the stages of MiniLM-L6, about one half in the mean. No plan tells it apart from what the
/// stage takes back, but where nothing is ahead.
const FRESH: f64 = 0.5;

/// The least part of what was lost so far that one stage is taken to leave, and of what is predicted of the first to be found: less
/// would be an error of what is predicted. Likewise twice as much for the most.
const LEAST: f64 = 0.5;

/// Of every weight the part of its predicted loss that is left behind all others, by a plan that was solved.
///
/// With `l_s` what the output loses where the weights up to stage `s` are as solved and all behind as in the original, and with
/// `p_s` what those of stage `s` are predicted to lose, `l_s / (l_(s-1) + FRESH p_s)` is what a stage leaves; a weight's part is
/// `FRESH`, or `l_0 / p_0` for the first stage, times the product over the stages behind it. `parts` are the predictions, one a weight.
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
    for (s, (stage, loss)) in stages.iter().zip(losses).enumerate().rev() {
        let predicted: f64 = stage.iter().map(|&t| parts[t]).sum();
        let (own, leaves) = match s.checked_sub(1) {
            Some(ahead) => (
                FRESH,
                ratio(*loss, losses[ahead] + FRESH * predicted).min(1.0),
            ),
            None => (ratio(*loss, predicted), 1.0),
        };
        stage.iter().for_each(|&t| shares[t] = own * left);
        left *= leaves;
    }
    shares
}

/// What of a prediction was found, within bounds; 1 where there is none.
fn ratio(found: f64, predicted: f64) -> f64 {
    let ratio = found / predicted;
    if ratio.is_finite() {
        ratio.clamp(LEAST, 1.0 / LEAST)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: &[f64], expected: &[f64]) {
        let near = |(f, e): (&f64, &f64)| (f - e).abs() < 1e-12;
        let all = found.len() == expected.len() && found.iter().zip(expected).all(near);
        assert!(all, "{found:?} {expected:?}");
    }

    #[test]
    fn earlier_weights_lose_less_in_the_end() {
        let stages = [vec![0, 1], vec![2], vec![3]];
        let parts = [0.3, 0.1, 0.2, 0.1];
        let (third, fourth) = (0.45 / 0.6, 0.44 / 0.5);
        let found = shares(&stages, &[0.5, 0.45, 0.44], &parts);
        let first = 1.25 * third * fourth;
        assert_near(&found, &[first, first, 0.5 * fourth, 0.5]);
        // More than was predicted is no fault of those ahead; less than half of it is none of those behind.
        let found = shares(&stages, &[0.4, 0.7, 0.1], &parts);
        assert_near(&found, &[0.5, 0.5, 0.25, 0.5]);
        // Nothing lost, nothing known.
        assert_near(
            &shares(&stages, &[0.0; 3], &[0.0; 4]),
            &[1.0, 1.0, 0.5, 0.5],
        );
        assert_near(&shares(&stages, &[], &parts), &[1.0; 4]);
        let found = shares(&stages, &[0.4, f64::NAN, 0.2], &parts);
        assert_near(&found, &[1.0, 1.0, 0.5, 0.5]);
    }
}
