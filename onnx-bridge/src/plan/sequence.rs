//! Solving the weights in order, each on what the network compressed so far really gives it.

use ndarray::Array2;
use rayon::prelude::*;
use serde::Serialize;

use super::apply::{OutputLoss, Solved, bias_name, changed_bias};
use super::check::Outputs;
use super::context::{Context, centre, failed, norm, weight};
use super::feedback::Effort;
use super::form::{Candidate, Form};
use super::outputs::{LayerOutputs, loss_of_rows};
use super::runner::{Networks, Runner};
use super::solve::{decode, encode, solve};
use super::spd::solve_right;
use crate::calibrate::TargetKind;
use crate::constant::Constant;
use crate::digest::Digest;
use crate::error::Result;

/// How strongly a weight is held at the original while it is fitted to the inputs it really gets, in parts of the mean
/// energy of an input.
const HELD: f64 = 0.2;

/// The work that goes into a final rounding.
const EFFORT: Effort = Effort::Refined(2);

/// What a weight is to become.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Wanted {
    pub(crate) choice: Candidate,
    /// A matrix in blocks of no more bytes, which takes its place where it turns out to lose less.
    pub(crate) rival: Option<Candidate>,
}

/// Solves every weight as chosen. Results that the store has are taken from there. Beside them what the original makes of
/// every batch.
pub(crate) fn solve_all(
    context: &Context<'_>,
    choices: &[Wanted],
) -> Result<(Vec<Solved>, Vec<Outputs>)> {
    let mut solved: Vec<Option<Solved>> = vec![None; choices.len()];
    let mut runner = Runner::new(context, Networks::Both);
    let mut upstream = context.base.add(SEQUENCE);
    let (mut done, total) = (0, choices.len());
    for (s, stage) in context.stages.stages().iter().enumerate() {
        (context.progress)("solve", done, total);
        let key = |t: usize| key(context, upstream, t, &choices[t]);
        let kept: Vec<Option<Solved>> = stage
            .iter()
            .map(|&t| decode(&context.store.get(&key(t))?))
            .collect();
        runner.advance(s, &solved)?;
        let fresh: Vec<Solved> = stage
            .par_iter()
            .zip(kept)
            .map(|(&t, kept)| match kept {
                Some(kept) => Ok(kept),
                None => {
                    let result = job(&runner, t, &choices[t])?;
                    context.store.put(&key(t), &encode(&result));
                    Ok(result)
                }
            })
            .collect::<Result<_>>()?;
        for (&t, result) in stage.iter().zip(fresh) {
            upstream = with_choice(context, upstream, t, &choices[t]);
            let bias = changed_bias(context.view, &context.targets[t], &result);
            runner.overrides.extend(bias);
            solved[t] = Some(result);
            done += 1;
        }
    }
    (context.progress)("solve", total, total);
    runner.compressed = None;
    for s in context.stages.stages().len()..context.stages.segments().len() {
        runner.advance(s, &[])?;
    }
    let kept = |s: Option<Solved>| s.unwrap_or_else(|| Solved::new(Candidate::Keep, Form::Keep));
    Ok((solved.into_iter().map(kept).collect(), runner.outputs()))
}

/// What [`solve_all`] made of these choices before, where the store has all of it: no network is run.
pub(crate) fn recall(context: &Context<'_>, choices: &[Wanted]) -> Option<Vec<Solved>> {
    let mut solved: Vec<Option<Solved>> = vec![None; choices.len()];
    let mut upstream = context.base.add(SEQUENCE);
    for stage in context.stages.stages() {
        for &t in stage {
            solved[t] = Some(decode(&context.store.get(&key(
                context,
                upstream,
                t,
                &choices[t],
            ))?)?);
        }
        for &t in stage {
            upstream = with_choice(context, upstream, t, &choices[t]);
        }
    }
    solved.into_iter().collect()
}

/// What every job's key starts with.
const SEQUENCE: &[u8] = b"sequence 5";

