//! Solving the weights in order, each on what the network compressed so far really gives it.

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::apply::{Solved, bias_name};
use super::feedback::Effort;
use super::form::{Candidate, Form};
use super::metric::Metric;
use super::solve::{decode, encode, solve};
use super::spd::solve_right;
use super::store::Store;
use crate::calibrate::segment::{self, Overrides, floats};
use crate::calibrate::{Batch, Centre, Drift, Moments, Stages, Target, TargetKind, Values};
use crate::constant::Constant;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::tensor;
use crate::view::GraphView;

/// The part of the drift of what is added to a layer's result that the layer is asked to take back.
const TAKEN_BACK: f64 = 0.5;

/// How strongly a weight is held at the original while it is fitted to the inputs it really gets, in parts of the mean
/// energy of an input.
const HELD: f64 = 0.2;

/// Damping of the norm, in parts of the mean energy of an input.
const DAMPING: f64 = 0.01;

/// The work that goes into a final rounding.
const EFFORT: Effort = Effort::Refined(2);

/// What a plan works on.
pub(crate) struct Context<'a> {
    pub(crate) model: &'a Model,
    pub(crate) view: &'a GraphView<'a>,
    pub(crate) targets: Vec<Target>,
    pub(crate) stages: Stages,
    pub(crate) batches: Vec<Batch>,
    pub(crate) base: Digest,
    pub(crate) store: &'a dyn Store,
    pub(crate) progress: &'a (dyn Fn(&str, usize, usize) + Sync),
}

/// What the layers of one stage are given.
pub(crate) struct Seen {
    pub(crate) moments: Moments,
    drift: Option<Drift>,
}

/// Original and compressed network side by side, batch by batch.
struct Runner<'c> {
    context: &'c Context<'c>,
    original: Vec<Values>,
    compressed: Option<Vec<Values>>,
    overrides: Overrides,
}

impl<'c> Runner<'c> {
    fn new(context: &'c Context<'c>, both: Networks) -> Self {
        let start: Vec<Values> = context.batches.iter().map(|b| b.inputs.clone()).collect();
        let compressed = (both == Networks::Both).then(|| start.clone());
        Self {
            context,
            original: start,
            compressed,
            overrides: Overrides::new(),
        }
    }

    fn advance(&mut self, s: usize) -> Result<()> {
        let c = self.context;
        let none = Overrides::new();
        let go = |values: &mut Values, overrides: &Overrides| {
            segment::run(c.model, c.view, &c.stages, s, overrides, values)
        };
        self.original
            .par_iter_mut()
            .try_for_each(|v| go(v, &none))?;
        let overrides = &self.overrides;
        match &mut self.compressed {
            Some(compressed) => compressed.par_iter_mut().try_for_each(|v| go(v, overrides)),
            None => Ok(()),
        }
    }

