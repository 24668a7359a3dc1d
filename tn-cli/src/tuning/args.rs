//! The flags of a training.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use onnx_bridge::finetune::{FinetuneConfig, Length, LossKind, Train};

use crate::error::CliError;

/// What `finetune` and `compress --finetune` have in common.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct TuningArgs {
    /// Optimizer steps [default: 3000; ten passes over the samples for a planned model]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<NonZeroU64>,
    /// Train for so many minutes instead of a number of steps; such a run does not repeat byte for byte
    #[arg(long, value_name = "MINUTES", conflicts_with = "steps")]
    pub(crate) minutes: Option<f64>,
    /// Peak learning rate of AdamW over one cycle [default: 0.01; 0.005 for dense matrices, 0.0003 for a planned model]
    #[arg(long, value_name = "RATE")]
    pub(crate) lr: Option<f64>,
    /// Weight of the cross-entropy with the array `labels`, where the data has one; 0 leaves labels out [default: 2]
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) labels_weight: Option<f64>,
    /// Samples per step [default: 128; 64 for a planned model]
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<NonZeroUsize>,
    /// The input that is 0 at padded positions: they count for nothing, and batches are cut to their longest sample
    /// [default: the one with "mask" in its name]
    #[arg(long, value_name = "NAME")]
    pub(crate) mask: Option<String>,
    /// What moves [default: cores]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) train: Option<TrainArg>,
    /// What outputs are compared by [default: by what they look like]
    #[arg(long, value_enum)]
    pub(crate) loss: Option<LossArg>,
    /// Weight of the relative error at the outputs of rewritten layers [default: 0.05 beside logits, else 1]
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) hidden_weight: Option<f64>,
    /// Mix half of a batch's samples, and their labels, with the other half by random shares of up to this: data where there is
    /// little; float inputs only [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub(crate) mix: Option<f64>,
    /// Compute a batch in so many parts, one after the other, to save memory [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) accumulate: Option<NonZeroUsize>,
    /// Keep the state of the run in this file, 20 times over the run; if it is there already, go on from it
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
}

/// Which numbers move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrainArg {
    /// Cores, factors, steps, biases of rewritten layers
    Cores,
    /// These and normalizations
    #[value(name = "+norms")]
    Norms,
    /// All float parameters
    All,
}

/// What outputs are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LossArg {
    /// Kullback-Leibler divergence
    Logits,
    /// Relative error, cosines, similarities within the batch
    Embedding,
    /// Relative error
    Mse,
}

impl TuningArgs {
    /// The first of its flags that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let given = [
            ("--steps", self.steps.is_some()),
            ("--minutes", self.minutes.is_some()),
            ("--lr", self.lr.is_some()),
            ("--labels-weight", self.labels_weight.is_some()),
            ("--batch", self.batch.is_some()),
            ("--mask", self.mask.is_some()),
            ("--train", self.train.is_some()),
            ("--loss", self.loss.is_some()),
            ("--hidden-weight", self.hidden_weight.is_some()),
            ("--mix", self.mix.is_some()),
            ("--accumulate", self.accumulate.is_some()),
            ("--checkpoint", self.checkpoint.is_some()),
        ];
        let first = given.into_iter().find(|(_, given)| *given);
        first.map(|(flag, _)| flag)
    }

    /// The settings of a run.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] for a number out of range.
    pub(crate) fn config(&self, seed: u64) -> Result<FinetuneConfig, CliError> {
        let standard = FinetuneConfig::default();
        let length = match (self.minutes, self.steps) {
            (Some(minutes), _) if minutes.is_finite() && minutes > 0.0 => {
                Length::Time(Duration::from_secs_f64(60.0 * minutes))
            }
            (Some(minutes), _) => {
                let problem = format!("--minutes: expected a number above 0, found {minutes}");
                return Err(CliError::Usage(problem));
            }
            (None, Some(steps)) => Length::Steps(steps.get()),
            (None, None) => standard.length,
        };
        let config = FinetuneConfig {
            length,
            batch: self.batch.map(NonZeroUsize::get),
            accumulate: self
                .accumulate
                .map_or(standard.accumulate, NonZeroUsize::get),
            learning_rate: self.lr.or(standard.learning_rate),
            labels_weight: self.labels_weight.unwrap_or(standard.labels_weight),
            hidden_weight: self.hidden_weight,
            mix: self.mix.unwrap_or(standard.mix),
            mask: self.mask.clone(),
            train: match self.train {
                None | Some(TrainArg::Cores) => Train::Cores,
                Some(TrainArg::Norms) => Train::Norms,
                Some(TrainArg::All) => Train::All,
            },
            loss: match self.loss {
                None => LossKind::Auto,
                Some(LossArg::Logits) => LossKind::Logits,
                Some(LossArg::Embedding) => LossKind::Embedding,
                Some(LossArg::Mse) => LossKind::Mse,
            },
            seed,
            ..standard
        };
        config
            .check()
            .map_err(|error| CliError::Usage(error.to_string()))?;
        Ok(config)
    }
}
