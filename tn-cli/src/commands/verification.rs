//! What compress and verify share: samples for a model, and both models run on them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use onnx_bridge::{Dataset, Engine, Error, Model, Verification};
use serde::Serialize;

use crate::error::CliError;
use crate::model::read_dataset;
use crate::table::{figure, percent};

/// How many samples are made up where none are given.
const RANDOM_SAMPLES: usize = 64;
/// How long latencies are measured, and how many pairs are wanted at least.
const LATENCY: (Duration, usize) = (Duration::from_secs(2), 5);

/// A model and the file it stands in, or will.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    /// The model.
    pub(crate) model: &'a Model,
    /// Its file.
    pub(crate) path: &'a Path,
}

/// What models are compared on.
#[derive(Debug)]
pub(crate) struct Samples {
    data: Dataset,
    file: Option<PathBuf>,
}

impl Samples {
    /// Those of a file, or random ones.
    ///
    /// # Errors
    ///
    /// Those of [`read_dataset`]; [`CliError::Content`] for a model whose inputs cannot be made up.
    pub(crate) fn new(
        original: Named<'_>,
        file: Option<&Path>,
        seed: u64,
    ) -> Result<Self, CliError> {
        let data = match file {
            Some(file) => read_dataset(file, original.model)?,
            None => onnx_bridge::synthesize(original.model, RANDOM_SAMPLES, seed)
                .map_err(|error| CliError::content(original.path, error))?,
        };
        Ok(Self {
            data,
            file: file.map(Path::to_owned),
        })
    }

    /// Samples of a file that are at hand.
    pub(crate) fn of(data: Dataset, file: &Path) -> Self {
        Self {
            data,
            file: Some(file.to_owned()),
        }
    }

    /// Both models on these samples.
    ///
    /// # Errors
    ///
    /// [`CliError::Content`] with the file at fault: the data, or the model that does not run.
    pub(crate) fn verify(
        &self,
        original: Named<'_>,
        other: Named<'_>,
    ) -> Result<VerificationReport, CliError> {
        let verified = onnx_bridge::verify(original.model, other.model, &self.data);
        let verification = verified.map_err(|error| self.blame(error, original, other))?;
        Ok(VerificationReport {
            data: self.file.as_ref().map(|file| file.display().to_string()),
            verification,
        })
    }

    /// Whether tract runs a model on the first of these samples.
    ///
    /// # Errors
    ///
    /// Tract's own, or what the samples lack.
    pub(crate) fn run_on(&self, model: &Model) -> onnx_bridge::Result<()> {
        let engine = Engine::load(model)?;
        engine.run_samples(&self.data, 0..engine.batch().min(self.data.len()))?;
        Ok(())
    }

    /// The medians of the two models' times for one batch, run in turns.
    ///
    /// # Errors
    ///
    /// Those of [`Samples::verify`].
    pub(crate) fn latency(
        &self,
        original: Named<'_>,
        other: Named<'_>,
    ) -> Result<Latency, CliError> {
        let load = |named: Named<'_>| {
            Engine::load(named.model).map_err(|error| CliError::content(named.path, error))
        };
        let engines = [load(original)?, load(other)?];
        let batch = engines[0].batch().min(self.data.len());
        let mut times = [Vec::new(), Vec::new()];
        let start = Instant::now();
        // The first round warms up and does not count.
        for round in 0.. {
            for (engine, times) in engines.iter().zip(&mut times) {
                let run = Instant::now();
                engine
                    .run_samples(&self.data, 0..batch)
                    .map_err(|error| self.blame(error, original, other))?;
                if round > 0 {
                    times.push(1e3 * run.elapsed().as_secs_f64());
                }
            }
            if round >= LATENCY.1 && start.elapsed() >= LATENCY.0 {
                break;
            }
        }
        let [before_ms, after_ms] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        Ok(Latency {
            batch,
            before_ms,
            after_ms,
        })
    }

    fn blame(&self, error: Error, original: Named<'_>, other: Named<'_>) -> CliError {
        let path = match (&error, &self.file) {
            (Error::Dataset { .. } | Error::MissingInput { .. }, Some(file)) => file,
            _ if Engine::load(original.model).is_err() => original.path,
            _ => other.path,
        };
        CliError::content(path, error)
    }
}

/// How far a model's outputs are from the original's.
#[derive(Debug, Serialize)]
pub(crate) struct VerificationReport {
    /// The file of the samples; none were given where it is null.
    data: Option<String>,
    #[serde(flatten)]
    verification: Verification,
}

impl VerificationReport {
    /// What was found on the samples of a file.
    pub(crate) fn new(file: Option<&Path>, verification: Verification) -> Self {
        Self {
            data: file.map(|file| file.display().to_string()),
            verification,
        }
    }
}

impl fmt::Display for VerificationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verification {
            samples,
            relative_l2,
            cosine,
            worst_sample,
            worst_relative_l2,
            ..
        } = &self.verification;
        match &self.data {
            Some(file) => write!(f, "on {samples} samples of {file}: ")?,
            None => write!(f, "on {samples} random samples: ")?,
        }
        write!(
            f,
            "relative L2 {}, cosine {cosine:.6}",
            figure(*relative_l2)
        )?;
        if let Some(agreement) = self.verification.top1_agreement {
            write!(f, ", top-1 agreement {}", percent(agreement, 1.0))?;
        }
        if let (Some(before), Some(after)) = (
            self.verification.accuracy_before,
            self.verification.accuracy_after,
        ) {
            write!(
                f,
                ", accuracy {} -> {}",
                percent(before, 1.0),
                percent(after, 1.0)
            )?;
        }
        write!(
            f,
            "; worst is sample {worst_sample} with {}",
            figure(*worst_relative_l2)
        )
    }
}

/// Medians of the time that one batch takes in tract.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    batch: usize,
    before_ms: f64,
    after_ms: f64,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            batch,
            before_ms,
            after_ms,
        } = self;
        write!(
            f,
            "a batch of {batch} in tract: {} ms -> {} ms",
            figure(*before_ms),
            figure(*after_ms)
        )
    }
}
