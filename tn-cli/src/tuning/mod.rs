//! Fine-tuning from the command line: its settings, its progress, its checkpoints.

mod args;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub(crate) use args::TuningArgs;
use onnx_bridge::finetune::{
    Checkpoint, Evaluation, FinetuneConfig, FinetuneOutcome, LossKind, Observer, Start, Started,
    StepReport, finetune, held_back, missing_operators,
};
use onnx_bridge::{Dataset, Model};
use serde::Serialize;

use crate::error::CliError;
use crate::memory;
use crate::model::read_dataset;
use crate::output::{Existing, OutputFile};
use crate::progress::{Progress, Stage};

/// What a run came to; the keys are part of the interface.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TuningReport {
    /// The data trained on.
    pub(crate) data: String,
    /// Samples trained on, and samples held back.
    pub(crate) samples: [usize; 2],
    /// Every output, and what it is compared by.
    pub(crate) compared: Vec<Compared>,
    /// Hidden states matched beside the outputs.
    pub(crate) hidden_states: usize,
    /// The input that switches off padded positions.
    pub(crate) mask: Option<String>,
    /// Quantized numbers and plain floats trained.
    pub(crate) trained: [usize; 2],
    /// Samples of a step.
    pub(crate) batch: usize,
    /// The peak learning rate.
    pub(crate) learning_rate: f64,
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
    /// The median time of a step of this sitting.
    pub(crate) step_seconds: Option<f64>,
    /// Every evaluation on the held-back samples, the first before training.
    pub(crate) curve: Vec<Evaluation>,
    /// The times that a plan was made again after training.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rounds: Vec<RoundReport>,
}

/// A plan that was made again and trained.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RoundReport {
    /// Weights that became something else.
    pub(crate) changed: usize,
    /// The bytes of its file.
    pub(crate) bytes: u64,
    /// Loss on held-back samples of the trained plan before it.
    pub(crate) loss_before: f64,
    /// Its own once trained.
    pub(crate) loss_after: f64,
    /// Whether it is the better one.
    pub(crate) kept: bool,
}

/// An output and what it is compared by.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Compared {
    /// The output.
    pub(crate) output: String,
    /// The kind of loss.
    pub(crate) loss: LossKind,
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
    let mut watch = Watch {
        progress,
        stage: progress.stage("preparing the training", 0),
        checkpoint: job.checkpoint,
        started: None,
        times: Vec::new(),
        failed: None,
    };
    let start = Start {
        resume: resume.as_ref(),
        warm: job.warm,
    };
    let _kept = memory::reuse();
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
    let FinetuneOutcome {
        model,
        steps,
        first_loss,
        best_loss,
        best_step,
        seconds,
        curve,
        ..
    } = outcome.map_err(|error| CliError::content(job.path, error))?;
    let started = watch.started.unwrap_or_default();
    let compared = started.outputs.into_iter();
    let report = TuningReport {
        data: job.path.display().to_string(),
        samples: [started.training, started.held_back],
        compared: compared
            .map(|(output, loss)| Compared { output, loss })
            .collect(),
        hidden_states: started.hidden,
        mask: started.mask,
        trained: [started.quantized, started.floats],
        batch: started.batch,
        learning_rate: started.learning_rate,
        loss_before: first_loss,
        loss_after: best_loss,
        steps,
        best_step,
        seconds,
        step_seconds: median_gap(&watch.times),
        curve,
        rounds: Vec::new(),
    };
    Ok((model, report))
}

/// The training that `compress --finetune` asks for, checked before any work.
#[derive(Debug)]
pub(crate) struct TuningJob {
    /// The samples to train on.
    pub(crate) data: PathBuf,
    /// The settings.
    pub(crate) config: FinetuneConfig,
    /// Where the state is kept.
    pub(crate) checkpoint: Option<PathBuf>,
}

impl TuningJob {
    /// What the arguments ask for; `None` without `--finetune`.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] for a setting of a training that is not asked for, and those of [`TuningArgs::config`].
    pub(crate) fn new(
        data: Option<&Path>,
        args: &TuningArgs,
        seed: u64,
    ) -> Result<Option<Self>, CliError> {
        match (data, args.given()) {
            (None, Some(flag)) => Err(CliError::Usage(format!(
                "{flag}: a setting of training needs --finetune, the samples to train on"
            ))),
            (None, None) => Ok(None),
            (Some(data), _) => Ok(Some(Self {
                data: data.to_owned(),
                config: args.config(seed)?,
                checkpoint: args.checkpoint.clone(),
            })),
        }
    }

