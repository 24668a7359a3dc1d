//! The whole way: measure, choose, solve, check against the original, choose again.

use std::sync::Mutex;

use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::allocate::{Limits, Outcome, allocate};
use super::apply::{Solved, apply};
use super::curve::{Curve, Point};
use super::feedback::{Effort, quantize};
use super::form::{Candidate, Form};
use super::metric::Metric;
use super::record::{Plan, PlannedWeight};
use super::sequence::{Context, failed, solve_all, survey};
use super::solve::{candidates, errors};
use super::store::Store;
use crate::blocks::{BlockFormat, BlockMatrix, Levels};
use crate::calibrate::{Batch, Sensitivity, Stages, Target, measure, square_sums};
use crate::dataset::Dataset;
use crate::digest::Digest;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::skip::SkipReason;
use crate::view::GraphView;

/// The most samples that calibration runs on, spread evenly over the data.
const SAMPLES: usize = 1024;

/// The most samples that sensitivities are measured on.
const SENSITIVITY_SAMPLES: usize = 48;

/// A file this much smaller, in parts, has to miss the goal for a search to end.
const TIGHT: f64 = 0.03;

/// The most plans that are solved and checked for one goal.
const ROUNDS: usize = 8;

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
    /// The verified loss: relative L2 of the outputs on the calibration data.
    pub loss: f64,
    /// Accuracy before and after, on data with labels.
    pub accuracy: Option<[f64; 2]>,
    /// The weights that stand in the way of the goal, where it was missed.
    pub blocking: Option<Vec<String>>,
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
    let view = GraphView::new(model);
    let (context, skipped) = context(model, &view, session)?;
    let offers = offers(&context, session);
    let losses = measure_losses(&context, session, &offers)?;
    let mut search = Search::new(&context, session, &offers, &losses)?;
    search.run()?;
    search.finish(skipped)
}

/// Makes the model that a plan describes: with the same model and data, the same bytes as when it was planned.
///
/// # Errors
/// As [`compress_planned`]; [`Error::Plan`] where the plan does not fit the model.
pub fn replay(model: &Model, session: &Session<'_>, plan: &Plan) -> Result<Planned> {
    let view = GraphView::new(model);
    let (context, skipped) = context(model, &view, session)?;
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
        choices.push(found.ok_or_else(missing)?.choice);
    }
    let solved = solve_all(&context, &choices)?;
    let (rewritten, _) = apply(model, &view, &context.targets, &solved)?;
    let checked = check(&context, session, &rewritten)?;
    Ok(Planned {
        model: rewritten,
        plan: plan.clone(),
        errors: relative_errors(&context, &solved)?,
        solved,
        skipped,
        loss: checked.loss,
        accuracy: checked.accuracy,
        blocking: None,
    })
}

fn relative_errors(context: &Context<'_>, solved: &[Solved]) -> Result<Vec<f64>> {
    let errors = context
        .targets
        .par_iter()
        .zip(solved)
        .map(|(target, solved)| {
            let Some(matrix) = solved.form.matrix() else {
                return Ok(0.0);
            };
            let weight = target
                .matrix(context.view)
                .map_err(|reason| failed(target, reason.to_string()))?;
            let square = |v: f32| f64::from(v).powi(2);
            let error: f64 = weight.iter().zip(&matrix).map(|(a, b)| square(a - b)).sum();
            let norm: f64 = weight.iter().map(|v| square(*v)).sum();
            Ok(if error == 0.0 {
                0.0
            } else {
                (error / norm.max(f64::MIN_POSITIVE)).sqrt()
            })
        });
    errors.collect()
}

type Skipped = Vec<(String, SkipReason)>;

