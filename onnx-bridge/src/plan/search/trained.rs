//! A plan for weights whose errors are trained away, some more than others.

use std::collections::BTreeMap;

use super::super::correct::by_weight;
use super::super::session::{Planned, Skipped};
use super::{Search, nothing};
use crate::error::Result;

impl Search<'_> {
    /// The best plan within the goal's bytes, where of the squared loss of every weight so much is left as `left` says by its name.
    ///
    /// It is not improved by what plans are found to lose: that is before any training.
    pub(crate) fn run_trained(
        mut self,
        left: &BTreeMap<String, f64>,
        skipped: Skipped,
    ) -> Result<Planned> {
        let most = self.session.goal.bytes.ok_or_else(|| nothing("a size"))?;
        let of = |name: &str| left.get(name).copied().unwrap_or(1.0);
        let factors: Vec<f64> = self.context.targets.iter().map(|t| of(t.name())).collect();
        self.curves = by_weight(&self.measured, self.offers, &factors);
        let (chosen, size) = self.choose_within(&self.curves, most)?;
        let mut trial = self.try_out(&chosen)?;
        if size > most {
            trial.blocking = Some(self.heaviest(&trial, true));
        }
        self.finish(trial, None, skipped)
    }
}
