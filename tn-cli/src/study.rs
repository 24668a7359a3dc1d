//! The arguments of `tnq study`, checked.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use quant_core::Bits;
use regex::Regex;
use tn_formats::{Layout, MatrixModes};
use tn_qat::studies::{BitsConfig, GaugeConfig, QatConfig, RanksConfig, standard_modes};

use crate::args::{ComputeArgs, TalkArgs};
use crate::error::CliError;
use crate::examples;
use crate::settings::{Modes, parse_bits};

/// Which experiment.
#[derive(Debug, Subcommand)]
pub(crate) enum StudyCommand {
    /// Quantizing trains after training against training them with quantization, at the same budget
    #[command(after_help = examples::STUDY_QAT)]
    Qat(QatArgs),
    /// What quantization does to the ranks of a train, and whether they can fall after it
    #[command(after_help = examples::STUDY_RANKS)]
    Ranks(RanksArgs),
    /// What each bit and each rank buys: error against bytes
    #[command(after_help = examples::STUDY_BITS)]
    Bits(BitsArgs),
    /// What the gauge of a train costs when its cores are quantized: the same tensor, the same bytes
    #[command(after_help = examples::STUDY_GAUGE)]
    Gauge(GaugeArgs),
}

/// What all studies take.
#[derive(Debug, Args)]
pub(crate) struct StudyArgs {
    /// The ONNX model
    pub(crate) model: PathBuf,
    /// The layer whose weight's name REGEX is found in, the first of them [default: the largest]
    #[arg(long, value_name = "REGEX")]
    pub(crate) layer: Option<Regex>,
    /// Modes of a layer's inputs and of its outputs; repeatable, a layer takes the first that fit it
    /// [default: two to four balanced ones]
    #[arg(long, value_name = "IN:OUT")]
    pub(crate) modes: Vec<Modes>,
    /// Where to draw the plot
    #[arg(long, short, value_name = "SVG")]
    pub(crate) output: Option<PathBuf>,
    /// Overwrite SVG if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QatArgs {
    #[command(flatten)]
    pub(crate) common: StudyArgs,
    /// Samples to train on, without their labels: one array per model input [default: normal noise into the layers]
    #[arg(long, value_name = "NPZ")]
    pub(crate) data: Option<PathBuf>,
    /// Samples to judge on, with `labels` by accuracy too [default: every fifth sample of --data, not trained on]
    #[arg(long, value_name = "NPZ", requires = "data")]
    pub(crate) held_out: Option<PathBuf>,
    /// The most samples to train on
    #[arg(long, value_name = "N", default_value = "5000")]
    pub(crate) samples: NonZeroUsize,
    /// Largest ranks of the trains
    #[arg(
        long,
        value_name = "RANKS",
        value_delimiter = ',',
        default_value = "16,8,4"
    )]
    pub(crate) ranks: Vec<NonZeroUsize>,
    /// Bits of a stored number
    #[arg(long, value_name = "BITS", value_delimiter = ',', value_parser = parse_bits, default_value = "8,4,2")]
    pub(crate) bits: Vec<Bits>,
    /// Gradient steps in float, and as many again of each kind
    #[arg(long, value_name = "N", default_value = "400")]
    pub(crate) steps: NonZeroU64,
    /// Samples per step
    #[arg(long, value_name = "N", default_value = "128")]
    pub(crate) batch: NonZeroUsize,
    /// Peak learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.004)]
    pub(crate) lr: f64,
}

#[derive(Debug, Args)]
pub(crate) struct RanksArgs {
    #[command(flatten)]
    pub(crate) common: StudyArgs,
    /// Largest rank of the train that is quantized
    #[arg(long, value_name = "RANK", default_value = "32")]
    pub(crate) rank: NonZeroUsize,
    /// Bits of a stored number
    #[arg(long, value_name = "BITS", value_delimiter = ',', value_parser = parse_bits, default_value = "8,4,3,2")]
    pub(crate) bits: Vec<Bits>,
    /// Relative errors at which numerical ranks are counted
    #[arg(
        long,
        value_name = "EPS",
        value_delimiter = ',',
        value_parser = parse_tolerance,
        default_value = "0.5,0.2,0.1,0.03,0.01,0.001,0.0001"
    )]
    pub(crate) tolerances: Vec<f64>,
    /// Ranks to reduce to after quantization
    #[arg(
        long,
        value_name = "RANKS",
        value_delimiter = ',',
        default_value = "24,16,8,4"
    )]
    pub(crate) reduced: Vec<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub(crate) struct BitsArgs {
    #[command(flatten)]
    pub(crate) common: StudyArgs,
    /// Largest ranks of the trains
    #[arg(
        long,
        value_name = "RANKS",
        value_delimiter = ',',
        default_value = "8,16,32"
    )]
    pub(crate) ranks: Vec<NonZeroUsize>,
    /// Bits of a stored number
    #[arg(long, value_name = "BITS", value_delimiter = ',', value_parser = parse_bits, default_value = "2,3,4,5,6,7,8")]
    pub(crate) bits: Vec<Bits>,
}

