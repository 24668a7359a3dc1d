//! What a run computes: the loss of the held-back samples, and one optimizer step.

use std::collections::BTreeMap;

use super::batches::SplitMix;
use super::mix::mix;
use super::objective::{Batch, Taught};
use super::train::Run;
use super::value::Value;
use crate::error::{Error, Result};

impl Run<'_> {
    /// What the teacher makes of a batch.
    fn taught(&self, samples: &[usize], feeds: &BTreeMap<String, Value>) -> Result<Taught> {
        match &self.teacher {
            Some(kept) => kept.of(samples),
            None => self.objective.teach(feeds),
        }
    }

    /// The mean loss over the held-back samples.
    pub(super) fn evaluate(&self) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0usize);
        for samples in self.batches.evaluation() {
            let feeds = self.batches.feeds(&samples)?;
            let labels = self.batches.labels(&samples);
            let batch = Batch {
                feeds: &feeds,
                keep: self.batches.keep(&feeds)?,
                labels: labels.as_deref(),
                mixture: None,
            };
            let ready = self.objective.ready(batch.feeds)?;
            let leaves = self.student.leaves(&ready.rows)?;
            let taught = || self.taught(&samples, batch.feeds);
            let loss = self.objective.loss(&ready, &leaves, taught, &batch)?;
            sum += loss * samples.len() as f64;
            count += samples.len();
        }
        Ok(sum / count.max(1) as f64)
    }

    /// One optimizer step; the loss before it.
    pub(super) fn update(&mut self, rate: f64) -> Result<f64> {
        let samples = self.batches.training(self.step);
        let part = samples.len().div_ceil(self.config.accumulate);
        let mut random = SplitMix::new(self.config.seed ^ 0x5851_F42D_4C95_7F2D, self.step);
        let mut total = 0.0;
        for samples in samples.chunks(part) {
            let share = samples.len() as f32 / part as f32 / self.config.accumulate as f32;
            let mut feeds = self.batches.feeds(samples)?;
            let mut mixture = None;
            if self.config.mix > 0.0 {
                let mixed = mix(&mut feeds, self.config.mix, &mut random);
                mixture = mixed.map_err(|e| Error::Evaluate {
                    place: "mixing".into(),
                    problem: e.to_string(),
                })?;
            }
            let labels = self.batches.labels(samples);
            let batch = Batch {
                feeds: &feeds,
                keep: self.batches.keep(&feeds)?,
                labels: labels.as_deref(),
                mixture: mixture.as_ref(),
            };
            let ready = self.objective.ready(batch.feeds)?;
            let leaves = self.student.leaves(&ready.rows)?;
            let taught = || self.taught(samples, batch.feeds);
            let found = self.objective.gradients(&ready, &leaves, taught, &batch);
            let (loss, gradients) = found?;
            total += loss * f64::from(share);
            self.student
                .accumulate(gradients, &ready.rows, share, &mut self.sums)?;
        }
        if !total.is_finite() {
            return Err(Error::Evaluate {
                place: format!("step {}", self.step),
                problem: format!(
                    "expected a finite loss, found {total}; a smaller learning rate may help"
                ),
            });
        }
        let (sums, clip) = (&mut self.sums, self.config.clip);
        self.student.update(sums, clip, &mut self.optimizer, rate)?;
        Ok(total)
    }
}
