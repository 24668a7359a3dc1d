//! What `tnq bench` prints.

use std::fmt;

use serde::Serialize;

use super::pairs::{Speedup, Spread};
use crate::table::{bytes, figure, table};

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) schema: u32,
    pub(super) command: &'static str,
    pub(super) version: &'static str,
    pub(super) input: String,
    pub(super) output: Option<String>,
    pub(super) data: Option<String>,
    pub(super) models: Vec<Contestant>,
    pub(super) batches: Vec<Batch>,
    /// Of a run.
    pub(super) threads: usize,
    pub(super) seed: u64,
}

/// A model and what runs it.
#[derive(Debug, Serialize)]
pub(super) struct Contestant {
    pub(super) model: &'static str,
    pub(super) runtime: &'static str,
    /// Of the file.
    pub(super) bytes: u64,
    /// By which a process grows that loads the model.
    pub(super) memory_bytes: Option<u64>,
    pub(super) fused_layers: usize,
    /// Weights of fused layers in memory.
    pub(super) fused_bytes: usize,
    /// Relative L2 of the outputs, from those of the same file in stock tract.
    pub(super) difference: Option<f64>,
}

/// All of them at one batch size.
#[derive(Debug, Serialize)]
pub(super) struct Batch {
    pub(super) batch: usize,
    pub(super) rounds: usize,
    pub(super) timings: Vec<Timing>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(super) struct Timing {
    pub(super) model: &'static str,
    pub(super) runtime: &'static str,
    #[serde(flatten)]
    pub(super) spread: Spread,
    #[serde(flatten)]
    pub(super) against_first: Option<Speedup>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = || "-".to_owned();
        let models = self.models.iter().map(|m| {
            vec![
                m.model.to_owned(),
                m.runtime.to_owned(),
                bytes(m.bytes),
                m.memory_bytes.map_or_else(missing, bytes),
                match m.fused_layers {
                    0 => missing(),
                    n => format!("{n}, {}", bytes(m.fused_bytes as u64)),
                },
                m.difference.map_or_else(missing, figure),
            ]
        });
        let header = [
            "model",
            "runtime",
            "file",
            "RAM after load",
            "fused layers",
            "off plain by",
        ];
        let right = ["file", "RAM after load", "off plain by"];
        writeln!(f, "{}", table(&header, &right, models.collect()))?;
        let timings = self.batches.iter().flat_map(|batch| {
            batch.timings.iter().map(move |t| {
                let Spread {
                    median_ms,
                    low_ms,
                    high_ms,
                } = t.spread;
                let mut row = vec![
                    batch.batch.to_string(),
                    batch.rounds.to_string(),
                    t.model.to_owned(),
                    t.runtime.to_owned(),
                    format!("{} ms", figure(median_ms)),
                    format!("{} to {}", figure(low_ms), figure(high_ms)),
                ];
                row.extend(match &t.against_first {
                    Some(s) => [
                        format!("{:.2}", s.speedup),
                        format!("{:.2} to {:.2}", s.speedup_low, s.speedup_high),
                        s.verdict.name().to_owned(),
                    ],
                    None => [(); 3].map(|()| missing()),
                });
                row
            })
        });
        let header = [
            "batch",
            "rounds",
            "model",
            "runtime",
            "median",
            "middle half",
            "speed-up",
            "between",
            "verdict",
        ];
        let right = ["batch", "rounds", "median", "speed-up"];
        write!(f, "{}", table(&header, &right, timings.collect()))
    }
}