fn context<'a>(
    model: &'a Model,
    view: &'a GraphView<'a>,
    session: &Session<'a>,
) -> Result<(Context<'a>, Skipped)> {
    let (mut targets, mut skipped) = (Vec::new(), Vec::new());
    for (name, found) in Target::all(view) {
        match found {
            Ok(target) => targets.push(target),
            Err(reason) => skipped.push((name, reason)),
        }
    }
    let batches = Batch::all(model, session.data, SAMPLES)?;
    let mut base = Digest::default().add(b"plan 1").add(&model.encode()?);
    for (name, array) in session.data.arrays() {
        base = base.add(name.as_bytes()).add(array.dtype().as_bytes());
        base = array.to_f32().iter().fold(
            base.add(format!("{:?}", array.shape()).as_bytes()),
            |d, v| d.add(&v.to_le_bytes()),
        );
    }
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
            store,
            progress,
        },
        skipped,
    ))
}

fn offers(context: &Context<'_>, session: &Session<'_>) -> Vec<Vec<Candidate>> {
    let offers = context.targets.iter().map(|target| {
        let all = candidates(target)
            .into_iter()
            .filter(|c| (session.allow)(target, c));
        let offered: Vec<Candidate> = all.collect();
        if offered.is_empty() {
            vec![Candidate::Keep]
        } else {
            offered
        }
    });
    offers.collect()
}

