//! What a fine-tuning run is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::student::Kind;
use crate::error::{Error, Result};

/// Which numbers move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Train {
    /// Cores, factors, steps and the biases of rewritten layers.
    #[default]
    Cores,
    /// These and the scales and offsets of normalizations.
    Norms,
    /// All float parameters.
    All,
}

/// What the outputs are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// Chosen by the output: [`LossKind::Logits`] for `[n, classes]`, [`LossKind::Embedding`] for anything with more axes.
    #[default]
    Auto,
    /// Kullback-Leibler divergence with temperature.
    Logits,
    /// Relative mean squared error, the cosine of pooled vectors, and the matrix of cosines between the samples of a batch.
    Embedding,
    /// Relative mean squared error alone.
    Mse,
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Chosen by the student: 3000 steps; ten passes over the samples, and 200 steps at least, where weights were calibrated.
    Auto,
    /// This many optimizer steps: the same bytes on every run.
    Steps(u64),
    /// This much time; the schedule follows the clock, so runs differ.
    Time(Duration),
}

/// The settings of a run; [`Default`] is the recipe that the project measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinetuneConfig {
    /// How long.
    pub length: Length,
    /// Samples per optimizer step; `None` chooses by the student: 128, and 64 where weights were calibrated.
    pub batch: Option<usize>,
    /// Parts in which a batch is computed, one after the other, to save memory.
    pub accumulate: usize,
    /// Peak learning rate of AdamW over one cycle; `None` chooses by the student: 1e-2 for trains and other products
    /// of cores, 5e-3 for matrices, 3e-4 for planned matrices of few levels, whose starting point is calibrated.
    pub learning_rate: Option<f64>,
    /// Decoupled weight decay on weights.
    pub weight_decay: f64,
    /// The common norm to which gradients are clipped.
    pub clip: f64,
    /// The part of the run without quantization; `None` chooses by the student: 0.4, and none where weights were calibrated.
    pub float_part: Option<f64>,
    /// What the outputs are compared by.
    pub loss: LossKind,
    /// Temperature of [`LossKind::Logits`].
    pub temperature: f64,
    /// Weight of the relative error at the outputs of rewritten layers; `None` chooses by the loss.
    pub hidden_weight: Option<f64>,
    /// Weight of the cross-entropy with labels; without labels there is none.
    pub labels_weight: f64,
    /// The integer input that is 0 at padded positions; `None` takes an input of the data with "mask" in its name that
    /// is a matrix of zeros and ones.
    pub mask: Option<String>,
    /// What is trained.
    pub train: Train,
    /// The part of the samples that is held back to choose the best state.
    pub held_back: f64,
    /// Mixes half of a batch's samples, and their labels, with the other half by random shares of up to this; 0 for none.
    /// Only float inputs can be mixed.
    pub mix: f64,
    /// Seed of the order of samples and of mixing.
    pub seed: u64,
    /// How many times the held-back part is evaluated, and a checkpoint handed out, over the run.
    pub evaluations: u64,
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        Self {
            length: Length::Auto,
            batch: None,
            accumulate: 1,
            learning_rate: None,
            weight_decay: 0.0,
            clip: 1.0,
            float_part: None,
            loss: LossKind::Auto,
            temperature: 2.0,
            hidden_weight: None,
            labels_weight: 2.0,
            mask: None,
            train: Train::Cores,
            held_back: 0.05,
            mix: 0.0,
            seed: 0,
            evaluations: 20,
        }
    }
}

/// What was left open, chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    /// Samples per step.
    pub(crate) batch: usize,
    /// The peak learning rate.
    pub(crate) learning_rate: f64,
    /// The part of the run without quantization.
    pub(crate) float_part: f64,
    /// Steps; `None` by the clock.
    pub(crate) steps: Option<u64>,
}

impl FinetuneConfig {
    /// Chooses for a student of this kind and so many samples to train on.
    pub(crate) fn choose(&self, kind: Kind, training: usize) -> Chosen {
        let (rate, float_part, batch) = match kind {
            Kind::Cores => (1e-2, 0.4, 128),
            Kind::Matrices => (5e-3, 0.4, 128),
            Kind::Blocks => (3e-4, 0.0, 64),
        };
        let batch = self.batch.unwrap_or(batch);
        let passes = |n: usize| (n * training / batch).max(200) as u64;
        Chosen {
            batch,
            learning_rate: self.learning_rate.unwrap_or(rate),
            float_part: self.float_part.unwrap_or(float_part),
            steps: match (self.length, kind) {
                (Length::Steps(n), _) => Some(n),
                (Length::Time(_), _) => None,
                (Length::Auto, Kind::Blocks) => Some(passes(10)),
                (Length::Auto, _) => Some(3000),
            },
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first that is out of range.
    pub fn check(&self) -> Result<()> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let part = |v: f64| (0.0..1.0).contains(&v);
        let weight = |v: f64| v.is_finite() && v >= 0.0;
        let length = match self.length {
            Length::Auto => 1.0,
            Length::Steps(n) => n as f64,
            Length::Time(t) => t.as_secs_f64(),
        };
        for (name, expected, found, holds) in [
            ("length", "at least one step", length, positive(length)),
            (
                "batch",
                "at least 1",
                self.batch.unwrap_or(1) as f64,
                self.batch != Some(0),
            ),
            (
                "accumulate",
                "1 to the batch",
                self.accumulate as f64,
                (1..=self.batch.unwrap_or(64)).contains(&self.accumulate),
            ),
            (
                "learning rate",
                "a number above 0",
                self.learning_rate.unwrap_or(1.0),
                positive(self.learning_rate.unwrap_or(1.0)),
            ),
            (
                "weight decay",
                "a number of 0 or more",
                self.weight_decay,
                weight(self.weight_decay),
            ),
            (
                "gradient clip",
                "a number above 0",
                self.clip,
                positive(self.clip),
            ),
            (
                "float part",
                "a part below 1",
                self.float_part.unwrap_or(0.0),
                part(self.float_part.unwrap_or(0.0)),
            ),
            (
                "temperature",
                "a number above 0",
                self.temperature,
                positive(self.temperature),
            ),
            (
                "labels weight",
                "a number of 0 or more",
                self.labels_weight,
                weight(self.labels_weight),
            ),
            (
                "hidden weight",
                "a number of 0 or more",
                self.hidden_weight.unwrap_or(0.0),
                weight(self.hidden_weight.unwrap_or(0.0)),
            ),
            (
                "held-back part",
                "a part below 1",
                self.held_back,
                part(self.held_back),
            ),
            ("mix", "a part below 1", self.mix, part(self.mix)),
            (
                "evaluations",
                "at least 1",
                self.evaluations as f64,
                self.evaluations > 0,
            ),
        ] {
            if !holds {
                return Err(Error::Setting {
                    name,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}
