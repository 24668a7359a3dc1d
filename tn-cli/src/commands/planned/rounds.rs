//! A planned model trained, and planned again by what the training left of its errors.

use std::mem;

use onnx_bridge::finetune::left_by_training;
use onnx_bridge::plan::Planned;
use onnx_bridge::{Dataset, Model};

use super::{Ask, solve};
use crate::error::CliError;
use crate::progress::Progress;
use crate::tuning::{RoundReport, TuningJob, TuningReport};

/// The training of a planned model, and how many times it may be planned again.
pub(super) struct Rounds<'a> {
    pub(super) job: &'a TuningJob,
    pub(super) samples: &'a Dataset,
    pub(super) most: usize,
}

impl Rounds<'_> {
    /// The state that loses least on the held-back samples, of the plan that it belongs to: its model is the trained one.
    ///
    /// # Errors
    ///
    /// Those of planning and training.
    pub(super) fn run(
        &self,
        ask: &Ask<'_>,
        model: &Model,
        calib: &Dataset,
        planned: Planned,
    ) -> Result<(Planned, TuningReport), CliError> {
        let progress = Progress::detect(ask.talk.quiet);
        let train = |student: &Model, warm: Option<&Model>, round: usize| {
            let models = [model, student];
            self.job.train(models, warm, self.samples, round, progress)
        };
        let mut best = planned;
        let (trained, mut report) = train(&best.model, None, 0)?;
        let mut plain = mem::replace(&mut best.model, trained);
        let mut rounds = Vec::new();
        for round in 1..=self.most {
            let stage = progress.stage("measuring what training left", 0);
            let config = &self.job.config;
            let left = left_by_training(model, &plain, &best.model, self.samples, config);
            let left = left.map_err(|error| CliError::content(&self.job.data, error))?;
            drop(stage);
            let (mut again, _) = solve(ask, model, calib, Some(&left))?;
            let before = best.plan.weights.iter().map(|w| w.choice);
            let after = again.plan.weights.iter().map(|w| w.choice);
            let changed = before.zip(after).filter(|(a, b)| a != b).count();
            if changed == 0 || again.blocking.is_some() {
                break;
            }
            let (trained, tuned) = train(&again.model, Some(&best.model), round)?;
            let kept = tuned.loss_after < report.loss_after;
            rounds.push(RoundReport {
                changed,
                bytes: again.plan.bytes,
                loss_before: report.loss_after,
                loss_after: tuned.loss_after,
                kept,
            });
            if !kept {
                break;
            }
            plain = mem::replace(&mut again.model, trained);
            (best, report) = (again, tuned);
        }
        report.rounds = rounds;
        Ok((best, report))
    }
}
