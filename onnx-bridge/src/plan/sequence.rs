//! Solving the weights in order, each on what the network compressed so far really gives it.

use ndarray::Array2;
use rayon::prelude::*;
use serde::Serialize;

use super::apply::{OutputLoss, Solved, bias_name};
use super::check::Outputs;
use super::feedback::Effort;
use super::form::{Candidate, Form};
use super::low_rank::product;
use super::metric::Metric;
use super::outputs::{LayerOutputs, loss_of_rows};
use super::solve::{decode, encode, solve};
use super::spd::solve_right;
use super::store::Store;
use crate::calibrate::segment::{Cut, Overrides, floats};
use crate::calibrate::{
    Batch, Centre, Moments, Operand, Stages, Target, TargetKind, Values, Windows,
};
use crate::constant::Constant;
use crate::conv_layer::ConvLayer;
use crate::digest::Digest;
use crate::emit::packed::RunsOn;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::tensor;
use crate::view::GraphView;

/// The part of the drift of what is added to a layer's result that the layer is asked to take back.
const TAKEN_BACK: f32 = 0.5;

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
    pub(crate) runs_on: RunsOn,
    pub(crate) store: &'a dyn Store,
    pub(crate) progress: &'a (dyn Fn(&str, usize, usize) + Sync),
}

impl Context<'_> {
    /// The graph and where it is cut.
    pub(crate) fn cut(&self) -> Cut<'_> {
        Cut {
            model: self.model,
            view: self.view,
            targets: &self.targets,
            stages: &self.stages,
        }
    }
}

/// Original and compressed network side by side, batch by batch.
struct Runner<'c> {
    context: &'c Context<'c>,
    original: Vec<Values>,
    compressed: Option<Vec<Values>>,
    /// The biases that changed.
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

    /// Runs segment `s`, the compressed network with what its weights became.
    fn advance(&mut self, s: usize, solved: &[Option<Solved>]) -> Result<()> {
        let ran = self.run(s, solved);
        self.context.model.release();
        ran
    }

    fn run(&mut self, s: usize, solved: &[Option<Solved>]) -> Result<()> {
        let cut = self.context.cut();
        let mut operands = cut.originals(s)?;
        let none = Overrides::new();
        self.original
            .par_iter_mut()
            .try_for_each(|v| cut.run(s, &operands, &none, v))?;
        let Some(compressed) = &mut self.compressed else {
            return Ok(());
        };
        for (&t, operand) in &mut operands {
            let became = solved.get(t).and_then(Option::as_ref);
            if let Some(became) =
                became.and_then(|s| s.form.operand(self.context.targets[t].kind()))
            {
                *operand = became;
            }
        }
        let overrides = &self.overrides;
        compressed
            .par_iter_mut()
            .try_for_each(|v| cut.run(s, &operands, overrides, v))
    }

    /// What the original made of every batch.
    fn outputs(self) -> Vec<Outputs> {
        let graph = self.context.view.graph();
        let of = |mut values: Values| {
            let names = graph.output.iter().map(|o| o.name().to_string());
            names
                .filter_map(|name| Some((name.clone(), values.remove(&name)?)))
                .collect()
        };
        self.original.into_iter().map(of).collect()
    }

    /// What one weight is given, over all batches.
    fn seen(&self, t: usize, weight: &Array2<f32>) -> Result<Moments> {
        let c = self.context;
        let target = &c.targets[t];
        let layers = match target.kind() {
            TargetKind::Dense(layers) => layers,
            TargetKind::Conv(layers) => return self.seen_windows(target, layers, weight),
            TargetKind::Table(_) => return Ok(Moments::new(0)),
        };
        let mut moments = Moments::new(target.shape()[1]);
        let residual = c.stages.residual(t);
        for (b, batch) in c.batches.iter().enumerate() {
            let original = &self.original[b];
            for (n, layer) in layers.iter().enumerate() {
                // A later use may stand in a later stage: its inputs are not there yet.
                if n > 0 && !original.contains_key(layer.input()) {
                    continue;
                }
                let rows = |values: &Values, name: &str| -> Result<Array2<f32>> {
                    let value = floats(values, name)?;
                    let turned = name == layer.input() && layer.is_input_transposed();
                    Ok(batch.rows(if turned { value.t() } else { value.view() }))
                };
                let x = rows(original, layer.input())?;
                let Some(compressed) = self.compressed.as_ref().map(|v| &v[b]) else {
                    moments.add(x.view());
                    continue;
                };
                let y = rows(compressed, layer.input())?;
                let mut lacks = product((&x - &y).view(), weight.t())
                    .map_err(|problem| failed(target, problem))?;
                if let Some(name) = residual {
                    let drift = rows(original, name)? - rows(compressed, name)?;
                    if drift.dim() == lacks.dim() {
                        lacks.scaled_add(TAKEN_BACK, &drift);
                    }
                }
                moments.add_pair(x.view(), y.view(), lacks.view());
            }
        }
        Ok(moments)
    }

    /// The windows that one kernel is given, over all batches: some of them where there are many.
    fn seen_windows(
        &self,
        target: &Target,
        layers: &[ConvLayer],
        weight: &Array2<f32>,
    ) -> Result<Moments> {
        let view = self.context.view;
        let mut moments = Moments::new(target.shape()[1]);
        for (b, original) in self.original.iter().enumerate() {
            for (n, layer) in layers.iter().enumerate() {
                if n > 0 && !original.contains_key(layer.input()) {
                    continue;
                }
                let rows = |values: &Values| -> Result<Array2<f32>> {
                    let value = floats(values, layer.input())?;
                    let windows = Windows::over(view, layer, value.shape()).ok_or_else(|| {
                        let problem = format!("expected windows over {:?}", value.shape());
                        failed(target, problem)
                    })?;
                    Ok(windows.sampled(value.view()))
                };
                let x = rows(original)?;
                let Some(compressed) = self.compressed.as_ref().map(|v| &v[b]) else {
                    moments.add(x.view());
                    continue;
                };
                let y = rows(compressed)?;
                let lacks = product((&x - &y).view(), weight.t())
                    .map_err(|problem| failed(target, problem))?;
                moments.add_pair(x.view(), y.view(), lacks.view());
            }
        }
        Ok(moments)
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

/// What is done with a weight, by its index: its matrix and its metric.
type Visit<'a> = dyn Fn(usize, &Array2<f32>, &Metric) -> Result<()> + Sync + 'a;

/// The same, with the moments of its inputs.
type VisitMoments<'a> = dyn Fn(usize, &Array2<f32>, &mut Moments) -> Result<()> + Sync + 'a;

/// Calls `visit` with every weight and the norm of what the original gives it, stage by stage. Of a table the visitor gets
/// `TABLE_ROWS` rows or a few more, spread evenly.
pub(crate) fn survey(
    context: &Context<'_>,
    visit: &Visit<'_>,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<()> {
    let with_norm = |t: usize, weight: &Array2<f32>, seen: &mut Moments| {
        visit(t, weight, &norm(context, t, seen)?.0)
    };
    survey_moments(context, &with_norm, done)
}

/// As [`survey`], with the moments themselves.
pub(crate) fn survey_moments(
    context: &Context<'_>,
    visit: &VisitMoments<'_>,
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
        runner.advance(s, &[])?;
        stage.par_iter().filter(|&&t| !done(t)).try_for_each(|&t| {
            let target = &context.targets[t];
            let weight = sampled(context, t)?;
            visit(t, &weight, &mut runner.seen(t, &weight)?).map_err(|e| match e {
                Error::Plan { problem, .. } => failed(target, problem),
                other => other,
            })
        })?;
    }
    (context.progress)("calibrate", stages, stages);
    Ok(())
}

