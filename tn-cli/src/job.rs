//! Arguments, checked against each other and the file system, before any work starts.

use std::fs;
use std::path::{Path, PathBuf};

use onnx_bridge::{CoreGranularity, FormatRule, MappingChoice, Quantization, Spec};
use tn_formats::Truncation;

use crate::args::{CompressArgs, SettingsArgs};
use crate::encoded::Storage;
use crate::error::CliError;
use crate::output::{Existing, OutputFile};
use crate::rules::{Action, LayerRule, idle_rules};
use crate::settings::{Format, Granularity, Layout, Ranks, Scheme, Settings};
use crate::tuning::TuningJob;

/// All that `tnq compress` needs to know.
#[derive(Debug)]
pub(crate) struct CompressJob {
    pub(crate) model: PathBuf,
    pub(crate) output: OutputFile,
    pub(crate) reference: Option<OutputFile>,
    pub(crate) storage: Storage,
    pub(crate) calib: Option<PathBuf>,
    pub(crate) choices: Choices,
    pub(crate) tuning: Option<TuningJob>,
    pub(crate) seed: u64,
}

impl CompressJob {
    /// Check what can be checked before the model is read.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] for choices that exclude each other, those of [`OutputFile::new`] for the output.
    pub(crate) fn new(args: CompressArgs) -> Result<Self, CliError> {
        if args.reference.is_some() && args.finetune.is_some() {
            return Err(CliError::Usage(
                "--reference: expected no --finetune, which changes the codes that the reference stands for".to_owned(),
            ));
        }
        let choices = Choices::new(&args.settings, args.layers)?;
        let tuning = TuningJob::new(args.finetune.as_deref(), &args.tuning, args.compute.seed)?;
        not_the_input(&args.model, &args.output)?;
        let output = OutputFile::new(&args.output, existing(args.force))?;
        let reference = match &args.reference {
            Some(path) if *path == args.output => {
                return Err(CliError::Usage(
                    "--reference: expected another file than the output".to_owned(),
                ));
            }
            Some(path) => {
                not_the_input(&args.model, path)?;
                Some(OutputFile::new(path, existing(args.force))?)
            }
            None => None,
        };
        Ok(Self {
            model: args.model,
            output,
            reference,
            storage: Storage::asked(args.external_data),
            calib: args.calib,
            choices,
            tuning,
            seed: args.compute.seed,
        })
    }
}

/// What `--force` means for a file in the way.
pub(crate) fn existing(force: bool) -> Existing {
    if force {
        Existing::Replace
    } else {
        Existing::Keep
    }
}

/// Refuse to overwrite what is being read, `--force` or not.
pub(crate) fn not_the_input(input: &Path, output: &Path) -> Result<(), CliError> {
    match (fs::canonicalize(input), fs::canonicalize(output)) {
        (Ok(a), Ok(b)) if a == b => Err(CliError::Usage(format!(
            "the output {} is the input itself; give another name",
            output.display()
        ))),
        _ => Ok(()),
    }
}

/// More threads than this help nobody, and starting them takes minutes.
const MOST_THREADS: usize = 1024;

/// Refuse a number of threads that nobody wants.
///
/// # Errors
///
/// [`CliError::Usage`] for more than [`MOST_THREADS`].
pub(crate) fn check_threads(threads: std::num::NonZeroUsize) -> Result<usize, CliError> {
    let threads = threads.get();
    if threads > MOST_THREADS {
        return Err(CliError::Usage(format!(
            "--threads: expected at most {MOST_THREADS}, found {threads}"
        )));
    }
    Ok(threads)
}

