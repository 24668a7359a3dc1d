//! The command line as clap sees it. What it means is decided in [`crate::job`].

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use quant_core::Bits;

use crate::examples;
use crate::goals::GoalArgs;
use crate::limit::Memory;
use crate::rules::LayerRule;
use crate::settings::{
    ArrayFormat, ArrayModes, Format, Granularity, Layout, Modes, Ranks, Scheme, Settings,
    StrategyName, Width, parse_bits,
};

use crate::study::StudyCommand;
use crate::timing::BenchArgs;
use crate::tuning::TuningArgs;

/// Compress ONNX models with quantized tensor networks
#[derive(Debug, Parser)]
#[command(
    name = "tnq",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done; 1 failed, nothing written; 2 wrong usage; 3 written, but the goal is missed"
)]
pub(crate) struct Cli {
    /// End with an error once the command holds more than this, mapped files not counted: `2GB` (Linux)
    #[arg(long, global = true, value_name = "SIZE", help_heading = "Running")]
    pub(crate) memory: Option<Memory>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List every weight: operator, shape, bytes, share of the file; what it can become, or why not
    Inspect(InspectArgs),
    /// Compress a model, write it and verify it against the original
    Compress(Box<CompressArgs>),
    /// Choose what every weight becomes, without writing a model
    Plan(Box<PlanArgs>),
    /// Train a compressed model, quantization in the loop, to do what the original does
    Finetune(Box<FinetuneArgs>),
    /// Compare a compressed model with its original in tract
    Verify(VerifyArgs),
    /// Time a model in tract, and a compressed one beside it, over batch sizes
    Bench(BenchArgs),
    /// Show a result that --json printed as a page: one file of HTML
    Report(ReportArgs),
    /// Run a model in tract on arrays from a file
    Run(RunArgs),
    /// Decompose one array into a quantized tensor train or Tucker network
    Decompose(Box<DecomposeArgs>),
    /// Rebuild the array that `tnq decompose` wrote
    Reconstruct(ReconstructArgs),
    /// Run one of the experiments on a layer or a small network: a table, a plot, a conclusion
    Study {
        /// The experiment
        #[command(subcommand)]
        study: Box<StudyCommand>,
    },
    /// Print completions for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell to complete for
        shell: Shell,
    },
    /// Print the manual page (roff)
    #[command(after_help = examples::MAN)]
    Man,
}

/// How a command talks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Running")]
pub(crate) struct TalkArgs {
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the result and errors only: no progress, no warnings
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Where else a result goes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Running")]
pub(crate) struct PageArgs {
    /// Also write the result as a page: one file of HTML with plots, which loads nothing
    #[arg(long, value_name = "HTML")]
    pub(crate) report: Option<PathBuf>,
}

/// What bounds and repeats a computation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Running")]
pub(crate) struct ComputeArgs {
    /// Seed of everything random; the same seed and threads give the same bytes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Threads to use [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
#[command(after_help = examples::INSPECT)]
pub(crate) struct InspectArgs {
    /// The ONNX model
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::COMPRESS)]
pub(crate) struct CompressArgs {
    /// The ONNX model
    pub(crate) model: PathBuf,
    /// Where to write the compressed model
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Overwrite OUT if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Write the tensors into a file beside OUT; so it is above 2 GiB in any case
    #[arg(long)]
    pub(crate) external_data: bool,
    /// Also write the original with every rewritten weight as the dense matrix that its codes stand for: what OUT
    /// computes, up to rounding
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: Option<PathBuf>,
    /// Samples to calibrate and verify on: an .npz with one array per model input, or an .npy for a model with one input
    #[arg(long, value_name = "NPZ")]
    pub(crate) calib: Option<PathBuf>,
    /// Replay the choices of `tnq plan -o PLAN`, byte for byte; needs the same --calib
    #[arg(long, value_name = "PLAN")]
    pub(crate) plan: Option<PathBuf>,
    /// Train what was compressed, quantization in the loop, to do what the original does on these samples: one array per
    /// model input, and an int64 array `labels` if there are classes
    #[arg(long, value_name = "NPZ")]
    pub(crate) finetune: Option<PathBuf>,
    /// Once trained, plan again up to so many times, with --finetune and --target-size: weights whose errors were trained away give up
    /// bytes to others; every new plan is trained too, and the best one kept [default: 0]
    #[arg(long, value_name = "N", requires_all = ["finetune", "target_size"], conflicts_with = "plan")]
    pub(crate) rounds: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) goals: GoalArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// A rule for the layers whose weight or node name REGEX is found in: `REGEX=keep`, or `REGEX=KEY=VALUE,..` with
    /// the words of the choices above; repeatable, the last match wins
    #[arg(long = "layer", value_name = "REGEX=..", help_heading = "Choices")]
    pub(crate) layers: Vec<LayerRule>,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) page: PageArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// The choices for all layers.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Choices")]
