//! `tnq report`, and `--report` of the commands that have a result to show: the page of what `--json` prints.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use onnx_bridge::{Became, Diagnosis, ErrorHistogram, Model, Spectrum, diagnose};
use serde::Serialize;
use serde_json::Value;

use crate::args::{PageArgs, ReportArgs, TalkArgs};
use crate::error::CliError;
use crate::job::{existing, not_the_input};
use crate::output::{Existing, OutputFile};
use crate::report::render;

/// The most bytes of a result that is read: far more than one of ten thousand weights has.
const MOST_BYTES: u64 = 256 << 20;

/// Run the command.
pub(crate) fn run(args: &ReportArgs) -> Result<(), CliError> {
    not_the_input(&args.result, &args.output)?;
    let output = OutputFile::new(&args.output, existing(args.force))?;
    let read = |source| CliError::Read {
        path: args.result.clone(),
        source,
    };
    let size = fs::metadata(&args.result).map_err(read)?.len();
    if size > MOST_BYTES {
        let problem = format!("expected a result of at most {MOST_BYTES} bytes, found {size}");
        return Err(CliError::content(&args.result, problem));
    }
    let text = fs::read(&args.result).map_err(read)?;
    let wrong = |problem: String| CliError::content(&args.result, problem);
    let result: Value = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    let page = render(&result).map_err(wrong)?;
    output.write(|file| file.write_all(page.as_bytes()))
}

/// The page that `--report` asks for, beside another output.
#[derive(Debug)]
pub(crate) struct Page(Option<OutputFile>);

impl Page {
    /// Check that it can be written, before any work.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] where it would take the place of `others`; those of [`OutputFile::new`].
    pub(crate) fn new(
        args: &PageArgs,
        existing: Existing,
        others: &[&Path],
    ) -> Result<Self, CliError> {
        let Some(path) = &args.report else {
            return Ok(Self(None));
        };
        for other in others {
            if path == other {
                return Err(CliError::Usage(format!(
                    "--report: expected another file than {}",
                    other.display()
                )));
            }
            not_the_input(other, path)?;
        }
        OutputFile::new(path, existing).map(|file| Self(Some(file)))
    }

    /// Whether there will be one.
    pub(crate) fn wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Write the page of a result, if one is wanted.
    ///
    /// # Errors
    ///
    /// Those of [`OutputFile::write`].
    pub(crate) fn write(&self, result: &impl Serialize) -> Result<(), CliError> {
        let Some(file) = &self.0 else { return Ok(()) };
        let wrong = |problem: String| CliError::content(file.path(), problem);
        // By way of the text that `--json` prints: `tnq report` then makes the same page from it, to the last digit.
        let text = serde_json::to_vec(result).map_err(|e| wrong(e.to_string()))?;
        let result: Value = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        let page = render(&result).map_err(wrong)?;
        file.write(|file| file.write_all(page.as_bytes()))
    }
}

/// What can be seen of one weight, beside the report's own words on it.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Seen {
    #[serde(skip_serializing_if = "Option::is_none")]
    error_histogram: Option<ErrorHistogram>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spectrum: Option<Spectrum>,
}

/// What can be seen of the weights of a model, by their names.
#[derive(Debug, Default)]
pub(crate) struct Sight(BTreeMap<String, Seen>);

impl Sight {
    /// Look at the weights if the result is shown with its numbers: as JSON or as a page.
    pub(crate) fn of<'a>(
        model: &Model,
        talk: &TalkArgs,
        page: &Page,
        became: &dyn Fn(&str) -> Option<Became<'a>>,
    ) -> Self {
        if talk.json || page.wanted() {
            let seen = |d: Diagnosis| {
                let seen = Seen {
                    error_histogram: d.errors,
                    spectrum: d.spectrum,
                };
                (d.name, seen)
            };
            Self(diagnose(model, became).into_iter().map(seen).collect())
        } else {
            Self::default()
        }
    }

    /// What was seen of one weight.
    pub(crate) fn weight(&self, name: &str) -> Seen {
        self.0.get(name).cloned().unwrap_or_default()
    }
}