/// Start the thread pool that all crates share.
///
/// # Errors
///
/// Those of [`check_threads`], [`CliError::Threads`] where the system refuses them.
pub(crate) fn use_threads(threads: Option<std::num::NonZeroUsize>) -> Result<(), CliError> {
    let Some(threads) = threads.map(check_threads).transpose()? else {
        return Ok(());
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    pool.map_err(|error| CliError::Threads {
        threads,
        problem: error.to_string(),
    })
}

/// The settings of all layers and the rules for some.
#[derive(Debug)]
pub(crate) struct Choices {
    base: Settings,
    rules: Vec<LayerRule>,
}

impl Choices {
    fn new(args: &SettingsArgs, rules: Vec<LayerRule>) -> Result<Self, CliError> {
        let base = args.settings();
        let of_rules = || {
            rules.iter().filter_map(|rule| match rule.action() {
                Action::Set(settings) => Some((rule, settings)),
                Action::Keep => None,
            })
        };
        let formats = of_rules().map(|(_, settings)| settings.format);
        if formats
            .chain([base.format])
            .any(|f| f == Some(Format::Corrected))
        {
            return Err(CliError::Usage(
                "the format corrected is chosen by data: it needs a goal, such as --target-size"
                    .to_owned(),
            ));
        }
        // Modes for all layers are of use as long as any layer may become a train.
        let any_train = of_rules().any(|(_, settings)| settings.format == Some(Format::Tt));
        if base.modes.is_some() && base.format != Some(Format::Tt) && !any_train {
            return Err(CliError::Usage(
                "--modes: modes need the format tt".to_owned(),
            ));
        }
        for (rule, settings) in of_rules() {
            if settings.modes.is_some() && settings.format.or(base.format) != Some(Format::Tt) {
                return Err(CliError::Usage(format!(
                    "--layer '{}': modes need the format tt",
                    rule.pattern()
                )));
            }
        }
        Ok(Self { base, rules })
    }

    /// What is asked for the weight of these names, its own and those of its nodes; the last rule that matches wins.
    pub(crate) fn spec(&self, names: &[&str]) -> Spec {
        let last = self
            .rules
            .iter()
            .rev()
            .find_map(|rule| rule.action_for(names));
        match last {
            Some(Action::Keep) => Spec::keep(),
            Some(Action::Set(over)) => spec(self.base.clone().overlaid(over)),
            None => spec(self.base.clone()),
        }
    }

    /// What to say of the rules that match none of the layers, each given by its names.
    pub(crate) fn idle_rules(&self, layers: &[Vec<&str>]) -> Vec<String> {
        idle_rules(&self.rules, layers)
    }
}

/// Settings in the words of the library; what is `None` stays its default.
fn spec(settings: Settings) -> Spec {
    let format = settings.format.unwrap_or(Format::Auto);
    let default = Quantization::default();
    let quantization = Quantization {
        bits: settings.bits.unwrap_or(default.bits),
        mapping: settings
            .scheme
            .map_or(default.mapping, |scheme| match scheme {
                Scheme::Symmetric => MappingChoice::Symmetric,
                Scheme::Affine => MappingChoice::Affine,
            }),
        granularity: settings
            .granularity
            .map_or(default.granularity, |granularity| match granularity {
                Granularity::Core => CoreGranularity::Core,
                Granularity::Axis => CoreGranularity::Axis,
                Granularity::Block(size) => CoreGranularity::Block(size),
            }),
    };
    Spec {
        format: match format {
            Format::Auto | Format::Corrected => FormatRule::Auto,
            Format::Tt => FormatRule::Use(onnx_bridge::Format::Tt),
            Format::LowRank => FormatRule::Use(onnx_bridge::Format::LowRank),
            Format::Tucker => FormatRule::Use(onnx_bridge::Format::Tucker),
            Format::Dense => FormatRule::Use(onnx_bridge::Format::Dense),
        },
        layout: settings.layout.map(|layout| match layout {
            Layout::Interleaved => tn_formats::Layout::Interleaved,
            Layout::Split => tn_formats::Layout::Split,
        }),
        modes: settings
            .modes
            .filter(|_| format == Format::Tt)
            .map(|modes| (modes.output, modes.input)),
        truncation: settings.ranks.map(|ranks| match ranks {
            Ranks::Max(rank) => Truncation::MaxRank(rank),
            Ranks::Each(ranks) => Truncation::Ranks(ranks),
            Ranks::Eps(eps) => Truncation::RelativeError(eps),
        }),
        quantization,
        ..Spec::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use quant_core::Bits;

    use super::*;
    use crate::args::{Cli, Command};

    fn choices(line: &[&str]) -> Result<Choices, CliError> {
        let line = ["tnq", "compress", "in.onnx", "-o", "out.onnx"]
            .iter()
            .chain(line);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Compress(args) => Choices::new(&args.settings, args.layers),
            other => panic!("expected compress, found {other:?}"),
        }
    }

    #[test]
    fn without_settings_the_library_decides() {
        assert_eq!(choices(&[]).unwrap().spec(&["w"]), Spec::default());
    }

    #[test]
    fn every_setting_reaches_the_library() {
        let line = "--format tt --layout split --modes 4x7:2x5 --ranks 4,8,4 --bits 3 --scheme affine --granularity block:32";
        let want = Spec {
            format: FormatRule::Use(onnx_bridge::Format::Tt),
            layout: Some(tn_formats::Layout::Split),
            modes: Some((vec![2, 5], vec![4, 7])),
            order: None,
            truncation: Some(Truncation::Ranks(vec![4, 8, 4])),
            quantization: Quantization {
                bits: Bits::B3,
                mapping: MappingChoice::Affine,
                granularity: CoreGranularity::Block(32.try_into().unwrap()),
            },
        };
        let choices = choices(&line.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!(choices.spec(&["w"]), want);
    }

    #[test]
    fn the_last_matching_rule_wins_over_the_base() {
        let line = [
            "--bits",
            "6",
            "--layer",
            "fc=bits=4",
            "--layer",
            "fc2=keep",
            "--layer",
            "fc3=ranks=2",
        ];
        let choices = choices(&line).unwrap();
        let check = |name: &str, bits: Bits, truncation: Option<Truncation>| {
            let spec = choices.spec(&[name]);
            assert_eq!(
                (spec.quantization.bits, spec.truncation),
                (bits, truncation),
                "{name}"
            );
        };
        check("other", Bits::B6, None);
        check("fc1", Bits::B4, None);
        check("fc3", Bits::B6, Some(Truncation::MaxRank(2)));
        assert_eq!(choices.spec(&["fc2"]), Spec::keep());
        assert_eq!(
            choices.idle_rules(&[vec!["fc1"], vec!["a", "fc3"]]),
            [
                "--layer 'fc2' matches no weight or node; the nearest names are fc1, fc3 (see tnq inspect)"
            ]
        );
    }

    #[test]
    fn modes_without_a_train_are_wrong_usage() {
        let check = |line: &[&str], want: &str| {
            let error = choices(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(want), "{error}");
        };
        check(&["--modes", "4x4:4x4"], "--modes: modes need the format tt");
        check(
            &["--format", "dense", "--modes", "4x4:4x4"],
            "--modes: modes need the format tt",
        );
        check(
            &["--layer", "fc=modes=4x4:4x4"],
            "--layer 'fc': modes need the format tt",
        );
        choices(&["--modes", "4x4:4x4", "--layer", "fc=format=tt"]).unwrap();
        choices(&["--format", "tt", "--layer", "fc=modes=4x4:4x4"]).unwrap();
    }

    #[test]
    fn the_input_is_never_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.onnx");
        fs::write(&path, "x").unwrap();
        let same = folder.path().join(".").join("a.onnx");
        assert_eq!(not_the_input(&path, &same).unwrap_err().exit_code(), 2);
        not_the_input(&path, &folder.path().join("b.onnx")).unwrap();
    }
}
