//! From curves to a plan that keeps its goal: choose, solve, check, choose again.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::allocate::{Allocation, Limits, Outcome, allocate};
use super::apply::{Solved, apply};
use super::bracket::Bracket;
use super::correct::{Found, alone, corrected, factors, formats};
use super::curve::{Curve, Point};
use super::form::Candidate;
use super::record::{Plan, PlannedWeight};
use super::sequence::{Context, Wanted, failed, solve_all};
use super::session::{Goal, Planned, Session, Skipped, Tried, relative_errors, write};
use super::tradeoff::{TriedPlan, tradeoff};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::verify::Verification;

/// The most plans that are solved and checked for one goal.
const ROUNDS: usize = 10;

/// A format alone is tried where it is predicted to lose at most so many times what the mixture does.
const NEAR: f64 = 2.0;

/// What is kept where nobody sets a goal.
const DEFAULT_LOSS: f64 = 0.005;

/// How much of the least loss within a time is given for a smaller file, in parts.
const SLACK: f64 = 0.05;

/// One plan that was solved and checked.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    picks: Vec<usize>,
    predicted: f64,
    pub(super) bytes: u64,
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
    curves: Vec<Curve>,
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
            curves,
            most_time: session.goal.speed.map(|s| now / s.max(1e-9)),
            tried: RefCell::default(),
        }
    }

    /// The best plan for the goal.
    pub(crate) fn run(mut self, skipped: Skipped) -> Result<Planned> {
        let goal = self.session.goal;
        let (trial, tried) = if let Some(most) = goal.bytes {
            let (chosen, size) = self.choose_within(&self.curves, most)?;
            let trial = self.try_out(&chosen)?;
            let (mut trial, tried) = if size > most {
                let tried = vec![self.tried(&trial)];
                (trial, tried)
            } else {
                self.improved(trial, most)?
            };
            if size > most || self.excess(&trial) > 0.0 {
                trial.blocking = Some(self.heaviest(&trial, size > most));
            }
            (trial, tried)
        } else if goal.speed.is_some() && goal.loss.is_none() && goal.drop.is_none() {
            let trial = self.fastest()?;
            let tried = vec![self.tried(&trial)];
            (trial, tried)
        } else {
            self.smallest()?
        };
        self.finish(trial, tried, skipped)
    }

    fn tried(&self, trial: &Trial) -> Tried {
        Tried {
            bytes: trial.bytes,
            loss: trial.verification.relative_l2,
            accuracy: trial.verification.accuracy_after,
            kept: trial.blocking.is_none() && self.excess(trial) <= 0.0,
        }
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
    fn choose_within(&self, curves: &[Curve], most: u64) -> Result<(Allocation, u64)> {
        let mut budget = most;
        let mut best: Option<(Allocation, u64)> = None;
        for _ in 0..6 {
            let limits = Limits {
                bytes: Some(budget),
                ..self.limits()
            };
            let (chosen, size) = self.choose(curves, &limits)?;
            // What is not a choice of the plan: the graph, what stays, and the operators that unpack.
            let other = size.saturating_sub(chosen.bytes());
            let (fits, over) = (size <= most, chosen.outcome() != &Outcome::Met);
            let better = match &best {
                None => true,
                Some((kept, kept_size)) if *kept_size <= most => {
                    fits && chosen.loss() < kept.loss()
                }
                Some((_, kept_size)) => size < *kept_size,
            };
            if better {
                best = Some((chosen, size));
            }
            let next = most.saturating_sub(other);
            if (fits && next <= budget + budget / 2000) || (over && next >= budget) {
                break;
            }
            budget = if fits {
                next
            } else {
                next.min(budget - 1.min(budget))
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
        let blocking = match chosen.outcome() {
            Outcome::Met => None,
            Outcome::Missed { blocking } => Some(blocking.clone()),
        };
        let bytes = model.encoded_len();
        self.tried.borrow_mut().push(TriedPlan {
            bytes,
            predicted_loss: chosen.loss().sqrt(),
            verified_loss: verification.relative_l2,
        });
        Ok(Trial {
            picks: chosen.picks().to_vec(),
            predicted: chosen.loss(),
            bytes,
            made: Some((model, solved)),
            verification,
            blocking,
        })
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

    /// The smallest file that keeps the loss: by prediction first, then between the largest file that missed and the
    /// smallest that kept it, until a file 3 % smaller misses.
    fn smallest(&self) -> Result<(Trial, Vec<Tried>)> {
        let mut bracket = Bracket::default();
        let aim = self.most_loss().unwrap_or(0.1);
        let limits = Limits {
            loss: Some(aim * aim),
            ..self.limits()
        };
        let (chosen, _) = self.choose(&self.curves, &limits)?;
        self.take_in(&mut bracket, &chosen)?;
        let mut known = vec![chosen];
        for _ in 1..ROUNDS {
            let Some(wanted) = bracket.next() else { break };
            let (chosen, size) = self.choose_within(&self.curves, wanted)?;
            if bracket.is_known(size) || known.iter().any(|k| k.picks() == chosen.picks()) {
                break;
            }
            self.take_in(&mut bracket, &chosen)?;
            known.push(chosen);
        }
        if let Some(kept) = bracket.kept {
            return Ok((kept, bracket.tried));
        }
        let mut trial = bracket.missed.ok_or_else(|| nothing("a plan"))?;
        trial.blocking = Some(self.heaviest(&trial, false));
        Ok((trial, bracket.tried))
    }

    fn take_in(&self, bracket: &mut Bracket, chosen: &Allocation) -> Result<()> {
        let trial = self.try_out(chosen)?;
        let excess = self.excess(&trial);
        bracket.known.push((trial.bytes, excess));
        bracket.tried.push(self.tried(&trial));
        let place = if excess <= 0.0 {
            (&mut bracket.kept, Some(trial.bytes as f64))
        } else {
            (&mut bracket.missed, None)
        };
        let better = match (&place.0, place.1) {
            (None, _) => true,
            (Some(best), Some(_)) => trial.bytes < best.bytes,
            (Some(best), None) => excess < self.excess(best),
        };
        if better {
            *place.0 = Some(trial);
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

    /// Starting from a plan of at most `most` bytes, the one that really loses least of it, of every format alone, and of
    /// the plan by curves that are corrected by what those were found to lose. So a mixture never loses more than one
    /// format alone, as far as that is near it at all.
    fn improved(&mut self, first: Trial, most: u64) -> Result<(Trial, Vec<Tried>)> {
        let mut found = vec![self.found(&first)];
        let mut tried = vec![self.tried(&first)];
        let mut best = first;
        let limit = best.predicted * NEAR * NEAR;
        let formats = formats(self.offers);
        if formats.len() > 1 {
            for format in &formats {
                let curves = alone(&self.curves, self.offers, format);
                let (chosen, size) = self.choose_within(&curves, most)?;
                if size <= most && chosen.loss() <= limit {
                    best = self.take_better(best, &chosen, &mut found, &mut tried)?;
                }
            }
        }
        if found.len() > 1 {
            let parts = factors(&formats, &found);
            self.curves = corrected(&self.curves, self.offers, &parts);
            let (chosen, size) = self.choose_within(&self.curves, most)?;
            if size <= most {
                best = self.take_better(best, &chosen, &mut found, &mut tried)?;
            }
        }
        best.predicted = Allocation::loss_of(&self.curves, &best.picks);
        Ok((best, tried))
    }

    /// Tries what was not tried before; the better of it and the best so far.
    fn take_better(
        &self,
        mut best: Trial,
        chosen: &Allocation,
        found: &mut Vec<Found>,
        tried: &mut Vec<Tried>,
    ) -> Result<Trial> {
        if found.iter().any(|f| f.picks == chosen.picks()) {
            return Ok(best);
        }
        best.made = None;
        let trial = self.try_out(chosen)?;
        found.push(self.found(&trial));
        tried.push(self.tried(&trial));
        let rank = |t: &Trial| (self.excess(t).max(0.0), t.verification.relative_l2);
        Ok(if rank(&trial) < rank(&best) {
            trial
        } else {
            best
        })
    }

    /// What a trial says about the curves.
    fn found(&self, trial: &Trial) -> Found {
        let mut parts = BTreeMap::new();
        for (t, &pick) in trial.picks.iter().enumerate() {
            let format = self.offers[t][pick].format_name();
            *parts.entry(format).or_insert(0.0) += self.curves[t].points()[pick].loss();
        }
        Found {
            picks: trial.picks.clone(),
            parts,
            verified: trial.verification.relative_l2.powi(2),
        }
    }

    fn finish(&self, trial: Trial, tried: Vec<Tried>, skipped: Skipped) -> Result<Planned> {
        let c = self.context;
        let (model, solved) = match trial.made {
            Some(made) => made,
            None => {
                let (solved, _) = solve_all(c, &self.wanted(&trial.picks))?;
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
        Ok(Planned {
            model,
            plan,
            tradeoff: Some(around),
            errors: relative_errors(c, &solved)?,
            solved,
            skipped,
            verification: trial.verification,
            tried,
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
