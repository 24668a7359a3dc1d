//! The objects that `--json` prints, as the page reads them: of one command or another, of this version or an older one,
//! so everything but the version may be missing.

use std::collections::BTreeMap;

use onnx_bridge::plan::{Candidate, Tradeoff};
use serde::Deserialize;
use serde_json::Value;

/// A result of `compress`, `plan`, `finetune` or `verify`.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    pub(super) command: String,
    pub(super) version: Option<String>,
    pub(super) command_line: Option<String>,
    #[serde(alias = "teacher")]
    pub(super) input: Option<String>,
    pub(super) student: Option<String>,
    pub(super) output: Option<String>,
    pub(super) seed: Option<u64>,
    pub(super) bytes: Sizes,
    #[serde(default)]
    pub(super) weights: Vec<Weight>,
    #[serde(default)]
    pub(super) skipped: Vec<Skipped>,
    pub(super) goal: Option<Goal>,
    pub(super) tradeoff: Option<Tradeoff>,
    pub(super) finetune: Option<Training>,
    pub(super) verification: Option<Verified>,
    pub(super) unverified: Option<String>,
    pub(super) latency: Option<Latency>,
    #[serde(default)]
    pub(super) seconds: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Sizes {
    pub(super) before: u64,
    pub(super) after: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Weight {
    pub(super) name: String,
    #[serde(default)]
    nodes: Vec<String>,
    pub(super) op: Option<String>,
    #[serde(default)]
    pub(super) shape: Vec<usize>,
    pub(super) format: String,
    pub(super) layout: Option<String>,
    pub(super) modes: Option<Modes>,
    #[serde(default)]
    pub(super) ranks: Vec<usize>,
    pub(super) bits: Option<u8>,
    /// What a plan chose; what this version has no word for is passed over.
    choice: Option<Value>,
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    pub(super) predicted_loss: Option<f64>,
    pub(super) error: Option<f64>,
    pub(super) error_histogram: Option<Histogram>,
    pub(super) spectrum: Option<Spectrum>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Modes {
    #[serde(default)]
    pub(super) input: Vec<usize>,
    #[serde(default)]
    pub(super) output: Vec<usize>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Histogram {
    pub(super) edges: Vec<f64>,
    pub(super) counts: Vec<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Spectrum {
    pub(super) index: Vec<usize>,
    pub(super) value: Vec<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Skipped {
    pub(super) name: String,
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Option<u64>,
    pub(super) reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Goal {
    pub(super) bytes: Option<u64>,
    pub(super) loss: Option<f64>,
    pub(super) drop: Option<f64>,
    pub(super) speed: Option<f64>,
    pub(super) predicted_loss: Option<f64>,
    pub(super) verified_loss: Option<f64>,
    pub(super) met: bool,
    pub(super) blocking: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Training {
    pub(super) data: String,
    pub(super) loss_before: f64,
    pub(super) loss_after: f64,
    pub(super) steps: u64,
    pub(super) best_step: u64,
    #[serde(default)]
    pub(super) curve: Vec<Evaluated>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Evaluated {
    pub(super) step: u64,
    pub(super) loss: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Verified {
    pub(super) data: Option<String>,
    pub(super) samples: u64,
    pub(super) relative_l2: Option<f64>,
    pub(super) cosine: Option<f64>,
    pub(super) top1_agreement: Option<f64>,
    pub(super) accuracy_before: Option<f64>,
    pub(super) accuracy_after: Option<f64>,
    pub(super) worst_sample: Option<u64>,
    pub(super) worst_relative_l2: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Latency {
    pub(super) batch: u64,
    pub(super) before_ms: f64,
    pub(super) after_ms: f64,
}

impl Outcome {
    /// The title of the weight of a name.
    pub(super) fn title(&self, name: &str) -> String {
        let found = self.weights.iter().find(|weight| weight.name == name);
        found.map_or_else(|| name.to_owned(), Weight::title)
    }
}

impl Skipped {
    /// What people know it by.
    pub(super) fn title(&self) -> String {
        title(&self.name, &self.nodes)
    }
}

/// The node that uses a weight, by which people know a layer: exporters name weights `onnx::MatMul_725`. The weight's own name
/// where the node has none.
fn title(name: &str, nodes: &[String]) -> String {
    match nodes {
        [first, ..] if first.starts_with("node ") => name.to_owned(),
        [] => name.to_owned(),
        [only] => only.clone(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    }
}

impl Weight {
    /// What people know it by.
    pub(super) fn title(&self) -> String {
        title(&self.name, &self.nodes)
    }

    /// What it became, in a few words beside the format's name.
    pub(super) fn details(&self) -> String {
        let planned = self.choice.clone();
        if let Some(choice) = planned.and_then(|c| serde_json::from_value::<Candidate>(c).ok()) {
            return describe(&choice);
        }
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.layout.clone());
        match &self.modes {
            Some(modes) if self.format == "tt" => {
                let [input, output] =
                    [&modes.input, &modes.output].map(|m| crate::settings::join(m, "×"));
                parts.push(format!("modes {input} to {output}"));
            }
            _ => {}
        }
        if let Some(rank) = self.rank() {
            parts.push(if self.ranks.len() > 3 {
                format!("ranks {}", crate::settings::join(&self.ranks, ", "))
            } else {
                format!("rank {rank}")
            });
        }
        parts.join(", ")
    }

    /// The one rank that cuts its spectrum: of two factors, or two factors and a core.
    pub(super) fn rank(&self) -> Option<usize> {
        let cuts = matches!(self.format.as_str(), "low-rank" | "tucker");
        let largest = self.ranks.iter().copied().max();
        largest.filter(|rank| *rank > 1 || cuts)
    }
}

/// A planned choice in a few words.
pub(crate) fn describe(choice: &Candidate) -> String {
    match choice {
        Candidate::Dense { format } => format!(
            "{} levels, blocks of {}",
            format.levels.count(),
            format.block
        ),
        Candidate::LowRank { rank, format } => {
            format!("rank {rank}, {} levels", format.levels.count())
        }
        Candidate::Corrected { base, rank, .. } => {
            format!("{} levels + rank {rank}", base.levels.count())
        }
        Candidate::Train { rank, format, .. } => {
            format!("two cores, rank {rank}, {} levels", format.levels.count())
        }
        Candidate::Kernel {
            ranks: [inner, outer],
            format,
            ..
        } => format!(
            "{inner} channels to {outer}, {} levels",
            format.levels.count()
        ),
        Candidate::Tucker { rank, format } => {
            format!("core of {rank}, {} levels", format.levels.count())
        }
        _ => String::new(),
    }
}
