//! A goal on loss: the smallest file that keeps it.

use std::ops::ControlFlow;

use super::super::allocate::{Allocation, Limits};
use super::super::correct::{Factors, alone, formats};
use super::super::curve::Curve;
use super::super::front;
use super::super::tradeoff::Ended;
use super::bracket::Bracket;
use super::{NEAR, Search, Trial, nothing};
use crate::error::Result;

/// The most plans that are solved and checked for one goal.
const ROUNDS: usize = 20;

/// Choices of one window whose exact size is looked at.
const LOOKED_AT: usize = 64;

/// How far what is no choice of the plan may differ between two files, in bytes: the operators that unpack. Not at all, to start
/// with.
const OPERATORS: [u64; 2] = [0, 512];

impl Search<'_> {
    /// The smallest file that keeps the loss: by prediction first, then between the largest file that missed and the
    /// smallest that kept it, until one at most 3 % smaller misses, and with it the best that is predicted for a file 3 %
    /// smaller, mixed and of each format alone. After every trial the curves are corrected by all of them.
    pub(super) fn smallest(&mut self) -> Result<(Trial, Option<Ended>)> {
        let mut bracket = Bracket::default();
        let (mut next, _) = self.choose(&self.curves, &self.limits_of_loss())?;
        let mut ended = Ended::Rounds;
        for _ in 0..ROUNDS {
            self.take_in(&mut bracket, &next)?;
            match self.propose(&bracket)? {
                ControlFlow::Continue(chosen) => next = chosen,
                ControlFlow::Break(why) => {
                    ended = why;
                    break;
                }
            }
        }
        if let Some(mut kept) = bracket.kept {
            kept.predicted = Allocation::loss_of(&self.curves, &kept.picks);
            return Ok((kept, Some(ended)));
        }
        let mut trial = bracket.missed.ok_or_else(|| nothing("a plan"))?;
        trial.predicted = Allocation::loss_of(&self.curves, &trial.picks);
        trial.blocking = Some(self.heaviest(&trial, false));
        Ok((trial, None))
    }

    fn aim(&self) -> f64 {
        self.most_loss().unwrap_or(0.1)
    }

    /// What a choice is predicted to lose after all that was found.
    fn predicted(&self, chosen: &Allocation) -> f64 {
        Allocation::loss_of(&self.curves, chosen.picks())
    }

    fn limits_of_loss(&self) -> Limits {
        Limits {
            loss: Some(self.aim().powi(2)),
            ..self.limits()
        }
    }

    /// Solves and checks a choice, and learns from it. Of the trials only numbers stay: the store has what they made.
    fn take_in(&mut self, bracket: &mut Bracket, chosen: &Allocation) -> Result<()> {
        if let Some(kept) = &mut bracket.kept {
            kept.made = None;
        }
        let mut trial = self.try_out(chosen)?;
        if self.found.is_empty() {
            self.compensate(&trial)?;
        }
        self.found.push(self.found(&trial));
        let factors = Factors::of(&self.found);
        self.curves = factors.corrected(&self.measured, self.offers);
        let excess = self.excess(&trial);
        bracket.known.push((trial.bytes, excess));
        if self.keeps(&trial) {
            if bracket.kept.as_ref().is_none_or(|k| trial.bytes < k.bytes) {
                bracket.kept = Some(trial);
            }
        } else if bracket
            .missed
            .as_ref()
            .is_none_or(|m| excess < self.excess(m))
        {
            trial.made = None;
            bracket.missed = Some(trial);
        }
        Ok(())
    }

    /// What to try next, or why nothing is left to try.
    fn propose(&self, bracket: &Bracket) -> Result<ControlFlow<Ended, Allocation>> {
        let curves = &self.curves;
        let missed = bracket.largest_missed();
        let one_sided = missed == 0 || bracket.kept.is_none();
        if one_sided && self.session.goal.drop.is_none() {
            // As much more loss than the nearest trial is predicted to have as it may have more than it was found to have.
            let limits = match bracket.kept.as_ref().or(bracket.missed.as_ref()) {
                Some(trial) => Limits {
                    loss: Some(
                        Allocation::loss_of(curves, &trial.picks)
                            * (-2.0 * self.excess(trial)).exp(),
                    ),
                    ..self.limits()
                },
                None => self.limits_of_loss(),
            };
            let (chosen, size) = self.choose(curves, &limits)?;
            let below = bracket.proof().is_none_or(|proof| size <= proof);
            if size > missed && below && self.is_new(chosen.picks()) {
                return Ok(ControlFlow::Continue(chosen));
            }
        }
        if let Some(wanted) = bracket.next() {
            let (chosen, size) = self.choose_within(curves, wanted)?;
            if size <= wanted && self.is_new(chosen.picks()) {
                return Ok(ControlFlow::Continue(chosen));
            }
            for (over, most) in bracket.windows() {
                if let Some(chosen) = self.between(curves, bracket, over, most)? {
                    return Ok(ControlFlow::Continue(chosen));
                }
            }
            return Ok(ControlFlow::Break(Ended::NothingBetween));
        }
        // A file less than 3 % smaller misses. One that is 3 % smaller might be made of other formats.
        let Some(most) = bracket.proof() else {
            return Ok(ControlFlow::Break(Ended::Tried));
        };
        let near = (NEAR * self.aim()).powi(2);
        let formats = formats(self.offers);
        let single = formats.iter().map(|f| alone(curves, self.offers, f));
        for curves in [curves.clone(), self.measured.clone()]
            .into_iter()
            .chain(single)
        {
            let (chosen, size) = self.choose_within(&curves, most)?;
            if size <= most && self.predicted(&chosen) <= near && self.is_new(chosen.picks()) {
                return Ok(ControlFlow::Continue(chosen));
            }
        }
        Ok(ControlFlow::Break(Ended::Tried))
    }

    /// Of the choices not tried yet whose file is larger than `over` and at most `most` bytes, one predicted to lose least.
    fn between(
        &self,
        curves: &[Curve],
        bracket: &Bracket,
        over: u64,
        most: u64,
    ) -> Result<Option<Allocation>> {
        // What of a file is not a choice of the plan, as far as one trial tells.
        let other = match (&bracket.kept, &bracket.missed) {
            (Some(trial), _) | (None, Some(trial)) => {
                let chosen = Allocation::of(curves, trial.picks.clone());
                trial.bytes.saturating_sub(chosen.bytes())
            }
            (None, None) => 0,
        };
        for margin in OPERATORS {
            let above = over.saturating_sub(other + margin);
            let chosen = front::between(curves, above, most.saturating_sub(other) + margin);
            let chosen = chosen.into_iter().filter(|picks| self.is_new(picks));
            for picks in chosen.take(LOOKED_AT) {
                let size = self.size(&picks)?;
                let chosen = Allocation::of(curves, picks);
                let in_time = self.most_time.is_none_or(|t| chosen.time() <= t);
                if size > over && size <= most && in_time {
                    return Ok(Some(chosen));
                }
            }
        }
        Ok(None)
    }
}
