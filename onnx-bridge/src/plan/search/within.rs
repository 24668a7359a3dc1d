//! A goal on size: of the plans that fit, the one that is found to lose least.

use super::super::allocate::Allocation;
use super::super::correct::{Factors, Grain, alone, formats};
use super::{NEAR, Search, Trial};
use crate::error::Result;

/// How plans are chosen by corrected curves, each by all that those before it were found to lose: a few plans tell formats
/// apart, and then the weights whose errors were most of what was predicted.
const AGAIN: [Grain; 3] = [Grain::Formats, Grain::Weights, Grain::Weights];

impl Search<'_> {
    /// Starting from a plan of at most `most` bytes, the one that really loses least of it, of every format alone, and of
    /// the plans by curves that are corrected by what all before were found to lose. So a mixture never loses more than one
    /// format alone, as far as that is near it at all.
    pub(super) fn improved(&mut self, first: Trial, most: u64) -> Result<Trial> {
        self.found.push(self.found(&first));
        let mut best = first;
        let limit = best.predicted * NEAR * NEAR;
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
        for grain in AGAIN {
            let factors = Factors::of(&self.found, grain);
            self.curves = factors.corrected(&self.measured, self.offers);
            let (chosen, size) = self.choose_within(&self.curves, most)?;
            if size <= most {
                best = self.take_better(best, &chosen)?;
            }
        }
        best.predicted = Allocation::loss_of(&self.curves, &best.picks);
        Ok(best)
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
