//! From curves to a plan that keeps its goal: choose, solve, check, choose again.

mod bracket;
mod smallest;
mod trained;
mod within;

use std::cell::RefCell;

use super::allocate::{Allocation, Limits, Outcome, allocate};
use super::apply::{Solved, apply};
use super::compensation::left_behind;
use super::context::{Context, failed};
use super::correct::{Found, by_weight};
use super::curve::{Curve, Point};
use super::form::Candidate;
use super::record::{Plan, PlannedWeight};
use super::sequence::{Wanted, recall, solve_all};
use super::session::{Goal, Planned, Session, Skipped, relative_errors, write};
use super::tradeoff::{Ended, TriedPlan, tradeoff};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::verify::Verification;

/// A format alone is tried where it is predicted to lose at most so many times what the mixture does.
const NEAR: f64 = 2.0;

/// What is kept where nobody sets a goal.
const DEFAULT_LOSS: f64 = 0.005;

/// Budgets that are tried for one size of a file, and how many of those by what the last choices had beside them.
const BUDGETS: usize = 14;
const BY_OTHER: usize = 2;

/// What part of a size a budget may be off.
const UNSPENT: u64 = 4096;

/// How much of the least loss within a time is given for a smaller file, in parts.
const SLACK: f64 = 0.05;

/// One plan that was solved and checked.
#[derive(Debug, Clone)]
struct Trial {
    picks: Vec<usize>,
    predicted: f64,
    bytes: u64,
    /// What came of it; nothing where that was put aside to save memory, and the store has the jobs.
    made: Option<(Model, Vec<Solved>)>,
    verification: Verification,
    blocking: Option<Vec<usize>>,
}

/// The search for one goal.
pub(crate) struct Search<'c> {
    context: &'c Context<'c>,
    session: &'c Session<'c>,
    offers: &'c [Vec<Candidate>],
    /// Of every candidate the blocks that it has to be better than.
    rivals: Vec<Vec<Option<Candidate>>>,
    /// What every candidate is predicted to lose, and the same as corrected by what plans were found to lose. As measured
    /// to start with; once a plan was solved, what is left of that behind the other weights.
    measured: Vec<Curve>,
    curves: Vec<Curve>,
    /// What every plan that was tried says about the curves.
    found: Vec<Found>,
    most_time: Option<f64>,
    tried: RefCell<Vec<TriedPlan>>,
}

impl<'c> Search<'c> {
    pub(crate) fn new(
        context: &'c Context<'c>,
        session: &'c Session<'c>,
        offers: &'c [Vec<Candidate>],
        losses: &[Vec<f64>],
    ) -> Self {
        let weights = context.targets.iter().zip(offers).zip(losses);
        let curves = weights.map(|((target, offered), losses)| {
            let point = |(c, loss): (&Candidate, &f64)| {
                Point::new(c.bytes(target, context.runs_on), *loss, c.time(target))
            };
            Curve::new(offered.iter().zip(losses).map(point).collect())
        });
        let now = context.targets.iter().map(|t| Candidate::Keep.time(t));
        let now: f64 = now.sum();
        let curves: Vec<Curve> = curves.collect();
        let rivals = offers.iter().zip(&curves).map(|(offered, curve)| {
            let picks = 0..offered.len();
            picks
                .map(|pick| Self::rival(offered, curve.points(), pick))
                .collect()
        });
        Self {
            context,
            session,
            offers,
            rivals: rivals.collect(),
            measured: curves.clone(),
            curves,
            found: Vec::new(),
            most_time: session.goal.speed.map(|s| now / s.max(1e-9)),
            tried: RefCell::default(),
        }
    }

    /// The best plan for the goal.
    pub(crate) fn run(mut self, skipped: Skipped) -> Result<Planned> {
        let goal = self.session.goal;
        let (trial, ended) = if let Some(most) = goal.bytes {
            let (chosen, size) = self.choose_within(&self.curves, most)?;
            let mut trial = self.try_out(&chosen)?;
            if size <= most {
                trial = self.improved(trial, most)?;
            }
            if size > most || self.excess(&trial) > 0.0 {
                trial.blocking = Some(self.heaviest(&trial, size > most));
            }
            (trial, None)
        } else if goal.speed.is_some() && goal.loss.is_none() && goal.drop.is_none() {
            (self.fastest()?, None)
        } else {
            self.smallest()?
        };
        self.finish(trial, ended, skipped)
    }

    /// Whether a trial keeps the goal.
    fn keeps(&self, trial: &Trial) -> bool {
        trial.blocking.is_none() && self.excess(trial) <= 0.0
    }

    /// Whether no plan of these choices was tried yet.
    fn is_new(&self, picks: &[usize]) -> bool {
        self.found.iter().all(|found| found.picks != picks)
    }