    /// The data, once it is known that the model can be trained on it.
    ///
    /// # Errors
    ///
    /// [`CliError::Content`] naming the operators that the interpreter lacks, and those of [`read_dataset`].
    pub(crate) fn read(&self, model: &Model, path: &Path) -> Result<Dataset, CliError> {
        let operators = missing_operators(model);
        if !operators.is_empty() {
            let lacking = onnx_bridge::Error::MissingOperators { operators };
            return Err(CliError::content(path, lacking));
        }
        read_dataset(&self.data, model)
    }

    /// Trains a student, from the weights of `warm` where there are such. Every round has a checkpoint of its own.
    ///
    /// # Errors
    ///
    /// Those of [`tune`].
    pub(crate) fn train(
        &self,
        [teacher, student]: [&Model; 2],
        warm: Option<&Model>,
        data: &Dataset,
        round: usize,
        progress: Progress,
    ) -> Result<(Model, TuningReport), CliError> {
        let checkpoint = self.checkpoint.clone().map(|path| match round {
            0 => path,
            _ => {
                let mut path = path.into_os_string();
                path.push(format!(".round{round}"));
                path.into()
            }
        });
        let job = Tuning {
            teacher,
            student,
            warm,
            data,
            path: &self.data,
            checkpoint: checkpoint.as_deref(),
        };
        tune(job, &self.config, progress)
    }
}

/// Samples verified at most: they say how the models differ, and take seconds.
const MOST_VERIFIED: usize = 512;

/// The samples that a trained model is verified on: those held back, the first ones where none are.
///
/// # Errors
///
/// [`CliError::Content`] for data without a sample.
pub(crate) fn unseen(
    data: &Dataset,
    path: &Path,
    config: &FinetuneConfig,
) -> Result<Dataset, CliError> {
    let mut samples = held_back(data.len(), config);
    if samples.is_empty() {
        samples = (0..data.len()).collect();
    }
    samples.truncate(MOST_VERIFIED);
    let selected = data.select(&samples);
    selected.map_err(|error| CliError::content(path, error))
}

struct Watch<'a> {
    progress: Progress,
    stage: Stage,
    checkpoint: Option<&'a Path>,
    started: Option<Started>,
    /// When every step was done.
    times: Vec<f64>,
    failed: Option<CliError>,
}

/// The median of what lies between neighbours; evaluations between some steps do not reach it.
fn median_gap(times: &[f64]) -> Option<f64> {
    let mut gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2).copied()
}

impl Observer for Watch<'_> {
    fn started(&mut self, report: &Started) {
        self.stage = self.progress.stage("training", report.steps.unwrap_or(0));
        let outputs: Vec<String> = report
            .outputs
            .iter()
            .map(|(name, kind)| format!("{name} by {}", format!("{kind:?}").to_lowercase()))
            .collect();
        self.stage.note(&format!(
            "training {} quantized numbers and {} floats on {} samples, {} held back; rate {}; compared: {}, {} hidden states",
            report.quantized,
            report.floats,
            report.training,
            report.held_back,
            report.learning_rate,
            outputs.join(", "),
            report.hidden
        ));
        if report.step > 0 {
            self.stage
                .note(&format!("going on from step {}", report.step));
        }
        self.started = Some(report.clone());
    }

    fn step(&mut self, report: &StepReport) -> ControlFlow<()> {
        self.times.push(report.seconds);
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

    fn checkpoint(&mut self, state: &dyn Fn() -> Checkpoint) {
        let Some(path) = self.checkpoint else { return };
        let written = state()
            .encode()
            .map_err(|error| CliError::content(path, error))
            .and_then(|bytes| {
                OutputFile::new(path, Existing::Replace)?
                    .write(|file| std::io::Write::write_all(file, &bytes))
            });
        self.failed = self.failed.take().or(written.err());
    }
}