pub(crate) struct SettingsArgs {
    /// What a weight becomes [default: auto]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// How the modes of a train are dealt to its cores [default: interleaved]
    #[arg(long, value_enum)]
    pub(crate) layout: Option<Layout>,
    /// Modes of a train: of a layer's inputs and outputs, of a table's columns and rows; a weight that they do not fit
    /// stays as it is, but for rows of a table, which may be padded [default: two balanced ones for each, three of a table]
    #[arg(long, value_name = "IN:OUT")]
    pub(crate) modes: Option<Modes>,
    /// Ranks: the most at every bond (8), at each (4,8,4), or as many as a relative error needs (eps=0.02)
    /// [default: eps=0.1]
    #[arg(long, value_name = "RANKS")]
    pub(crate) ranks: Option<Ranks>,
    /// Bits of a stored number, 2 to 8 [default: 8]
    #[arg(long, value_name = "BITS", value_parser = parse_bits)]
    pub(crate) bits: Option<Bits>,
    /// Whether integers have a zero point [default: symmetric]
    #[arg(long, value_enum)]
    pub(crate) scheme: Option<Scheme>,
    /// What shares a scale: core, axis or block:32 [default: core]
    #[arg(long, value_name = "WHAT")]
    pub(crate) granularity: Option<Granularity>,
}

impl CompressArgs {
    /// Whether a plan chooses: for a goal, from a plan's file, among an engine's own formats, or because there is data and no
    /// setting says what weights are to become.
    pub(crate) fn is_planned(&self) -> bool {
        let by_hand = self.settings.any() || self.reference.is_some();
        let by_rule = self.layers.iter().any(LayerRule::sets);
        let told = self.goals.any() || self.plan.is_some() || self.goals.names_an_engine();
        told || self.calib.is_some() && !by_hand && !by_rule
    }
}

impl SettingsArgs {
    /// The same as they stand in a rule.
    pub(crate) fn settings(&self) -> Settings {
        let Self {
            format,
            layout,
            modes,
            ranks,
            bits,
            scheme,
            granularity,
        } = self.clone();
        Settings {
            format,
            layout,
            modes,
            ranks,
            bits,
            scheme,
            granularity,
        }
    }

    /// Whether any is given.
    fn any(&self) -> bool {
        self.settings() != Settings::default()
    }
}

#[derive(Debug, Args)]
#[command(after_help = examples::PLAN)]
pub(crate) struct PlanArgs {
    /// The ONNX model
    pub(crate) model: PathBuf,
    /// Where to write the plan, for `tnq compress --plan`
    #[arg(long, short, value_name = "PLAN")]
    pub(crate) output: Option<PathBuf>,
    /// Overwrite PLAN if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Samples to calibrate on: an .npz with one array per model input, or an .npy for a model with one input
    #[arg(long, value_name = "NPZ")]
    pub(crate) calib: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) goals: GoalArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// A rule for some layers, as of `tnq compress`
    #[arg(long = "layer", value_name = "REGEX=..", help_heading = "Choices")]
    pub(crate) layers: Vec<LayerRule>,
    #[command(flatten)]
    pub(crate) page: PageArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::FINETUNE)]