/// Rows of a table that its curve is measured on.
const TABLE_ROWS: usize = 2048;

/// The matrix of a dense layer, some rows of a table.
fn sampled(context: &Context<'_>, t: usize) -> Result<Array2<f32>> {
    let target = &context.targets[t];
    let rows = target.shape()[0];
    if matches!(target.kind(), TargetKind::Table(_)) {
        let step = (rows / TABLE_ROWS).max(1);
        let some: Vec<usize> = (0..rows).step_by(step).collect();
        if let Some(found) = Operand::original(context.view, target)?.rows(&some) {
            return Ok(found);
        }
    }
    weight(context, t)
}

fn weight(context: &Context<'_>, t: usize) -> Result<Array2<f32>> {
    let target = &context.targets[t];
    target
        .matrix(context.view)
        .map_err(|reason| failed(target, reason.to_string()))
}

/// The norm of a weight's inputs, and the moment that it was made of, where there is one.
fn norm(
    context: &Context<'_>,
    t: usize,
    seen: &mut Moments,
) -> Result<(Metric, Option<Array2<f64>>)> {
    let target = &context.targets[t];
    match target.kind() {
        TargetKind::Table(_) => Ok((Metric::identity(target.shape()[1]), None)),
        TargetKind::Dense(_) | TargetKind::Conv(_) => {
            let own = seen.take_own(centre(context, t));
            let metric = Metric::new(own.view(), DAMPING);
            Ok((
                metric.map_err(|problem| failed(target, problem))?,
                Some(own),
            ))
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
            if let (Some(bias), Some(name)) =
                (&result.bias, bias_name(context.view, &context.targets[t]))
            {
                let bias = tensor::from_f32(&name, &[bias.len()], bias);
                runner.overrides.insert(name, bias);
            }
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
const SEQUENCE: &[u8] = b"sequence 3";

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
            None => loss_of_rows(context.view, target, &form)?,
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
        let [_, y] = seen.means();
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
