//! What every candidate is predicted to lose: its own error, times what the model's output makes of errors like it.

use std::sync::Mutex;

use super::apply::Solved;
use super::candidates::{candidates, errors, sensible};
use super::context::{Context, failed};
use super::form::{Candidate, Form};
use super::probes::{Gains, error_of, probes};
use super::session::Session;
use super::solve::{decode, encode};
use super::survey::survey;
use crate::calibrate::{Batch, measure};
use crate::digest::Digest;
use crate::error::Result;

/// The most samples that losses are measured on.
const MEASURED_SAMPLES: usize = 32;

/// What every weight may become.
pub(crate) fn offers(context: &Context<'_>, session: &Session<'_>) -> Vec<Vec<Candidate>> {
    let offers = context.targets.iter().map(|target| {
        let all = candidates(target, context.runs_on)
            .into_iter()
            .filter(|c| (session.allow)(target, c));
        sensible(all.collect())
    });
    offers.collect()
}

/// What is known of one weight's candidates, and where it is kept.
struct Known {
    digest: Digest,
    probes: Vec<usize>,
    /// The error of every candidate.
    errors: Option<Vec<f64>>,
    /// The measured loss of every probe.
    losses: Option<Vec<f64>>,
}

impl Known {
    fn new(context: &Context<'_>, t: usize, offered: &[Candidate]) -> Self {
        let target = &context.targets[t];
        let offers = serde_json::to_vec(offered).unwrap_or_default();
        let digest = context
            .base
            .add(b"curve 8")
            .add(target.name().as_bytes())
            .add(&offers);
        let recall = |what: &[u8], len: usize| -> Option<Vec<f64>> {
            let found = context.store.get(&digest.add(what).key())?;
            let found: Vec<Option<f64>> = serde_json::from_slice(&found).ok()?;
            let found: Vec<f64> = found
                .into_iter()
                .map(|e| e.unwrap_or(f64::INFINITY))
                .collect();
            (found.len() == len).then_some(found)
        };
        let probes = probes(offered, target, context.runs_on);
        let mut known = Self {
            digest,
            errors: recall(ERRORS, offered.len()),
            losses: recall(LOSSES, probes.len()),
            probes,
        };
        let worth = |errors: &[f64], i: usize| errors[i].is_finite();
        let lacks = |errors: &Vec<f64>| {
            let mut needed = known.probes.iter().filter(|&&i| worth(errors, i));
            needed.any(|&i| known.form(context, i).is_none())
        };
        // To measure losses, forms are needed that errors were taken of.
        if known.losses.is_none() && known.errors.as_ref().is_some_and(lacks) {
            known.errors = None;
        }
        known
    }

    fn put(&self, context: &Context<'_>, what: &[u8], numbers: &[f64]) {
        // A number that is infinite is nothing.
        let finite: Vec<Option<f64>> = numbers
            .iter()
            .map(|e| e.is_finite().then_some(*e))
            .collect();
        let bytes = serde_json::to_vec(&finite).unwrap_or_default();
        context.store.put(&self.digest.add(what).key(), &bytes);
    }

    fn form_key(&self, i: usize) -> String {
        self.digest
            .add(b"form")
            .add(&(i as u64).to_le_bytes())
            .key()
    }

    /// What a probe made of the weight, or of some rows of a table.
    fn form(&self, context: &Context<'_>, i: usize) -> Option<Form> {
        let bytes = context.store.get(&self.form_key(i))?;
        decode(&bytes).map(|solved| solved.form)
    }

    fn keep_form(&self, context: &Context<'_>, i: usize, choice: Candidate, form: &Form) {
        let needed = self.losses.is_none() && self.probes.contains(&i);
        if needed && self.form(context, i).is_none() {
            let solved = Solved::new(choice, form.clone());
            context.store.put(&self.form_key(i), &encode(&solved));
        }
    }
}

const ERRORS: &[u8] = b"errors";

const LOSSES: &[u8] = b"losses";

/// The predicted loss of every candidate, squared relative output error.
pub(crate) fn measure_losses(
    context: &Context<'_>,
    session: &Session<'_>,
    offers: &[Vec<Candidate>],
) -> Result<Vec<Vec<f64>>> {
    let weights = offers.iter().enumerate();
    let mut known: Vec<Known> = weights.map(|(t, o)| Known::new(context, t, o)).collect();
    let found: Mutex<Vec<Option<Vec<f64>>>> = Mutex::new(vec![None; known.len()]);
    survey(
        context,
        &|t, weight, metric| {
            let (target, offered) = (&context.targets[t], &offers[t]);
            let mut made = |i: usize, form: &Form| known[t].keep_form(context, i, offered[i], form);
            let errors = errors(weight, metric, offered, target, context.runs_on, &mut made)
                .map_err(|problem| failed(target, problem))?;
            known[t].put(context, ERRORS, &errors);
            if let Ok(mut found) = found.lock() {
                found[t] = Some(errors);
            }
            Ok(())
        },
        &|t| known[t].errors.is_some(),
    )?;
    let found = found.into_inner().unwrap_or_default();
    for (known, found) in known.iter_mut().zip(found) {
        known.errors = known.errors.take().or(found);
    }
    measure_probes(context, session, offers, &mut known)?;
    let predicted = known.into_iter().zip(offers).map(|(known, offered)| {
        let errors = known
            .errors
            .unwrap_or_else(|| vec![f64::INFINITY; offered.len()]);
        let losses = known.losses.unwrap_or_default();
        let probed = known.probes.iter().zip(losses);
        let gains = Gains::new(probed.map(|(&i, loss)| (offered[i], errors[i], loss)));
        let each = offered.iter().zip(errors);
        each.map(|(candidate, error)| gains.loss(candidate, error))
            .collect()
    });
    Ok(predicted.collect())
}

/// The samples that losses are measured on.
pub(super) fn measured_on(context: &Context<'_>, session: &Session<'_>) -> Result<Option<Batch>> {
    let batches = Batch::all(context.model, session.data, MEASURED_SAMPLES)?;
    Ok(batches.into_iter().next())
}

/// Measures what the probes lose of those weights where it is not known.
fn measure_probes(
    context: &Context<'_>,
    session: &Session<'_>,
    offers: &[Vec<Candidate>],
    known: &mut [Known],
) -> Result<()> {
    if known.iter().all(|k| k.losses.is_some()) {
        return Ok(());
    }
    (context.progress)("sensitivity", 0, 1);
    let Some(batch) = measured_on(context, session)? else {
        return Ok(());
    };
    let counts = known.iter().map(|k| match k.losses {
        Some(_) => 0,
        None => k.probes.len(),
    });
    let counts: Vec<usize> = counts.collect();
    let measured = measure(&context.cut(), &batch, &counts, &|t, p, weight| {
        let i = known[t].probes[p];
        let Some(form) = known[t].form(context, i) else {
            return Ok(None);
        };
        let target = &context.targets[t];
        error_of(&form, &offers[t][i], target.kind(), weight)
            .map(Some)
            .map_err(|problem| failed(target, problem))
    })?;
    for (known, losses) in known.iter_mut().zip(measured) {
        if known.losses.is_none() {
            known.put(context, LOSSES, &losses);
            known.losses = Some(losses);
        }
    }
    (context.progress)("sensitivity", 1, 1);
    Ok(())
}