    fn limits(&self) -> Limits {
        Limits {
            time: self.most_time,
            ..Limits::default()
        }
    }

    /// The choices, and the exact size of the file that they make.
    fn choose(&self, curves: &[Curve], limits: &Limits) -> Result<(Allocation, u64)> {
        let chosen = allocate(curves, limits);
        let size = self.size(chosen.picks())?;
        Ok((chosen, size))
    }

    /// The best choices whose file is at most `most` bytes, or the smallest there are.
    ///
    /// What a file has beside its choices, the graph, what stays and the operators that unpack, depends on them. So the budget that
    /// they may take together is looked for: first by what the last choices had beside them, then halfway between the largest
    /// that left the file small enough and the smallest that did not.
    fn choose_within(&self, curves: &[Curve], most: u64) -> Result<(Allocation, u64)> {
        let (mut fits, mut over) = (0, most.saturating_add(1));
        let mut budget = most;
        let mut best: Option<(Allocation, u64)> = None;
        for round in 0..BUDGETS {
            let limits = Limits {
                bytes: Some(budget),
                ..self.limits()
            };
            let (chosen, size) = self.choose(curves, &limits)?;
            let least = chosen.bytes() > budget;
            let other = size.saturating_sub(chosen.bytes());
            if size <= most {
                fits = budget;
            } else {
                over = budget;
            }
            let better = match &best {
                None => true,
                Some((kept, kept_size)) if *kept_size <= most => {
                    size <= most && chosen.loss() < kept.loss()
                }
                Some((_, kept_size)) => size < *kept_size,
            };
            if better {
                best = Some((chosen, size));
            }
            if least || over - fits <= (most / UNSPENT).max(1) {
                break;
            }
            let by_other = most.saturating_sub(other);
            budget = if round < BY_OTHER && by_other > fits && by_other < over {
                by_other
            } else {
                fits + (over - fits) / 2
            };
        }
        best.ok_or_else(|| nothing("a budget"))
    }

    /// The size of the file with empty codes in place of those that will be solved.
    fn size(&self, picks: &[usize]) -> Result<u64> {
        let c = self.context;
        let blanks = c.targets.iter().zip(self.offers).zip(picks);
        let blanks = blanks.map(|((target, offered), &pick)| {
            let form = offered[pick].blank(target.shape());
            form.map(|form| Solved::new(offered[pick], form))
                .map_err(|problem| failed(target, problem))
        });
        let blanks: Vec<Solved> = blanks.collect::<Result<_>>()?;
        let (blank, _) = apply(c.model, c.view, &c.targets, &blanks, c.runs_on)?;
        Ok(blank.encoded_len())
    }

    /// For a form that is no matrix of blocks: of those blocks that take no more bytes the ones predicted to lose least.
    fn rival(offered: &[Candidate], points: &[Point], pick: usize) -> Option<Candidate> {
        if matches!(offered[pick], Candidate::Keep | Candidate::Dense { .. }) {
            return None;
        }
        let dense = (0..offered.len()).filter(|&i| {
            matches!(offered[i], Candidate::Dense { .. })
                && points[i].bytes() <= points[pick].bytes()
        });
        dense
            .min_by(|&a, &b| points[a].loss().total_cmp(&points[b].loss()))
            .map(|i| offered[i])
    }

    fn wanted(&self, picks: &[usize]) -> Vec<Wanted> {
        let one = |(t, &pick): (usize, &usize)| Wanted {
            choice: self.offers[t][pick],
            rival: self.rivals[t][pick],
        };
        picks.iter().enumerate().map(one).collect()
    }

    fn try_out(&self, chosen: &Allocation) -> Result<Trial> {
        let c = self.context;
        let (solved, originals) = solve_all(c, &self.wanted(chosen.picks()))?;
        let (model, verification) = write(c, self.session, &solved, &originals)?;
        // A loss is held to what was found, sizes and times to what was chosen.
        let in_time = self.most_time.is_none_or(|most| chosen.time() <= most);
        let blocking = match chosen.outcome() {
            Outcome::Missed { blocking } if !in_time || self.session.goal.bytes.is_some() => {
                Some(blocking.clone())
            }
            Outcome::Missed { .. } | Outcome::Met => None,
        };
        let trial = Trial {
            picks: chosen.picks().to_vec(),
            predicted: chosen.loss(),
            bytes: model.encoded_len(),
            made: Some((model, solved)),
            verification,
            blocking,
        };
        self.tried.borrow_mut().push(TriedPlan {
            bytes: trial.bytes,
            predicted_loss: trial.predicted.sqrt(),
            verified_loss: trial.verification.relative_l2,
            accuracy: trial.verification.accuracy_after,
            kept: self.keeps(&trial),
        });
        Ok(trial)
    }

