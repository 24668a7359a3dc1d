//! What a plan has to keep, as it is written on the command line, and where its finished jobs are kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use onnx_bridge::RunsOn;
use onnx_bridge::plan::{Goal, Store};

/// The goals of a plan.
#[derive(Debug, Clone, Default, Args)]
#[command(
    next_help_heading = "Goals [default with --calib and no choices, or for an engine: --max-loss 0.5%]"
)]
pub(crate) struct GoalArgs {
    /// The size of the file: `8x` smaller, `25%` of the original, `3MB`, or bytes
    #[arg(long, value_name = "SIZE")]
    pub(crate) target_size: Option<Size>,
    /// The largest relative L2 distance of the outputs on the calibration data: `0.5%` or `0.005`
    #[arg(long, value_name = "LOSS")]
    pub(crate) max_loss: Option<Share>,
    /// The most points of accuracy to lose, on calibration data with labels
    #[arg(long, value_name = "POINTS")]
    pub(crate) max_drop: Option<f64>,
    /// How many times fewer multiply-adds in the rewritten weights: `2x`
    #[arg(long, value_name = "TIMES")]
    pub(crate) target_speed: Option<Times>,
    /// What runs the model: anything, or an engine that keeps matrices of a few bits packed in memory [default: portable]
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub(crate) target: Option<Engine>,
    /// Where finished jobs are kept, so that an interrupted run goes on where it stopped [default: OUT.jobs, removed
    /// at the end]
    #[arg(long, value_name = "DIR")]
    pub(crate) jobs: Option<PathBuf>,
}

impl GoalArgs {
    /// Whether any goal is set.
    pub(crate) fn any(&self) -> bool {
        self.target_size.is_some()
            || self.max_loss.is_some()
            || self.max_drop.is_some()
            || self.target_speed.is_some()
    }

    /// Whether the model is written for one engine, whose own formats a plan chooses among.
    pub(crate) fn names_an_engine(&self) -> bool {
        self.target.is_some_and(|engine| engine != Engine::Portable)
    }

    /// The goals for a model of so many bytes.
    pub(crate) fn goal(&self, original: u64) -> Goal {
        Goal {
            bytes: self.target_size.map(|size| size.bytes(original)),
            loss: self.max_loss.map(|share| share.0),
            drop: self.max_drop.map(|points| points / 100.0),
            speed: self.target_speed.map(|times| times.0),
        }
    }
}

/// What a model is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Standard operators alone: runs everywhere, matrices are unpacked on loading
    Portable,
    /// 4 bits in blocks of 32, or 2 bits, as MatMulNBits
    Tract,
    /// 2, 4 or 8 bits as MatMulNBits; 4 bits as blocks of DequantizeLinear from opset 21 on
    Ort,
}

impl Engine {
    /// The same for the library.
    pub(crate) fn runs_on(self) -> RunsOn {
        match self {
            Self::Portable => RunsOn::Portable,
            Self::Tract => RunsOn::Tract,
            Self::Ort => RunsOn::Ort,
        }
    }
}

/// A size of a file, of its own or against the original.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Size {
    /// So many times smaller.
    Times(f64),
    /// This part of the original.
    Part(f64),
    /// Bytes.
    Bytes(u64),
}

impl Size {
    fn bytes(self, original: u64) -> u64 {
        match self {
            Self::Times(times) => (original as f64 / times) as u64,
            Self::Part(part) => (original as f64 * part) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn positive(text: &str, wanted: &str) -> Result<f64, String> {
    let found = text
        .trim()
        .parse::<f64>()
        .ok()
        .filter(|v| v.is_finite() && *v > 0.0);
    found.ok_or_else(|| format!("expected {wanted}, found '{text}'"))
}

/// Bytes, as a number with a unit or without.
pub(crate) fn size(text: &str, wanted: &str) -> Result<u64, String> {
    let units = [
        ("KiB", 1024.0),
        ("MiB", 1048576.0),
        ("GiB", 1073741824.0),
        ("kB", 1e3),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
    ];
    let unit = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|n| (n, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    positive(number, wanted).map(|n| (n * factor) as u64)
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "a size like 8x, 25%, 3MB or 3000000";
        if let Some(times) = text.strip_suffix('x') {
            return positive(times, wanted).map(Self::Times);
        }
        if let Some(percent) = text.strip_suffix('%') {
            return positive(percent, wanted).map(|p| Self::Part(p / 100.0));
        }
        size(text, wanted).map(Self::Bytes)
    }
}

/// A part of a whole, `0.5%` or `0.005`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "a part like 0.5% or 0.005";
        match text.strip_suffix('%') {
            Some(percent) => positive(percent, wanted).map(|p| Self(p / 100.0)),
            None => positive(text, wanted).map(Self),
        }
    }
}

/// So many times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Times(f64);

impl FromStr for Times {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        positive(text.strip_suffix('x').unwrap_or(text), "a factor like 2x").map(Self)
    }
}

/// Finished jobs as files of a folder.
#[derive(Debug)]
pub(crate) struct FolderStore {
    folder: PathBuf,
    /// Whether the folder goes away with the run that finished.
    passing: Lifetime,
}

/// How long a folder of jobs stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Until the run that uses it is done.
    Run,
    /// The user named it: it stays.
    User,
}

impl FolderStore {
    /// The folder named on the command line, or one beside the output.
    pub(crate) fn new(named: Option<&Path>, output: &Path) -> Self {
        match named {
            Some(folder) => Self {
                folder: folder.to_owned(),
                passing: Lifetime::User,
            },
            None => {
                let mut folder = output.as_os_str().to_owned();
                folder.push(".jobs");
                Self {
                    folder: folder.into(),
                    passing: Lifetime::Run,
                }
            }
        }
    }

    /// Ends a run that came to its end.
    pub(crate) fn finish(&self) {
        if self.passing == Lifetime::Run {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Store for FolderStore {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.join(key)).ok()
    }

    /// A job that cannot be kept is computed again by the next run: no error.
    fn put(&self, key: &str, result: &[u8]) {
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            std::io::Write::write_all(&mut file, result)?;
            file.persist(self.folder.join(key))?;
            Ok(())
        };
        let _ = write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [
            ("8x", 1000),
            ("25%", 2000),
            ("3MB", 3_000_000),
            ("3MiB", 3 << 20),
            ("12", 12),
            ("7kB", 7000),
        ] {
            assert_eq!(
                text.parse::<Size>().map(|s| s.bytes(8000)),
                Ok(bytes),
                "{text}"
            );
        }
        for text in ["", "x", "-3MB", "0", "3 parsecs", "NaN"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!("0.5%".parse::<Share>(), Ok(Share(0.005)));
        assert_eq!("2x".parse::<Times>(), Ok(Times(2.0)));
    }

    #[test]
    fn jobs_are_kept_in_the_folder_and_go_with_the_run() {
        let parent = tempfile::tempdir().unwrap();
        let output = parent.path().join("out.onnx");
        let store = FolderStore::new(None, &output);
        assert_eq!(store.get("abc"), None);
        store.put("abc", b"result");
        assert_eq!(
            FolderStore::new(None, &output).get("abc").as_deref(),
            Some(&b"result"[..])
        );
        store.finish();
        assert_eq!(store.get("abc"), None);
        let named = FolderStore::new(Some(parent.path()), &output);
        named.put("abc", b"kept");
        named.finish();
        assert_eq!(named.get("abc").as_deref(), Some(&b"kept"[..]));
    }
}