#[derive(Debug, Args)]
pub(crate) struct GaugeArgs {
    #[command(flatten)]
    pub(crate) common: StudyArgs,
    /// Largest ranks of the trains
    #[arg(
        long,
        value_name = "RANKS",
        value_delimiter = ',',
        default_value = "8,32"
    )]
    pub(crate) ranks: Vec<NonZeroUsize>,
    /// Bits of a stored number
    #[arg(long, value_name = "BITS", value_delimiter = ',', value_parser = parse_bits, default_value = "8,4,3")]
    pub(crate) bits: Vec<Bits>,
}

fn parse_tolerance(text: &str) -> Result<f64, String> {
    let value = text.parse().ok();
    value
        .filter(|v| (0.0..1.0).contains(v) && *v > 0.0)
        .ok_or_else(|| format!("expected a relative error above 0 and below 1, found {text:?}"))
}

fn numbers(values: &[NonZeroUsize]) -> Vec<usize> {
    values.iter().map(|v| v.get()).collect()
}

impl StudyCommand {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Qat(_) => "qat",
            Self::Ranks(_) => "ranks",
            Self::Bits(_) => "bits",
            Self::Gauge(_) => "gauge",
        }
    }

    /// What all studies take.
    pub(crate) fn common(&self) -> &StudyArgs {
        match self {
            Self::Qat(args) => &args.common,
            Self::Ranks(args) => &args.common,
            Self::Bits(args) => &args.common,
            Self::Gauge(args) => &args.common,
        }
    }
}

impl StudyArgs {
    /// The modes of an `M x N` weight: the first given ones that fit, else balanced ones where none are given.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] where none of the given ones fit or their numbers differ.
    pub(crate) fn modes(&self, rows: usize, cols: usize) -> Result<MatrixModes, CliError> {
        let usage = |problem: String| CliError::Usage(format!("--modes: {problem}"));
        if self.modes.is_empty() {
            return standard_modes(rows, cols).map_err(|error| usage(error.to_string()));
        }
        let product = |modes: &[usize]| modes.iter().product::<usize>();
        let fits = |m: &&Modes| product(&m.output) == rows && product(&m.input) == cols;
        let fit = self.modes.iter().find(fits).ok_or_else(|| {
            usage(format!(
                "expected modes of {cols} inputs and {rows} outputs, found none among those given"
            ))
        })?;
        MatrixModes::new(Layout::Interleaved, fit.output.clone(), fit.input.clone())
            .map_err(|error| usage(error.to_string()))
    }
}

impl QatArgs {
    /// The library's settings.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] for a rate that is none.
    pub(crate) fn config(&self) -> Result<QatConfig, CliError> {
        if !(self.lr.is_finite() && self.lr > 0.0) {
            let problem = format!("--lr: expected a number above 0, found {}", self.lr);
            return Err(CliError::Usage(problem));
        }
        Ok(QatConfig {
            ranks: numbers(&self.ranks),
            bits: self.bits.clone(),
            steps: self.steps.get(),
            batch: self.batch.get(),
            rate: self.lr,
            seed: self.common.compute.seed,
        })
    }
}

impl RanksArgs {
    /// The library's settings.
    pub(crate) fn config(&self) -> RanksConfig {
        RanksConfig {
            rank: self.rank.get(),
            bits: self.bits.clone(),
            tolerances: self.tolerances.clone(),
            reduced: numbers(&self.reduced),
        }
    }
}

impl BitsArgs {
    /// The library's settings.
    pub(crate) fn config(&self) -> BitsConfig {
        BitsConfig {
            ranks: numbers(&self.ranks),
            bits: self.bits.clone(),
        }
    }
}

impl GaugeArgs {
    /// The library's settings.
    pub(crate) fn config(&self) -> GaugeConfig {
        GaugeConfig {
            ranks: numbers(&self.ranks),
            bits: self.bits.clone(),
            seed: self.common.compute.seed,
        }
    }
}