    /// The loss that is allowed, where one is.
    fn most_loss(&self) -> Option<f64> {
        let goal = self.session.goal;
        goal.loss
            .or((goal == Goal::default()).then_some(DEFAULT_LOSS))
    }

    /// The logarithm of what was verified over what is allowed, the worse of loss and accuracy: above 0 the goal is missed.
    fn excess(&self, trial: &Trial) -> f64 {
        let found = &trial.verification;
        let over = |found: f64, most: f64| (found.max(1e-9) / most.max(1e-9)).ln();
        let loss = self.most_loss().map(|most| over(found.relative_l2, most));
        let dropped = found.accuracy_before.zip(found.accuracy_after);
        let drop = self
            .session
            .goal
            .drop
            .zip(dropped)
            .map(|(most, (before, after))| {
                if before - after <= most {
                    over((before - after).max(0.1 * most), most)
                } else {
                    over(before - after, most)
                }
            });
        [loss, drop]
            .into_iter()
            .flatten()
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// The least loss within the time, and of what comes close to it the smallest file.
    fn fastest(&self) -> Result<Trial> {
        let least = allocate(&self.curves, &self.limits());
        let limits = Limits {
            loss: Some(least.loss() * (1.0 + SLACK) + DEFAULT_LOSS.powi(2)),
            ..self.limits()
        };
        let close = allocate(&self.curves, &limits);
        self.try_out(if close.outcome() == &Outcome::Met {
            &close
        } else {
            &least
        })
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

    /// Learns from the first plan that was solved what is left of every weight's loss behind the others.
    fn compensate(&mut self, first: &Trial) -> Result<Vec<f64>> {
        let left = self.left_behind(first, &self.measured)?;
        self.measured = by_weight(&self.measured, self.offers, &left);
        self.curves = self.measured.clone();
        Ok(left)
    }

    /// What is left in a plan of every weight's loss, as measured, behind the others.
    fn left_behind(&self, trial: &Trial, measured: &[Curve]) -> Result<Vec<f64>> {
        let Some((_, solved)) = &trial.made else {
            return Ok(vec![1.0; trial.picks.len()]);
        };
        let picks = measured.iter().zip(&trial.picks);
        let parts: Vec<f64> = picks.map(|(c, &pick)| c.points()[pick].loss()).collect();
        left_behind(self.context, self.session, solved, &parts)
    }

    /// What a trial says about the curves.
    fn found(&self, trial: &Trial) -> Found {
        let part = |(t, &pick): (usize, &usize)| {
            let format = self.offers[t][pick].format_name();
            (format, self.measured[t].points()[pick].loss())
        };
        let parts = trial.picks.iter().enumerate().map(part).collect();
        Found {
            picks: trial.picks.clone(),
            parts,
            verified: trial.verification.relative_l2.powi(2),
        }
    }

    fn finish(&self, trial: Trial, ended: Option<Ended>, skipped: Skipped) -> Result<Planned> {
        let c = self.context;
        let (model, solved) = match trial.made {
            Some(made) => made,
            None => {
                let wanted = self.wanted(&trial.picks);
                let solved = match recall(c, &wanted) {
                    Some(solved) => solved,
                    None => solve_all(c, &wanted)?.0,
                };
                let (model, _) = apply(c.model, c.view, &c.targets, &solved, c.runs_on)?;
                (model, solved)
            }
        };
        let weights = c.targets.iter().enumerate().map(|(t, target)| {
            let choice = solved[t].choice;
            let pick = self.offers[t].iter().position(|c| *c == choice);
            let pick = pick.unwrap_or(trial.picks[t]);
            PlannedWeight {
                name: target.name().to_string(),
                op: target.op(c.view),
                shape: target.shape(),
                choice,
                bytes_before: target.bytes(),
                bytes: choice.bytes(target, c.runs_on),
                predicted_loss: self.curves[t].points()[pick].loss(),
            }
        });
        let plan = Plan {
            schema: Plan::SCHEMA,
            base: c.base.key(),
            goal: self.session.goal,
            runs_on: c.runs_on,
            weights: weights.collect(),
            predicted_loss: trial.predicted,
            bytes: trial.bytes,
        };
        let name = |t: usize| c.targets[t].name().to_string();
        let mut around = tradeoff(
            &c.targets,
            self.offers,
            &self.curves,
            &trial.picks,
            trial.bytes,
        );
        around.tried = self.tried.take();
        around.ended = ended;
        Ok(Planned {
            model,
            plan,
            tradeoff: Some(around),
            errors: relative_errors(c, &solved)?,
            solved,
            skipped,
            verification: trial.verification,
            blocking: trial.blocking.map(|b| b.into_iter().map(name).collect()),
        })
    }
}

fn nothing(wanted: &str) -> Error {
    Error::Plan {
        weight: "*".into(),
        problem: format!("expected {wanted}, found none"),
    }
}