    /// What one weight is given, over all batches.
    fn seen(&self, t: usize) -> Result<Seen> {
        let c = self.context;
        let target = &c.targets[t];
        let TargetKind::Dense(layers) = target.kind() else {
            return Ok(Seen {
                moments: Moments::new(0),
                drift: None,
            });
        };
        let [m, k] = target.shape();
        let mut moments = Moments::new(k);
        let residual = c.stages.residual(t).filter(|_| self.compressed.is_some());
        let mut drift = residual.map(|_| Drift::new(m, k));
        for (b, batch) in c.batches.iter().enumerate() {
            let original = &self.original[b];
            let compressed = self.compressed.as_ref().map_or(original, |v| &v[b]);
            for (n, layer) in layers.iter().enumerate() {
                // A later use may stand in a later stage: its inputs are not there yet.
                if n > 0 && !original.contains_key(layer.input()) {
                    continue;
                }
                let rows = |values: &Values, name: &str| -> Result<Array2<f32>> {
                    let value = floats(values, name)?;
                    let turned = name == layer.input() && layer.is_input_transposed();
                    Ok(batch.rows(&if turned { value.reversed_axes() } else { value }))
                };
                let x = rows(original, layer.input())?;
                let y = if self.compressed.is_some() {
                    rows(compressed, layer.input())?
                } else {
                    x.clone()
                };
                moments.add(x.view(), y.view());
                if let (Some(drift), Some(name)) = (&mut drift, residual) {
                    let difference = rows(original, name)? - rows(compressed, name)?;
                    if difference.dim() == (y.nrows(), m) {
                        drift.add(difference.view(), y.view());
                    }
                }
            }
        }
        Ok(Seen { moments, drift })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Networks {
    Original,
    Both,
}

pub(crate) fn failed(target: &Target, problem: String) -> Error {
    Error::Plan {
        weight: target.name().to_string(),
        problem,
    }
}

/// What is done with a weight, by its index: what the original gives it, its matrix, its metric.
type Visit<'a> = dyn Fn(usize, &Seen, &Array2<f32>, &Metric) -> Result<()> + Sync + 'a;

/// Calls `visit` with every weight and what the original gives it, stage by stage.
pub(crate) fn survey(
    context: &Context<'_>,
    visit: &Visit<'_>,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<()> {
    let mut runner = Runner::new(context, Networks::Original);
    let stages = context.stages.stages().len();
    for (s, stage) in context.stages.stages().iter().enumerate() {
        if context.stages.stages()[s..]
            .iter()
            .flatten()
            .all(|&t| done(t))
        {
            break;
        }
        (context.progress)("calibrate", s, stages);
        runner.advance(s)?;
        stage.par_iter().filter(|&&t| !done(t)).try_for_each(|&t| {
            let target = &context.targets[t];
            let seen = runner.seen(t)?;
            let weight = weight(context, t)?;
            let metric = norm(context, t, &seen)?;
            visit(t, &seen, &weight, &metric).map_err(|e| match e {
                Error::Plan { problem, .. } => failed(target, problem),
                other => other,
            })
        })?;
    }
    (context.progress)("calibrate", stages, stages);
    Ok(())
}

fn weight(context: &Context<'_>, t: usize) -> Result<Array2<f32>> {
    let target = &context.targets[t];
    target
        .matrix(context.view)
        .map_err(|reason| failed(target, reason.to_string()))
}

fn norm(context: &Context<'_>, t: usize, seen: &Seen) -> Result<Metric> {
    let target = &context.targets[t];
    match target.kind() {
        TargetKind::Table(_) => Ok(Metric::identity(target.shape()[1])),
        TargetKind::Dense(_) => {
            let own = seen.moments.own(centre(context, t));
            Metric::new(own.view(), DAMPING).map_err(|problem| failed(target, problem))
        }
    }
}

fn centre(context: &Context<'_>, t: usize) -> Centre {
    if bias_name(context.view, &context.targets[t]).is_some() {
        Centre::Mean
    } else {
        Centre::Zero
    }
}

/// Solves every weight as chosen. Results that the store has are taken from there.
pub(crate) fn solve_all(context: &Context<'_>, choices: &[Candidate]) -> Result<Vec<Solved>> {
    let mut solved: Vec<Option<Solved>> = vec![None; choices.len()];
    let mut runner = Runner::new(context, Networks::Both);
    let mut upstream = context.base.add(b"sequence 1");
    let (mut done, total) = (0, choices.len());
    let last = context.stages.stages().len();
    for (s, stage) in context.stages.stages().iter().enumerate() {
        (context.progress)("solve", done, total);
        let key = |t: usize| {
            let choice = serde_json::to_vec(&choices[t]).unwrap_or_default();
            upstream
                .add(context.targets[t].name().as_bytes())
                .add(&choice)
                .key()
        };
        let kept: Vec<Option<Solved>> = stage
            .iter()
            .map(|&t| recall(context, &choices[t], &key(t)))
            .collect();
        // Past the last stage that has work left, the networks need not run.
        runner.advance(s)?;
        let fresh: Vec<Solved> = stage
            .par_iter()
            .zip(kept)
            .map(|(&t, kept)| match kept {
                Some(kept) => Ok(kept),
                None => {
                    let result = job(&runner, t, &choices[t])?;
                    context
                        .store
                        .put(&key(t), &encode(&result.form, result.bias.as_deref()));
                    Ok(result)
                }
            })
            .collect::<Result<_>>()?;
        for (&t, result) in stage.iter().zip(fresh) {
            let choice = serde_json::to_vec(&choices[t]).unwrap_or_default();
            upstream = upstream
                .add(context.targets[t].name().as_bytes())
                .add(&choice);
            if s + 1 < last {
                replace(context, t, &result, &mut runner.overrides);
            }
            solved[t] = Some(result);
            done += 1;
        }
    }
    (context.progress)("solve", total, total);
    Ok(solved
        .into_iter()
        .map(|s| {
            s.unwrap_or(Solved {
                form: Form::Keep,
                bias: None,
            })
        })
        .collect())
}

fn recall(context: &Context<'_>, choice: &Candidate, key: &str) -> Option<Solved> {
    let (form, bias) = decode(choice, &context.store.get(key)?)?;
    Some(Solved { form, bias })
}

/// Puts what a weight became in its place in the compressed network.
fn replace(context: &Context<'_>, t: usize, solved: &Solved, overrides: &mut Overrides) {
    let target = &context.targets[t];
    if let Some(matrix) = solved.form.matrix() {
        let (data, shape) = target.operand(&matrix);
        overrides.insert(
            target.value().to_string(),
            tensor::from_f32(target.value(), &shape, &data),
        );
    }
    if let (Some(bias), Some(name)) = (&solved.bias, bias_name(context.view, target)) {
        overrides.insert(name.clone(), tensor::from_f32(&name, &[bias.len()], bias));
    }
}

/// One weight: fitted to the inputs it really gets, then rounded in their norm.
fn job(runner: &Runner<'_>, t: usize, choice: &Candidate) -> Result<Solved> {
    let context = runner.context;
    let target = &context.targets[t];
    if *choice == Candidate::Keep {
        return Ok(Solved {
            form: Form::Keep,
            bias: None,
        });
    }
    let original = weight(context, t)?;
    let seen = runner.seen(t)?;
    let metric = norm(context, t, &seen)?;
    let wanted = match target.kind() {
        TargetKind::Table(_) => original.clone(),
        TargetKind::Dense(_) => fitted(context, t, &original, &seen),
    };
    let form =
        solve(wanted.view(), &metric, choice, EFFORT).map_err(|problem| failed(target, problem))?;
    let bias = match (bias_name(context.view, target), form.matrix()) {
        (Some(name), Some(matrix)) => Constant::find(context.view, &name)
            .and_then(|c| c.to_f32())
            .map(|bias| {
                let [x, y] = seen.moments.means(Centre::Mean);
                let drifted = drift_mean(&seen).map(|d| d * TAKEN_BACK);
                let old = original.mapv(f64::from).dot(&x);
                let new = matrix.mapv(f64::from).dot(&y);
                let shift = |i: usize| old[i] - new[i] + drifted.as_ref().map_or(0.0, |d| d[i]);
                bias.iter()
                    .enumerate()
                    .map(|(i, b)| (f64::from(*b) + shift(i)) as f32)
                    .collect()
            }),
        _ => None,
    };
    Ok(Solved { form, bias })
}

fn drift_mean(seen: &Seen) -> Option<Array1<f64>> {
    seen.drift
        .as_ref()
        .map(|d| &d.sum / seen.moments.count().max(1.0))
}

/// `argmin ||W x + part of the drift - V y||² + held ||V - W||²`: the weight that would do best on the inputs it gets.
///
/// # Source
/// The reconstruction target of asymmetric calibration (Li et al. 2025, GPTAQ, arXiv 2504.02692), with a ridge toward
/// the original and, beyond it, the residual stream's own error in the target.
fn fitted(context: &Context<'_>, t: usize, original: &Array2<f32>, seen: &Seen) -> Array2<f32> {
    let centre = centre(context, t);
    let own = seen.moments.own(centre);
    let wide = original.mapv(f64::from);
    let mut missing = wide.dot(&(seen.moments.cross(centre) - &own));
    if let Some(drift) = &seen.drift {
        let n = seen.moments.count().max(1.0);
        let [_, y] = seen.moments.means(centre);
        let mean = &drift.sum / n;
        missing +=
            &((&drift.cross / n - crate::calibrate::outer(mean.view(), y.view())) * TAKEN_BACK);
    }
    let k = own.nrows();
    let energy = own.diag().iter().sum::<f64>() / k.max(1) as f64;
    if energy <= 0.0 || !missing.iter().all(|v| v.is_finite()) {
        return original.clone();
    }
    let held = HELD * energy * (1.0 + k as f64 / seen.moments.count().max(1.0));
    let mut damped = own;
    damped.diag_mut().iter_mut().for_each(|d| *d += held);
    (wide + solve_right(damped.view(), &missing)).mapv(|v| v as f32)
}
