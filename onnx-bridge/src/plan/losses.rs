//! What every candidate is predicted to lose: its own error, times what the model's output makes of it.

use std::sync::Mutex;

use ndarray::Array2;

use super::candidates::{candidates, errors, sensible};
use super::context::{Context, failed};
use super::feedback::{Effort, quantize};
use super::form::Candidate;
use super::metric::Metric;
use super::session::Session;
use super::survey::survey;
use crate::blocks::{BlockFormat, Levels};
use crate::calibrate::{Batch, Sensitivity, measure};
use crate::error::Result;

/// The most samples that sensitivities are measured on.
const SENSITIVITY_SAMPLES: usize = 48;

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

/// The predicted loss of every candidate, squared relative output error.
pub(crate) fn measure_losses(
    context: &Context<'_>,
    session: &Session<'_>,
    offers: &[Vec<Candidate>],
) -> Result<Vec<Vec<f64>>> {
    let keys: Vec<String> = context
        .targets
        .iter()
        .zip(offers)
        .map(|(t, offered)| {
            let offered = serde_json::to_vec(offered).unwrap_or_default();
            context
                .base
                .add(b"curve 3")
                .add(t.name().as_bytes())
                .add(&offered)
                .key()
        })
        .collect();
    let recall = |key: &str, len: usize| -> Option<Vec<f64>> {
        let found: Vec<Option<f64>> = serde_json::from_slice(&context.store.get(key)?).ok()?;
        let found: Vec<f64> = found
            .into_iter()
            .map(|e| e.unwrap_or(f64::INFINITY))
            .collect();
        (found.len() == len).then_some(found)
    };
    let known: Vec<Option<Vec<f64>>> = keys
        .iter()
        .zip(offers)
        .map(|(k, o)| recall(k, o.len()))
        .collect();
    let found = Mutex::new(known.clone());
    survey(
        context,
        &|t, weight, metric| {
            let target = &context.targets[t];
            let curve = errors(weight, metric, &offers[t], target, context.runs_on)
                .map_err(|problem| failed(target, problem))?;
            context.store.put(
                &keys[t],
                &serde_json::to_vec(&kept(&curve)).unwrap_or_default(),
            );
            if let Ok(mut found) = found.lock() {
                found[t] = Some(curve);
            }
            Ok(())
        },
        &|t| known[t].is_some(),
    )?;
    let gains = sensitivities(context, session)?;
    let curves = found.into_inner().unwrap_or_default();
    let scaled = curves
        .into_iter()
        .zip(&gains)
        .zip(offers)
        .map(|((curve, s), offered)| {
            let curve = curve.unwrap_or_else(|| vec![f64::INFINITY; offered.len()]);
            curve.into_iter().map(|e| e * s.gain).collect()
        });
    Ok(scaled.collect())
}

/// Errors as they are stored: one that is infinite is nothing.
fn kept(errors: &[f64]) -> Vec<Option<f64>> {
    errors.iter().map(|e| e.is_finite().then_some(*e)).collect()
}

fn sensitivities(context: &Context<'_>, session: &Session<'_>) -> Result<Vec<Sensitivity>> {
    let key = context.base.add(b"sensitivity 3").key();
    if let Some(found) = context
        .store
        .get(&key)
        .and_then(|b| serde_json::from_slice::<Vec<f64>>(&b).ok())
        && found.len() == context.targets.len()
    {
        return Ok(found.into_iter().map(|gain| Sensitivity { gain }).collect());
    }
    (context.progress)("sensitivity", 0, 1);
    let batches = Batch::all(context.model, session.data, SENSITIVITY_SAMPLES)?;
    let Some(batch) = batches.first() else {
        return Ok(Vec::new());
    };
    let rounding = |t: usize, weight: Array2<f32>| -> Result<Array2<f32>> {
        let format = BlockFormat {
            levels: Levels::L6,
            block: 128,
        };
        let metric = Metric::identity(weight.ncols());
        let rounded = quantize(weight.view(), &metric, format, Effort::Nearest)
            .map_err(|problem| failed(&context.targets[t], problem))?;
        Ok(super::form::dense(&rounded) - weight)
    };
    let measured = measure(&context.cut(), batch, &rounding)?;
    let gains: Vec<f64> = measured.iter().map(|s| s.gain).collect();
    context
        .store
        .put(&key, &serde_json::to_vec(&gains).unwrap_or_default());
    (context.progress)("sensitivity", 1, 1);
    Ok(measured)
}