/// The digest of what stands before a job, and what the job makes.
fn with_choice(context: &Context<'_>, upstream: Digest, t: usize, choice: &Wanted) -> Digest {
    let choice = serde_json::to_vec(choice).unwrap_or_default();
    let name = context.targets[t].name().as_bytes();
    upstream.add(name).add(&choice)
}

fn key(context: &Context<'_>, upstream: Digest, t: usize, choice: &Wanted) -> String {
    with_choice(context, upstream, t, choice).key()
}

/// One weight: fitted to the inputs it really gets, then rounded in their norm.
fn job(runner: &Runner<'_>, t: usize, asked: &Wanted) -> Result<Solved> {
    let context = runner.context;
    let target = &context.targets[t];
    if asked.choice == Candidate::Keep {
        return Ok(Solved::new(Candidate::Keep, Form::Keep));
    }
    let original = weight(context, t)?;
    let mut seen = runner.seen(t, &original)?;
    let (metric, own) = norm(context, t, &mut seen)?;
    let missing = seen.take_missing(centre(context, t));
    let wanted = match (own, &missing) {
        (Some(own), Some(missing)) => fitted(&original, own, missing, seen.count()),
        _ => None,
    };
    let wanted = wanted.as_ref().unwrap_or(&original);
    let outputs = match target.kind() {
        TargetKind::Table(_) => None,
        TargetKind::Dense(_) | TargetKind::Conv(_) => Some(LayerOutputs {
            original: &original,
            metric: &metric,
            missing: missing.as_ref(),
            lack: seen.lack(centre(context, t)),
            whole: metric.output_energy(original.view()),
        }),
    };
    let solve = |choice: &Candidate| -> Result<(Form, f64)> {
        let form = solve(wanted.view(), &metric, choice, EFFORT)
            .map_err(|problem| failed(target, problem))?;
        let loss = match &outputs {
            Some(outputs) => outputs.loss(&form),
            None => loss_of_rows(context.view, target, &form, metric.rows(original.nrows()))?,
        };
        Ok((form, loss))
    };
    let (mut choice, (mut form, mut own)) = (asked.choice, solve(&asked.choice)?);
    let mut dense = None;
    if let Some(rival) = &asked.rival {
        let (blocks, loss) = solve(rival)?;
        dense = Some(loss);
        if loss < own {
            (choice, form, own) = (*rival, blocks, loss);
        }
    }
    let bias = bias_name(context.view, target).and_then(|name| {
        let bias = Constant::find(context.view, &name)?.to_f32()?;
        let y = seen.mean();
        let error = &original - &form.matrix()?;
        let shift = error.mapv(f64::from).dot(&y) + seen.mean_missing();
        let shifted = bias
            .iter()
            .zip(&shift)
            .map(|(b, s)| (f64::from(*b) + s) as f32);
        Some(shifted.collect())
    });
    Ok(Solved {
        choice,
        form,
        bias,
        loss: OutputLoss { own, dense },
    })
}

/// `argmin E ||W y + d - V y||² + held ||V - W||²`, with `missing` `E[d yᵀ]`: the weight that would do best on the inputs it
/// gets. `None` where that is the original.
///
/// # Source
/// The reconstruction target of asymmetric calibration (Li et al. 2025, GPTAQ, arXiv 2504.02692), with a ridge toward
/// the original and, beyond it, the residual stream's own error in the target.
fn fitted(
    original: &Array2<f32>,
    mut own: Array2<f64>,
    missing: &Array2<f64>,
    count: f64,
) -> Option<Array2<f32>> {
    let k = own.nrows();
    let energy = own.diag().iter().sum::<f64>() / k.max(1) as f64;
    if energy <= 0.0 || !missing.iter().all(|v| v.is_finite()) {
        return None;
    }
    let held = HELD * energy * (1.0 + k as f64 / count.max(1.0));
    own.diag_mut().iter_mut().for_each(|d| *d += held);
    let moved = solve_right(own, missing.clone());
    Some(
        ndarray::Zip::from(original)
            .and(&moved)
            .map_collect(|w, m| (f64::from(*w) + m) as f32),
    )
}
