//! The arguments of `tnq bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use onnx_bridge::runtime::Activations;

use crate::args::TalkArgs;

#[derive(Debug, Args)]
#[command(after_help = BENCH_HELP)]
pub(crate) struct BenchArgs {
    /// The ONNX model; stock tract runs it
    pub(crate) model: PathBuf,
    /// The compressed model, timed in turns with MODEL
    pub(crate) output: Option<PathBuf>,
    /// Batch sizes, one after the other
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "1,8,32"
    )]
    pub(crate) batches: Vec<NonZeroUsize>,
    /// Size of every other axis that the model leaves open, such as the length of a sequence
    #[arg(long, value_name = "N", default_value = "32")]
    pub(crate) length: NonZeroUsize,
    /// What runs the compressed model: our operators that keep its weights packed, tract alone, or each
    #[arg(long, value_enum, default_value_t)]
    pub(crate) runtime: RuntimeChoice,
    /// What fused operators compute with: f32, or int8 rounded row by row
    #[arg(long, value_enum, default_value_t)]
    pub(crate) activations: ActivationsChoice,
    /// How long to measure each batch size for
    #[arg(long, value_name = "S", default_value = "4", value_parser = parse_seconds)]
    pub(crate) seconds: Duration,
    /// Samples to run on, by default random ones
    #[arg(long, value_name = "NPZ")]
    pub(crate) data: Option<PathBuf>,
    /// Threads of a run
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Running")]
    pub(crate) threads: NonZeroUsize,
    /// Seed of the random samples
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Running")]
    pub(crate) seed: u64,
    /// Print how many bytes memory grows by when MODEL is loaded for inputs of these shapes, and nothing else
    #[arg(long, value_name = "SHAPES", hide = true)]
    pub(crate) memory_for: Option<String>,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

const BENCH_HELP: &str = "\
Examples:
  tnq bench model.onnx small.onnx
  tnq bench encoder.onnx small.onnx --batches 1,8 --length 128 --activations int8
  tnq bench small.onnx --json

The models run in turns, after a round that does not count. A speed-up is the ratio of the
medians; the interval holds the median of the rounds' ratios in 95 of 100 cases.";

/// What runs a compressed model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum RuntimeChoice {
    /// Fused operators over weights that stay packed in memory
    Fused,
    /// tract alone
    Plain,
    /// Each of them
    #[default]
    Both,
}

/// What fused operators compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ActivationsChoice {
    /// As they are
    #[default]
    F32,
    /// Rounded to 8 bits, one scale for each row and each 128 elements at most
    Int8,
}

impl From<ActivationsChoice> for Activations {
    fn from(choice: ActivationsChoice) -> Self {
        match choice {
            ActivationsChoice::F32 => Self::F32,
            ActivationsChoice::Int8 => Self::Int8,
        }
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|s| *s >= 0.0);
    seconds
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| format!("expected seconds, found {text:?}"))
}