pub(crate) struct FinetuneArgs {
    /// The original ONNX model
    pub(crate) teacher: PathBuf,
    /// The compressed model
    pub(crate) student: PathBuf,
    /// Where to write the trained model
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Overwrite OUT if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Samples to train on: one array per model input, and an int64 array `labels` if there are classes
    #[arg(long, value_name = "NPZ")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) page: PageArgs,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::VERIFY)]
pub(crate) struct VerifyArgs {
    /// The original ONNX model
    pub(crate) model: PathBuf,
    /// The compressed model
    pub(crate) output: PathBuf,
    /// Samples to compare on, by default random ones; with an int64 array `labels`, accuracy too
    #[arg(long, value_name = "NPZ")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum RunEngine {
    /// tract
    #[default]
    Tract,
    /// tract with our operators, which keep the weights of a compressed model packed in memory
    Fused,
    /// The same with activations rounded to 8 bits, row by row
    FusedInt8,
    /// The interpreter that training uses; it lacks some operators and names them
    Interpreter,
}

#[derive(Debug, Args)]
#[command(after_help = examples::REPORT)]
pub(crate) struct ReportArgs {
    /// What `tnq compress`, `plan`, `finetune` or `verify` printed with --json
    pub(crate) result: PathBuf,
    /// Where to write the page
    #[arg(long, short, value_name = "HTML")]
    pub(crate) output: PathBuf,
    /// Overwrite the page if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::RUN)]
pub(crate) struct RunArgs {
    /// The ONNX model
    pub(crate) model: PathBuf,
    /// One array per model input, by its name, first axis the sample; an .npy for a model with one input
    #[arg(long, value_name = "NPZ")]
    pub(crate) input: PathBuf,
    /// Where to write the outputs, one array per model output
    #[arg(long, short, value_name = "NPZ")]
    pub(crate) output: PathBuf,
    /// What runs it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: RunEngine,
    /// Overwrite the output if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads to use [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::DECOMPOSE)]
pub(crate) struct DecomposeArgs {
    /// The array: an .npy, or an .npz with --name where it holds several
    pub(crate) input: PathBuf,
    /// Where to write the cores, a .safetensors file
    #[arg(long, short, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Overwrite OUT if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Which array of an .npz
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// What the inputs of a matrix [M, N] (y = W x) look like: an .npy or .npz of samples [S, N], or of their second moment,
    /// a symmetric [N, N]; errors then count as the inputs see them
    #[arg(long, value_name = "FILE")]
    pub(crate) calib: Option<PathBuf>,
    /// What the array becomes
    #[arg(long, value_enum, default_value = "tt", help_heading = "Choices")]
    pub(crate) format: ArrayFormat,
    /// How the modes of a matrix are dealt to its cores [default: interleaved]
    #[arg(long, value_enum, help_heading = "Choices")]
    pub(crate) layout: Option<Layout>,
    /// Modes of a matrix, of its columns and of its rows (IN:OUT), or sizes to reshape an array to (8x8x16)
    /// [default: two balanced ones for each side of a matrix, the sizes of any other array]
    #[arg(long, value_name = "MODES", help_heading = "Choices")]
    pub(crate) modes: Option<ArrayModes>,
    /// Ranks: the most at every bond (8), at each (4,8,4; of Tucker at each mode), or as many as a relative error needs
    /// (eps=0.02) [default: eps=0.1]
    #[arg(long, value_name = "RANKS", help_heading = "Choices")]
    pub(crate) ranks: Option<Ranks>,
    /// Bits of a stored number, 2 to 8, or float
    #[arg(
        long,
        value_name = "BITS",
        default_value = "8",
        help_heading = "Choices"
    )]
    pub(crate) bits: Width,
    /// Whether integers have a zero point [default: symmetric]
    #[arg(long, value_enum, help_heading = "Choices")]
    pub(crate) scheme: Option<Scheme>,
    /// What shares a scale: the core, an index of its longest axis, or a block along it (core, axis, block:32)
    /// [default: core]
    #[arg(long, value_name = "WHAT", help_heading = "Choices")]
    pub(crate) granularity: Option<Granularity>,
    /// How the cores are quantized; the simple way is kept where it is better [default: compensated]
    #[arg(long, value_enum, help_heading = "Choices")]
    pub(crate) strategy: Option<StrategyName>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

#[derive(Debug, Args)]
#[command(after_help = examples::RECONSTRUCT)]
pub(crate) struct ReconstructArgs {
    /// The cores, a .safetensors file of `tnq decompose`
    pub(crate) input: PathBuf,
    /// Where to write the array
    #[arg(long, short, value_name = "NPY")]
    pub(crate) output: PathBuf,
    /// Overwrite NPY if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads to use [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}
