//! What a rewritten model really loses: the file's own operators, run on the calibration data.

use std::collections::BTreeMap;

use tn_formats::npy::NpyArray;

use super::context::Context;
use super::session::Session;
use crate::calibrate::Values;
use crate::error::Result;
use crate::model::Model;
use crate::pieces::Pieces;
use crate::verify::{Compared, Synthesized, Tally, Verification, verify};

/// Bytes of packed constants that are unpacked at once: a matrix of a million elements at 4 bits.
const PIECE: u64 = 1 << 19;

/// What the original makes of one batch: its outputs by name.
pub(crate) type Outputs = BTreeMap<String, NpyArray>;

/// Runs a rewritten model on every batch and compares it with what the original made of them.
///
/// A goal on accuracy counts all labelled samples, not only those that calibration runs on.
pub(crate) fn check(
    context: &Context<'_>,
    session: &Session<'_>,
    originals: &[Outputs],
    rewritten: &Model,
) -> Result<Verification> {
    (context.progress)("verify", 0, 1);
    let labels = session.data.labels();
    let verification = if session.goal.drop.is_some() && labels.is_some() {
        verify(context.model, rewritten, session.data)?
    } else {
        let mut runs: Vec<Values> = context.batches.iter().map(|b| b.inputs.clone()).collect();
        Pieces::cut(rewritten, PIECE).run_batches(&mut runs)?;
        let outputs = &rewritten.graph().output;
        let mut tally = Tally::default();
        for ((batch, original), mut after) in context.batches.iter().zip(originals).zip(runs) {
            // An output that depends on no input is none that the original was run for.
            let (mut names, mut pair) = (Vec::new(), [Vec::new(), Vec::new()]);
            for name in outputs.iter().map(|o| o.name()) {
                if let (Some(before), Some(after)) = (original.get(name), after.remove(name)) {
                    names.push(name.to_string());
                    pair[0].push(before.clone());
                    pair[1].push(after);
                }
            }
            let size = batch.inputs.values().next();
            let compared = Compared {
                names: &names,
                outputs: [&pair[0], &pair[1]],
                samples: &batch.samples,
                size: size.and_then(|a| a.shape().first().copied()).unwrap_or(0),
                mask: batch.mask(),
            };
            tally.add(&compared, labels)?;
        }
        tally.finish(Synthesized::No)
    };
    (context.progress)("verify", 1, 1);
    Ok(verification)
}
