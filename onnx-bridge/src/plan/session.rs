//! The whole way: measure, choose, solve, check against the original, choose again.

use std::collections::BTreeMap;

use prost::Message;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::apply::{Solved, apply};
use super::check::{Outputs, check};
use super::context::{Context, failed};
use super::form::Candidate;
use super::losses::{measure_losses, offers};
use super::outputs::loss_of_rows;
use super::ranks;
use super::record::Plan;
use super::search::Search;
use super::sequence::{Wanted, solve_all};
use super::store::Store;
use super::tradeoff::Tradeoff;
use crate::calibrate::{Batch, Stages, Target};
use crate::dataset::Dataset;
use crate::digest::Digest;
use crate::emit::packed::RunsOn;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::ModelProto;
use crate::skip::SkipReason;
use crate::verify::Verification;
use crate::view::GraphView;

/// The most samples that calibration runs on, spread evenly over the data.
const SAMPLES: usize = 1024;

/// What the rewritten model has to keep. Without any goal: a verified loss of 0.005.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Goal {
    /// The most bytes of the file.
    pub bytes: Option<u64>,
    /// The largest relative L2 distance of the outputs, over the positions that count.
    pub loss: Option<f64>,
    /// The largest loss of accuracy, in parts of 1, on data with labels.
    pub drop: Option<f64>,
    /// The least speed-up, by the plan's cost model: multiply-adds of the rewritten weights.
    pub speed: Option<f64>,
}

/// What the planner may do, and how it reports.
pub struct Session<'a> {
    /// The data it calibrates on.
    pub data: &'a Dataset,
    /// The goal.
    pub goal: Goal,
    /// Which engines the model is written for.
    pub runs_on: RunsOn,
    /// Which candidates a weight may become; [`Candidate::Keep`] is offered where nothing else is allowed.
    pub allow: &'a (dyn Fn(&Target, &Candidate) -> bool + Sync),
    /// Where finished jobs are kept.
    pub store: &'a dyn Store,
    /// Called with a stage's name, what is done and what there is to do.
    pub progress: &'a (dyn Fn(&str, usize, usize) + Sync),
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("goal", &self.goal)
            .field("samples", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// A rewritten model with the plan it came from and what it really loses.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Planned {
    /// The model.
    pub model: Model,
    /// The choices; [`replay`] makes the same bytes from them.
    pub plan: Plan,
    /// The weights in the order of the plan.
    pub solved: Vec<Solved>,
    /// `||W - W~|| / ||W||` in the Frobenius norm, of every weight in the order of the plan.
    pub errors: Vec<f64>,
    /// Weights that no choice was made for, with the reason.
    pub skipped: Vec<(String, SkipReason)>,
    /// What the rewritten model was found to lose on the calibration data: goals are held to this.
    pub verification: Verification,
    /// The weights that stand in the way of the goal, where it was missed.
    pub blocking: Option<Vec<String>>,
    /// What the planner saw around its choice, every plan that it tried with it; none for a replayed plan.
    pub tradeoff: Option<Tradeoff>,
}

/// Calibrates, chooses, solves and verifies.
///
/// # Numerics
/// Deterministic: the same model, data, goal and number of threads give the same bytes, with or without a store that
/// has part of the jobs.
///
/// # Errors
/// [`Error::Engine`] where tract does not run the model, [`Error::MissingInput`] and [`Error::Dataset`] where the data
/// does not fit it, [`Error::Plan`] where a weight cannot be solved. A goal that cannot be met is no error: the best
/// that was found comes back with [`Planned::blocking`].
pub fn compress_planned(model: &Model, session: &Session<'_>) -> Result<Planned> {
    if session.goal.drop.is_some() && session.data.labels().is_none() {
        return Err(Error::Dataset {
            array: Dataset::LABELS.into(),
            problem: "expected the classes of the samples for a goal on accuracy, found none"
                .into(),
        });
    }
    search(model, session, |search, skipped| search.run(skipped))
}

/// Chooses again within [`Goal::bytes`] once a model so planned was trained: `left` says by a weight's name what is left of its squared
/// loss, as `finetune::left_by_training` finds it, and weights that train well give up bytes to others.
///
/// # Errors
/// As [`compress_planned`]; [`Error::Plan`] without a goal of bytes.
pub fn plan_again(
    model: &Model,
    session: &Session<'_>,
    left: &BTreeMap<String, f64>,
) -> Result<Planned> {
    search(model, session, |search, skipped| {
        search.run_trained(left, skipped)
    })
}

