//! What became of each weight.

use serde::Serialize;

use crate::choice::{CoreGranularity, MappingChoice};
use crate::inspect::{Format, WeightInfo};
use crate::network::Network;
use crate::skip::SkipReason;

/// What a weight became.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Rewritten {
    /// The form.
    pub format: Format,
    /// `interleaved` or `split`, of a train.
    pub layout: Option<&'static str>,
    /// Row (output) modes of a train.
    pub row_modes: Vec<usize>,
    /// Column (input) modes of a train.
    pub col_modes: Vec<usize>,
    /// See [`Network::ranks`].
    pub ranks: Vec<usize>,
    /// Bits of a code.
    pub bits: u8,
    /// Symmetric or affine.
    pub mapping: MappingChoice,
    /// Which codes share a scale.
    pub granularity: CoreGranularity,
    /// Stored codes.
    pub parameters: usize,
    /// The bytes of its codes, scales and zero points in the file.
    pub bytes: u64,
    /// `||W - W~|| / ||W||` in the Frobenius norm, decomposition and quantization together; 0 for a zero matrix.
    pub error: f64,
    /// The codes themselves.
    #[serde(skip)]
    pub network: Network,
}

/// What happened to one weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It became a network.
    Rewritten(Box<Rewritten>),
    /// It stays.
    Skipped(SkipReason),
}

/// One weight of the model and what happened to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RewriteEntry {
    /// The weight as it was.
    pub weight: WeightInfo,
    /// What happened to it.
    pub outcome: Outcome,
}

/// One entry for every weight of a model, in the order of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RewriteReport {
    /// The bytes of the original in one file.
    pub bytes_before: u64,
    /// The bytes of the rewritten model in one file.
    pub bytes_after: u64,
    /// The weights.
    pub weights: Vec<RewriteEntry>,
}

impl RewriteReport {
    /// The weights that became networks, with their names.
    pub fn rewritten(&self) -> impl Iterator<Item = (&str, &Rewritten)> {
        self.weights
            .iter()
            .filter_map(|entry| match &entry.outcome {
                Outcome::Rewritten(rewritten) => {
                    Some((entry.weight.name.as_str(), rewritten.as_ref()))
                }
                Outcome::Skipped(_) => None,
            })
    }

    /// The weights that stay, with their reasons.
    pub fn skipped(&self) -> impl Iterator<Item = (&str, &SkipReason)> {
        self.weights
            .iter()
            .filter_map(|entry| match &entry.outcome {
                Outcome::Rewritten(_) => None,
                Outcome::Skipped(reason) => Some((entry.weight.name.as_str(), reason)),
            })
    }
}
