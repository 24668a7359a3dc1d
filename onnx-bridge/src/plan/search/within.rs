//! A goal on size: of the plans that fit, the one that is found to lose least.

use super::super::allocate::Allocation;
use super::super::correct::{alone, by_weight, formats, only};
use super::super::curve::Curve;
use super::{Search, Trial};
use crate::error::Result;

/// A weight that takes this part of the file is looked at by itself: what it becomes decides how much all others get.
const LARGE: f64 = 0.125;

/// Plans that are tried for what the largest weight may become.
const OF_LARGEST: usize = 2;

/// A plan is tried where it is predicted to lose at most so many times what the best one was found to lose. Plans of MiniLM-L6 lose
/// 0.86 to 1.15 times what is predicted of them, most of them within a tenth.
const HOPE: f64 = 1.125;

impl Search<'_> {
    /// Starting from a plan of at most `most` bytes, the one that really loses least of it, of every format alone, for each of these
    /// of the plan by what the weights behind take back in it, and of those for what else the largest weight may become; of all but
    /// the first those that [`may_beat`] the best so far. So a mixture hardly loses more than one format alone.
    pub(super) fn improved(&mut self, first: Trial, most: u64) -> Result<Trial> {
        let (measured, picks) = (self.measured.clone(), first.picks.clone());
        let found = first.verification.relative_l2.powi(2) / first.predicted;
        self.found.push(self.found(&first));
        let left = self.compensate(&first)?;
        let mut best = self.take_within(first, &self.curves.clone(), most)?;
        let mut formats = formats(self.offers);
        if formats.len() == 1 {
            // All plans are of it.
            formats.clear();
        }
        for format in formats {
            let curves = alone(&measured, self.offers, format);
            let (chosen, size) = self.choose_within(&curves, most)?;
            // What is taken back in a plan of another format is not known yet: as much as in the first.
            if size > most || !may_beat(&best, chosen.loss() * found) {
                continue;
            }
            let left = if chosen.picks() == picks {
                left.clone()
            } else if self.is_new(chosen.picks()) {
                let trial = self.try_new(&mut best, &chosen)?;
                let left = self.left_behind(&trial, &measured)?;
                best = self.better(best, trial);
                left
            } else {
                continue;
            };
            let curves = by_weight(&curves, self.offers, &left);
            best = self.take_within(best, &curves, most)?;
        }
        best = self.vary_largest(best, most)?;
        best.predicted = Allocation::loss_of(&self.curves, &best.picks);
        Ok(best)
    }

    /// Tries what else the largest weight of the best plan may become: what has a little less or more bytes, as long as that gets
    /// better, then of every other format what is predicted to be best. What is added up tells such plans badly apart: all that is
    /// behind that weight is solved on what it really gives.
    fn vary_largest(&mut self, mut best: Trial, most: u64) -> Result<Trial> {
        let bytes = |best: &Trial, t: usize| self.curves[t].points()[best.picks[t]].bytes();
        let largest = (0..self.curves.len()).max_by_key(|&t| bytes(&best, t));
        let Some(t) = largest.filter(|&t| bytes(&best, t) as f64 > LARGE * most as f64) else {
            return Ok(best);
        };
        let mut left = OF_LARGEST;
        let format = |pick: usize| self.offers[t][pick].format_name();
        let own = format(best.picks[t]);
        let hull = only(&self.curves, t, |i| format(i) == own)[t].hull();
        for up in [false, true] {
            while left > 0 {
                let at = hull.iter().position(|&i| i == best.picks[t]);
                let next = match at {
                    Some(at) if up => hull.get(at + 1),
                    Some(at) => at.checked_sub(1).map(|at| &hull[at]),
                    None => None,
                };
                let Some(&next) = next else { break };
                let before = best.picks.clone();
                let curves = only(&self.curves, t, |i| i == next);
                best = self.take_new(best, &curves, most, &mut left)?;
                if best.picks == before {
                    break;
                }
            }
        }
        for other in formats(&self.offers[t..=t]) {
            if other != own && left > 0 {
                let curves = only(&self.curves, t, |i| format(i) == other);
                best = self.take_new(best, &curves, most, &mut left)?;
            }
        }
        Ok(best)
    }

    /// The better of a trial and what these curves choose, where that fits and was not tried; and one plan less is left to try.
    fn take_new(
        &mut self,
        best: Trial,
        curves: &[Curve],
        most: u64,
        left: &mut usize,
    ) -> Result<Trial> {
        let tried = self.found.len();
        let best = self.take_within(best, curves, most)?;
        *left -= self.found.len() - tried;
        Ok(best)
    }

    /// The better of a trial and what these curves choose, where that fits, may be better and was not tried.
    fn take_within(&mut self, mut best: Trial, curves: &[Curve], most: u64) -> Result<Trial> {
        let (chosen, size) = self.choose_within(curves, most)?;
        if size > most || !may_beat(&best, chosen.loss()) || !self.is_new(chosen.picks()) {
            return Ok(best);
        }
        let trial = self.try_new(&mut best, &chosen)?;
        Ok(self.better(best, trial))
    }

    /// Tries what was not tried; of the best so far only numbers stay: the store has what it made.
    fn try_new(&mut self, best: &mut Trial, chosen: &Allocation) -> Result<Trial> {
        best.made = None;
        let trial = self.try_out(chosen)?;
        self.found.push(self.found(&trial));
        Ok(trial)
    }

    /// The one of less loss of two that keep the goal, or the one nearer to it.
    fn better(&self, best: Trial, trial: Trial) -> Trial {
        let rank = |t: &Trial| (self.excess(t).max(0.0), t.verification.relative_l2);
        if rank(&trial) < rank(&best) {
            trial
        } else {
            best
        }
    }
}

/// Whether a plan may lose less than the best one, by its predicted squared loss.
fn may_beat(best: &Trial, predicted: f64) -> bool {
    predicted.sqrt() <= HOPE * best.verification.relative_l2
}
