//! Fine-tuning from the command line: its settings, its progress, its checkpoints.

use std::fs;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use onnx_bridge::finetune::{
    Checkpoint, Evaluation, FinetuneConfig, FinetuneOutcome, Length, LossKind, Observer, Start,
    Started, StepReport, Train, finetune,
};
use onnx_bridge::{Dataset, Model};
use serde::Serialize;

use crate::error::CliError;
use crate::output::{Existing, OutputFile};
use crate::progress::{Progress, Stage};

/// What `finetune` and `compress --finetune` have in common.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct TuningArgs {
    /// Optimizer steps [default: 3000]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<NonZeroU64>,
    /// Train for so many minutes instead of a number of steps; such a run does not repeat byte for byte
    #[arg(long, value_name = "MINUTES", conflicts_with = "steps")]
    pub(crate) minutes: Option<f64>,
    /// Peak learning rate of AdamW over one cycle [default: 0.01; 0.005 for dense matrices, 0.001 for a planned model]
    #[arg(long, value_name = "RATE")]
    pub(crate) lr: Option<f64>,
    /// Weight of the cross-entropy with the array `labels`, where the data has one; 0 leaves labels out [default: 0.5]
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) labels_weight: Option<f64>,
    /// Samples per step [default: 128]
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
    /// Mix pairs of samples of a batch by a random share of up to this: data where there is little; float inputs only
    /// [default: 0]
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

/// What a run came to; the keys are part of the interface.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TuningReport {
    /// The data trained on.
    pub(crate) data: String,
    /// Loss on held-back samples before.
    pub(crate) loss_before: f64,
    /// Loss on held-back samples of what is written.
    pub(crate) loss_after: f64,
    /// Steps done.
    pub(crate) steps: u64,
    /// The step whose state is written.
    pub(crate) best_step: u64,
    /// Seconds, earlier sittings included.
    pub(crate) seconds: f64,
}

impl TuningArgs {
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
            batch: self.batch.map_or(standard.batch, NonZeroUsize::get),
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

/// The models and the data of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning<'a> {
    /// The original.
    pub(crate) teacher: &'a Model,
    /// The compressed model.
    pub(crate) student: &'a Model,
    /// The same with finer codes, where there is one.
    pub(crate) warm: Option<&'a Model>,
    /// What to train on.
    pub(crate) data: &'a Dataset,
    /// Its file.
    pub(crate) path: &'a Path,
    /// Where the state is kept.
    pub(crate) checkpoint: Option<&'a Path>,
}

/// Train, with progress, going on from the checkpoint where there is one.
///
/// # Errors
///
/// [`CliError::Read`], [`CliError::Content`] for the checkpoint; [`CliError::Content`] for models and data that cannot be
/// trained.
pub(crate) fn tune(
    job: Tuning<'_>,
    config: &FinetuneConfig,
    progress: Progress,
) -> Result<(Model, TuningReport), CliError> {
    let resume = match job.checkpoint.filter(|path| path.exists()) {
        Some(path) => {
            let bytes = fs::read(path).map_err(|source| CliError::Read {
                path: path.to_owned(),
                source,
            })?;
            Some(Checkpoint::decode(&bytes).map_err(|error| CliError::content(path, error))?)
        }
        None => None,
    };
    let total = match config.length {
        Length::Steps(steps) => steps,
        Length::Time(_) => 0,
    };
    let mut watch = Watch {
        stage: progress.stage("training", total),
        checkpoint: job.checkpoint,
        failed: None,
    };
    let start = Start {
        resume: resume.as_ref(),
        warm: job.warm,
    };
    let outcome = finetune(
        job.teacher,
        job.student,
        job.data,
        config,
        &start,
        &mut watch,
    );
    if let Some(error) = watch.failed {
        return Err(error);
    }
    let outcome = outcome.map_err(|error| CliError::content(job.path, error))?;
    let FinetuneOutcome {
        model,
        steps,
        first_loss,
        best_loss,
        best_step,
        seconds,
        ..
    } = outcome;
    let report = TuningReport {
        data: job.path.display().to_string(),
        loss_before: first_loss,
        loss_after: best_loss,
        steps,
        best_step,
        seconds,
    };
    Ok((model, report))
}

struct Watch<'a> {
    stage: Stage,
    checkpoint: Option<&'a Path>,
    failed: Option<CliError>,
}

impl Observer for Watch<'_> {
    fn started(&mut self, report: &Started) {
        let outputs: Vec<String> = report
            .outputs
            .iter()
            .map(|(name, kind)| format!("{name} by {}", format!("{kind:?}").to_lowercase()))
            .collect();
        self.stage.note(&format!(
            "training {} quantized numbers and {} floats; compared: {}, {} hidden states",
            report.quantized,
            report.floats,
            outputs.join(", "),
            report.hidden
        ));
    }

    fn step(&mut self, _report: &StepReport) -> ControlFlow<()> {
        self.stage.step();
        match self.failed {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }

    fn evaluated(&mut self, report: &Evaluation) {
        self.stage.note(&format!(
            "step {}: loss on held-back samples {:.4}, after {:.0} s",
            report.step, report.loss, report.seconds
        ));
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let Some(path) = self.checkpoint else { return };
        let written = checkpoint
            .encode()
            .map_err(|error| CliError::content(path, error))
            .and_then(|bytes| {
                OutputFile::new(path, Existing::Replace)?
                    .write(|file| std::io::Write::write_all(file, &bytes))
            });
        self.failed = self.failed.take().or(written.err());
    }
}
