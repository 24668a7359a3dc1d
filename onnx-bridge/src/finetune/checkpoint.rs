//! The whole state of a run between two steps.

use serde::{Deserialize, Serialize};
use tn_qat::AdamW;

use super::config::FinetuneConfig;
use crate::error::{Error, Result};

/// The state of a run: put into [`super::finetune`] again, it goes on to the same bytes as if it had never stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub(crate) config: FinetuneConfig,
    /// The step that comes next.
    pub(crate) step: u64,
    pub(crate) seconds: f64,
    pub(crate) parameters: Vec<Vec<f32>>,
    pub(crate) optimizer: AdamW<f32>,
    pub(crate) best: Option<Best>,
}

/// The best state so far on the held-back samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    pub(crate) loss: f64,
    pub(crate) step: u64,
    pub(crate) parameters: Vec<Vec<f32>>,
}

impl Checkpoint {
    /// The step that comes next.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The settings of the run.
    pub fn config(&self) -> &FinetuneConfig {
        &self.config
    }

    /// As bytes: JSON, whose numbers read back exactly.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when a number is not finite.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::Checkpoint {
            problem: e.to_string(),
        })
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when they are not a checkpoint.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::Checkpoint {
            problem: e.to_string(),
        })
    }
}