/// The predicted loss of every candidate, squared relative output error.
fn measure_losses(
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
                .add(b"curve 1")
                .add(t.name().as_bytes())
                .add(&offered)
                .key()
        })
        .collect();
    let recall = |key: &str, len: usize| -> Option<Vec<f64>> {
        let found: Vec<f64> = serde_json::from_slice(&context.store.get(key)?).ok()?;
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
        &|t, _, weight, metric| {
            let target = &context.targets[t];
            let curve = errors(weight, metric, &offers[t], target.kind())
                .map_err(|problem| failed(target, problem))?;
            context
                .store
                .put(&keys[t], &serde_json::to_vec(&curve).unwrap_or_default());
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

fn sensitivities(context: &Context<'_>, session: &Session<'_>) -> Result<Vec<Sensitivity>> {
    let key = context.base.add(b"sensitivity 2").key();
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
    let rounding = |target: &Target| -> Result<Array2<f32>> {
        let weight = target
            .matrix(context.view)
            .map_err(|reason| failed(target, reason.to_string()))?;
        let format = BlockFormat {
            levels: Levels::L6,
            block: 128,
        };
        let metric = Metric::identity(weight.ncols());
        let rounded = quantize(weight.view(), &metric, format, Effort::Nearest)
            .map_err(|p| failed(target, p))?;
        Ok(super::form::dense(&rounded) - weight)
    };
    let measured = measure(
        context.model,
        context.view,
        &context.targets,
        batch,
        &rounding,
    )?;
    let gains: Vec<f64> = measured.iter().map(|s| s.gain).collect();
    context
        .store
        .put(&key, &serde_json::to_vec(&gains).unwrap_or_default());
    (context.progress)("sensitivity", 1, 1);
    Ok(measured)
}

/// What a rewritten model was found to lose.
#[derive(Debug, Clone, Copy)]
struct Checked {
    loss: f64,
    accuracy: Option<[f64; 2]>,
}

fn check(context: &Context<'_>, session: &Session<'_>, rewritten: &Model) -> Result<Checked> {
    (context.progress)("verify", 0, 1);
    let [before, after] = [Engine::load(context.model)?, Engine::load(rewritten)?];
    let parts = context.batches.par_iter().map(|batch| {
        let inputs: Vec<_> = before
            .inputs()
            .iter()
            .filter_map(|i| batch.inputs.get(&i.name).cloned())
            .collect();
        Ok(square_sums(
            batch,
            &before.run(&inputs)?,
            &after.run(&inputs)?,
        ))
    });
    let parts: Vec<[f64; 2]> = parts.collect::<Result<_>>()?;
    let [error, norm] = parts
        .iter()
        .fold([0.0, 0.0], |[e, n], p| [e + p[0], n + p[1]]);
    let accuracy = match (session.goal.drop, session.data.labels()) {
        (Some(_), Some(_)) => {
            let found = crate::verify::verify(context.model, rewritten, session.data)?;
            found
                .accuracy_before
                .zip(found.accuracy_after)
                .map(|(b, a)| [b, a])
        }
        _ => None,
    };
    (context.progress)("verify", 1, 1);
    Ok(Checked {
        loss: (error / norm.max(f64::MIN_POSITIVE)).sqrt(),
        accuracy,
    })
}

/// One plan that was solved and checked.
#[derive(Debug, Clone)]
struct Trial {
    picks: Vec<usize>,
    predicted: f64,
    bytes: u64,
    model: Model,
    solved: Vec<Solved>,
    checked: Checked,
    blocking: Option<Vec<usize>>,
}

struct Search<'c> {
    context: &'c Context<'c>,
    session: &'c Session<'c>,
    offers: &'c [Vec<Candidate>],
    curves: Vec<Curve>,
    most_time: Option<f64>,
    best: Option<Trial>,
    smallest: u64,
}

impl<'c> Search<'c> {
    fn new(
        context: &'c Context<'c>,
        session: &'c Session<'c>,
        offers: &'c [Vec<Candidate>],
        losses: &[Vec<f64>],
    ) -> Result<Self> {
        let curves =
            context
                .targets
                .iter()
                .zip(offers)
                .zip(losses)
                .map(|((target, offered), losses)| {
                    let point = |(c, loss): (&Candidate, &f64)| {
                        Point::new(c.bytes(target), *loss, c.time(target))
                    };
                    Curve::new(offered.iter().zip(losses).map(point).collect())
                });
        let curves: Vec<Curve> = curves.collect();
        let now: f64 = context
            .targets
            .iter()
            .map(|t| Candidate::Keep.time(t))
            .sum();
        let most_time = session.goal.speed.map(|s| now / s.max(1e-9));
        Ok(Self {
            context,
            session,
            offers,
            curves,
            most_time,
            best: None,
            smallest: 0,
        })
    }

    /// The choices, and the exact size of the file that they make.
    fn choose(&self, limits: &Limits) -> Result<(super::allocate::Allocation, u64)> {
        let chosen = allocate(&self.curves, limits);
        let size = self.size(chosen.picks())?;
        Ok((chosen, size))
    }

    /// The best choices whose file is at most `most` bytes.
    fn choose_within(&self, most: u64) -> Result<(super::allocate::Allocation, u64)> {
        let mut budget = most;
        let mut found = None;
        for _ in 0..6 {
            let limits = Limits {
                bytes: Some(budget),
                time: self.most_time,
                ..Limits::default()
            };
            let (chosen, size) = self.choose(&limits)?;
            // What is not a choice of the plan: the graph, what stays, and the operators that unpack.
            let other = size.saturating_sub(chosen.bytes());
            let fits = size <= most;
            let next = most.saturating_sub(other);
            let over = chosen.outcome() != &Outcome::Met;
            found = Some((chosen, size));
            if (fits && next <= budget + budget / 2000) || (over && next >= budget) {
                break;
            }
            budget = if fits {
                next
            } else {
                next.min(budget - 1.min(budget))
            };
        }
        found.ok_or_else(|| Error::Plan {
            weight: "*".into(),
            problem: "expected a budget, found none".into(),
        })
    }

    /// The size of the file with empty codes in place of those that will be solved.
    fn size(&self, picks: &[usize]) -> Result<u64> {
        let blank = |m: usize, k: usize, format: BlockFormat| {
            let format = format.fitted(k);
            let steps = vec![0; m * format.blocks(k)];
            BlockMatrix::new([m, k], format, vec![0; m * k], steps, 1.0)
        };
        let c = self.context;
        let forms =
            c.targets
                .iter()
                .zip(self.offers)
                .zip(picks)
                .map(|((target, offered), &pick)| {
                    let [m, k] = target.shape();
                    let form = match offered[pick] {
                        Candidate::Keep => Ok(Form::Keep),
                        Candidate::Dense { format } => blank(m, k, format).map(Form::Dense),
                        Candidate::LowRank { rank, format } => {
                            blank(m, rank, format).and_then(|left| {
                                Ok(Form::LowRank {
                                    left,
                                    right: blank(rank, k, format)?,
                                })
                            })
                        }
                        Candidate::Corrected { base, rank, format } => {
                            blank(m, k, base).and_then(|base| {
                                Ok(Form::Corrected {
                                    base,
                                    left: blank(m, rank, format)?,
                                    right: blank(rank, k, format)?,
                                })
                            })
                        }
                    };
                    form.map(|form| Solved { form, bias: None })
                        .map_err(|problem| failed(target, problem))
                });
        let forms: Vec<Solved> = forms.collect::<Result<_>>()?;
        Ok(apply(c.model, c.view, &c.targets, &forms)?.0.encoded_len())
    }

    fn try_out(&self, chosen: &super::allocate::Allocation) -> Result<Trial> {
        let c = self.context;
        let choices: Vec<Candidate> = self
            .offers
            .iter()
            .zip(chosen.picks())
            .map(|(o, &i)| o[i])
            .collect();
        let solved = solve_all(c, &choices)?;
        let (model, _) = apply(c.model, c.view, &c.targets, &solved)?;
        let checked = check(c, self.session, &model)?;
        let blocking = match chosen.outcome() {
            Outcome::Met => None,
            Outcome::Missed { blocking } => Some(blocking.clone()),
        };
        let (picks, predicted, bytes) =
            (chosen.picks().to_vec(), chosen.loss(), model.encoded_len());
        Ok(Trial {
            picks,
            predicted,
            bytes,
            model,
            solved,
            checked,
            blocking,
        })
    }

    fn run(&mut self) -> Result<()> {
        let goal = self.session.goal;
        if let Some(most) = goal.bytes {
            let (chosen, size) = self.choose_within(most)?;
            let mut trial = self.try_out(&chosen)?;
            if size > most || !self.keeps(&trial.checked) {
                trial.blocking = Some(self.heaviest(&trial, size > most));
            }
            self.best = Some(trial);
            return Ok(());
        }
        self.search_loss()
    }

    /// Whether what was verified keeps the goals on loss and accuracy.
    fn keeps(&self, checked: &Checked) -> bool {
        let goal = self.session.goal;
        let loss = goal.loss.or((goal == Goal::default()).then_some(0.005));
        let dropped = checked.accuracy.map(|[before, after]| before - after);
        loss.is_none_or(|most| checked.loss <= most)
            && goal.drop.zip(dropped).is_none_or(|(most, d)| d <= most)
    }

    /// The smallest file that keeps the loss: by prediction, corrected by what each plan really loses, between the
    /// largest file that missed and the smallest that kept it.
    fn search_loss(&mut self) -> Result<()> {
        let goal = self.session.goal;
        let aim = goal
            .loss
            .or((goal == Goal::default()).then_some(0.005))
            .unwrap_or(0.1);
        let mut ratio = 1.0;
        let (mut missed, mut kept): (u64, Option<u64>) = (0, None);
        let mut fallback: Option<Trial> = None;
        for round in 0..ROUNDS {
            let limits = Limits {
                loss: Some(aim * aim / ratio),
                time: self.most_time,
                ..Limits::default()
            };
            let (mut chosen, mut size) = self.choose(&limits)?;
            let outside = size <= missed
                || kept.is_some_and(|k| size as f64 > k as f64 * (1.0 - TIGHT / 3.0));
            if round > 0 && outside {
                let Some(k) = kept else {
                    // Prediction asks for nothing larger than what missed: a step up, by hand.
                    ratio *= 1.5;
                    let limits = Limits {
                        loss: Some(aim * aim / ratio),
                        time: self.most_time,
                        ..Limits::default()
                    };
                    (chosen, size) = self.choose(&limits)?;
                    if size <= missed {
                        continue;
                    }
                    self.consider(
                        &chosen,
                        size,
                        aim,
                        &mut ratio,
                        &mut missed,
                        &mut kept,
                        &mut fallback,
                    )?;
                    continue;
                };
                if missed as f64 >= k as f64 * (1.0 - TIGHT) {
                    break;
                }
                let middle = if missed == 0 {
                    k as f64 * (1.0 - TIGHT)
                } else {
                    (missed as f64 * k as f64).sqrt()
                };
                (chosen, size) = self.choose_within(middle as u64)?;
                if size >= k || size <= missed {
                    break;
                }
            }
            self.consider(
                &chosen,
                size,
                aim,
                &mut ratio,
                &mut missed,
                &mut kept,
                &mut fallback,
            )?;
            if kept.is_some_and(|k| missed as f64 >= k as f64 * (1.0 - TIGHT)) {
                break;
            }
        }
        if self.best.is_none() {
            let mut trial = match fallback {
                Some(trial) => trial,
                None => {
                    return Err(Error::Plan {
                        weight: "*".into(),
                        problem: "expected a plan, found none".into(),
                    });
                }
            };
            trial.blocking = Some(self.heaviest(&trial, false));
            self.best = Some(trial);
        }
        self.smallest = missed;
        Ok(())
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the state of one search, spelled out where it is used"
    )]
    fn consider(
        &mut self,
        chosen: &super::allocate::Allocation,
        size: u64,
        aim: f64,
        ratio: &mut f64,
        missed: &mut u64,
        kept: &mut Option<u64>,
        fallback: &mut Option<Trial>,
    ) -> Result<()> {
        let trial = self.try_out(chosen)?;
        if trial.predicted > 0.0 && trial.checked.loss > 0.0 {
            *ratio =
                (trial.checked.loss.powi(2) / trial.predicted).clamp(*ratio / 30.0, *ratio * 30.0);
        }
        let goal_is_drop = self.session.goal.drop.is_some() && self.session.goal.loss.is_none();
        if self.keeps(&trial.checked) {
            if goal_is_drop {
                *ratio /= 2.0;
            }
            *kept = Some(kept.map_or(size, |k| k.min(size)));
            if self.best.as_ref().is_none_or(|b| trial.bytes < b.bytes) {
                self.best = Some(trial);
            }
        } else {
            if goal_is_drop {
                *ratio *= 2.0;
            }
            let _ = aim;
            *missed = (*missed).max(size);
            if fallback
                .as_ref()
                .is_none_or(|f| trial.checked.loss < f.checked.loss)
            {
                *fallback = Some(trial);
            }
        }
        Ok(())
    }

    fn heaviest(&self, trial: &Trial, by_size: bool) -> Vec<usize> {
        if let Some(blocking) = &trial.blocking {
            return blocking.clone();
        }
        let weight = |t: usize| {
            let p = &self.curves[t].points()[trial.picks[t]];
            if by_size { p.bytes() as f64 } else { p.loss() }
        };
        let mut order: Vec<usize> = (0..self.curves.len()).collect();
        order.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)).then(a.cmp(&b)));
        order.truncate(5);
        order
    }

    fn finish(self, skipped: Skipped) -> Result<Planned> {
        let c = self.context;
        let nothing = || Error::Plan {
            weight: "*".into(),
            problem: "expected a plan, found none".into(),
        };
        let trial = self.best.ok_or_else(nothing)?;
        let weights = c.targets.iter().enumerate().map(|(t, target)| {
            let pick = trial.picks[t];
            let choice = self.offers[t][pick];
            PlannedWeight {
                name: target.name().to_string(),
                op: target.op(c.view),
                shape: target.shape(),
                choice,
                bytes_before: target.bytes(),
                bytes: choice.bytes(target),
                predicted_loss: self.curves[t].points()[pick].loss(),
            }
        });
        let plan = Plan {
            schema: Plan::SCHEMA,
            base: c.base.key(),
            goal: self.session.goal,
            weights: weights.collect(),
            predicted_loss: trial.predicted,
            bytes: trial.bytes,
        };
        let names = |b: Vec<usize>| {
            b.into_iter()
                .map(|t| c.targets[t].name().to_string())
                .collect()
        };
        Ok(Planned {
            model: trial.model,
            plan,
            errors: relative_errors(c, &trial.solved)?,
            solved: trial.solved,
            skipped,
            loss: trial.checked.loss,
            accuracy: trial.checked.accuracy,
            blocking: trial.blocking.map(names),
        })
    }
}