/// Measures, and searches by what was measured.
fn search(
    model: &Model,
    session: &Session<'_>,
    run: impl FnOnce(Search<'_>, Skipped) -> Result<Planned>,
) -> Result<Planned> {
    let view = GraphView::new(model);
    let (context, skipped) = context(model, &view, session, session.runs_on)?;
    let mut offers = offers(&context, session);
    let mut losses = measure_losses(&context, session, &offers)?;
    if session.goal.bytes.is_none() {
        // A size is met with what was measured; how small a file may be is told only by looking between.
        ranks::between(&context.targets, context.runs_on, &mut offers, &mut losses);
    }
    run(Search::new(&context, session, &offers, &losses), skipped)
}

/// Makes the model that a plan describes: with the same model and data, the same bytes as when it was planned. It is written
/// for the engines that the plan names.
///
/// # Errors
/// As [`compress_planned`]; [`Error::Plan`] where the plan does not fit the model.
pub fn replay(model: &Model, session: &Session<'_>, plan: &Plan) -> Result<Planned> {
    let view = GraphView::new(model);
    let (context, skipped) = context(model, &view, session, plan.runs_on)?;
    let mut choices = Vec::with_capacity(context.targets.len());
    for target in &context.targets {
        let found = plan
            .weights
            .iter()
            .find(|w| w.name == target.name() && w.shape == target.shape());
        let missing = || {
            failed(
                target,
                format!(
                    "expected an entry of shape {:?} in the plan, found none",
                    target.shape()
                ),
            )
        };
        choices.push(Wanted {
            choice: found.ok_or_else(missing)?.choice,
            rival: None,
        });
    }
    let (solved, originals) = solve_all(&context, &choices)?;
    let (rewritten, verification) = write(&context, session, &solved, &originals)?;
    Ok(Planned {
        model: rewritten,
        plan: plan.clone(),
        errors: relative_errors(&context, &solved)?,
        solved,
        skipped,
        verification,
        blocking: None,
        tradeoff: None,
    })
}

/// Writes what the weights became into the model, and what that loses.
///
/// tract, which runs the check, has no operators for what is written for ONNX Runtime: there the same codes are checked as
/// portable operators.
pub(crate) fn write(
    context: &Context<'_>,
    session: &Session<'_>,
    solved: &[Solved],
    originals: &[Outputs],
) -> Result<(Model, Verification)> {
    let apply = |runs_on| {
        apply(
            context.model,
            context.view,
            &context.targets,
            solved,
            runs_on,
        )
    };
    let (written, _) = apply(context.runs_on)?;
    let verification = match context.runs_on {
        RunsOn::Ort => check(context, session, originals, &apply(RunsOn::Portable)?.0)?,
        RunsOn::Portable | RunsOn::Tract => check(context, session, originals, &written)?,
    };
    Ok((written, verification))
}

/// `||W - W~|| / ||W||` of every weight.
pub(crate) fn relative_errors(context: &Context<'_>, solved: &[Solved]) -> Result<Vec<f64>> {
    let one = |(target, solved): (&Target, &Solved)| {
        loss_of_rows(context.view, target, &solved.form, None).map(f64::sqrt)
    };
    let errors = context.targets.par_iter().zip(solved).map(one).collect();
    context.model.release();
    errors
}

/// Weights that nothing is chosen for, and why.
pub(crate) type Skipped = Vec<(String, SkipReason)>;

fn context<'a>(
    model: &'a Model,
    view: &'a GraphView<'a>,
    session: &Session<'a>,
    runs_on: RunsOn,
) -> Result<(Context<'a>, Skipped)> {
    let (mut targets, mut skipped) = (Vec::new(), Vec::new());
    for (name, found) in Target::all(view) {
        match found {
            Ok(target) => targets.push(target),
            Err(reason) => skipped.push((name, reason)),
        }
    }
    crate::engine::check_data(model, session.data)?;
    let batches = Batch::all(model, session.data, SAMPLES)?;
    let base = digest(model, session.data)?;
    let stages = Stages::new(view, &targets);
    let (store, progress) = (session.store, session.progress);
    Ok((
        Context {
            model,
            view,
            targets,
            stages,
            batches,
            base,
            runs_on,
            store,
            progress,
        },
        skipped,
    ))
}

/// Of all that a plan depends on but the goal: the model, its tensors one by one, and the data.
fn digest(model: &Model, data: &Dataset) -> Result<Digest> {
    let mut frame: ModelProto = model.proto().clone();
    let mut base = Digest::default().add(b"plan 2");
    for tensor in frame.graph.iter_mut().flat_map(|g| &mut g.initializer) {
        if let Some(raw) = tensor.raw_data.take() {
            base = base.add(&raw);
        }
    }
    base = base.add(&frame.encode_to_vec());
    for (name, array) in data.arrays() {
        base = base.add(name.as_bytes()).add(array.dtype().as_bytes());
        base = array.to_f32().iter().fold(
            base.add(format!("{:?}", array.shape()).as_bytes()),
            |d, v| d.add(&v.to_le_bytes()),
        );
    }
    Ok(base)
}
