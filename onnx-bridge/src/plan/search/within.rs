//! A goal on size: of the plans that fit, the one that is found to lose least.

use super::super::allocate::Allocation;
use super::super::correct::{alone, formats, only};
use super::super::curve::Curve;
use super::{NEAR, Search, Trial};
use crate::error::Result;

/// A weight that takes this part of the file is looked at by itself: what it becomes decides how much all others get.
const LARGE: f64 = 0.125;

/// Plans that are tried for what the largest weight may become.
const OF_LARGEST: usize = 3;

impl Search<'_> {
    /// Starting from a plan of at most `most` bytes, the one that really loses least of it, of the plan by what the weights behind take
    /// back, of every format alone, and of those for what else the largest weight may become. So a mixture hardly loses more than
    /// one format alone, as far as that is near it at all.
    pub(super) fn improved(&mut self, first: Trial, most: u64) -> Result<Trial> {
        self.compensate(&first)?;
        self.found.push(self.found(&first));
        let limit = Allocation::loss_of(&self.curves, &first.picks) * NEAR * NEAR;
        let (chosen, size) = self.choose_within(&self.curves, most)?;
        let mut best = if size <= most {
            self.take_better(first, &chosen)?
        } else {
            first
        };
        let formats = formats(self.offers);
        if formats.len() > 1 {
            for format in &formats {
                let curves = alone(&self.curves, self.offers, format);
                let (chosen, size) = self.choose_within(&curves, most)?;
                if size <= most && chosen.loss() <= limit {
                    best = self.take_better(best, &chosen)?;
                }
            }
        }
        best = self.vary_largest(best, most)?;
        best.predicted = Allocation::loss_of(&self.curves, &best.picks);
        Ok(best)
    }

    /// Tries what else the largest weight of the best plan may become: of every other format what is predicted to be best, then
    /// what has a little less or more bytes, as long as that gets better. What is added up tells such plans badly apart: all that
    /// is behind that weight is solved on what it really gives.
    fn vary_largest(&mut self, mut best: Trial, most: u64) -> Result<Trial> {
        let bytes = |best: &Trial, t: usize| self.curves[t].points()[best.picks[t]].bytes();
        let largest = (0..self.curves.len()).max_by_key(|&t| bytes(&best, t));
        let Some(t) = largest.filter(|&t| bytes(&best, t) as f64 > LARGE * most as f64) else {
            return Ok(best);
        };
        let mut left = OF_LARGEST;
        let format = |pick: usize| self.offers[t][pick].format_name();
        let own = format(best.picks[t]);
        for other in formats(&self.offers[t..=t]) {
            if other != own && left > 1 {
                let curves = only(&self.curves, t, |i| format(i) == other);
                best = self.take_new(best, &curves, most, &mut left)?;
            }
        }
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
        Ok(best)
    }

    /// The better of a trial and what these curves choose, where that fits and was not tried.
    fn take_new(
        &mut self,
        best: Trial,
        curves: &[Curve],
        most: u64,
        left: &mut usize,
    ) -> Result<Trial> {
        let (chosen, size) = self.choose_within(curves, most)?;
        if size > most || !self.is_new(chosen.picks()) {
            return Ok(best);
        }
        *left -= 1;
        self.take_better(best, &chosen)
    }

    /// Tries what was not tried before; the better of it and the best so far.
    fn take_better(&mut self, mut best: Trial, chosen: &Allocation) -> Result<Trial> {
        if !self.is_new(chosen.picks()) {
            return Ok(best);
        }
        best.made = None;
        let trial = self.try_out(chosen)?;
        self.found.push(self.found(&trial));
        let rank = |t: &Trial| (self.excess(t).max(0.0), t.verification.relative_l2);
        Ok(if rank(&trial) < rank(&best) {
            trial
        } else {
            best
        })
    }
}
