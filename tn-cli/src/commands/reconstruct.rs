//! `tnq reconstruct`: the array of a container.

use std::fs;
use std::io;

use serde::Serialize;
use tn_formats::Container;
use tn_formats::npy::write_npy;

use super::{print, print_json};
use crate::args::ReconstructArgs;
use crate::error::CliError;
use crate::job::{existing, not_the_input, use_threads};
use crate::output::OutputFile;
use crate::progress::Progress;
use crate::table::{bytes, shape};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    command: &'static str,
    version: &'static str,
    input: String,
    output: String,
    kind: &'static str,
    data_type: &'static str,
    shape: Vec<usize>,
    bytes: u64,
}

/// Run the command.
pub(crate) fn run(args: &ReconstructArgs) -> Result<(), CliError> {
    not_the_input(&args.input, &args.output)?;
    let output = OutputFile::new(&args.output, existing(args.force))?;
    use_threads(args.threads)?;
    let progress = Progress::detect(args.talk.quiet);
    let stage = progress.stage("reading", 0);
    let file = fs::read(&args.input).map_err(|source| CliError::Read {
        path: args.input.clone(),
        source,
    })?;
    let container =
        Container::read(&file).map_err(|error| CliError::content(&args.input, error))?;
    let kind = container.kind();
    drop(stage);
    let stage = progress.stage("rebuilding", 0);
    let array = container.to_dense();
    output.write(|writer| write_npy(writer, &array).map_err(io::Error::other))?;
    drop(stage);
    let report = Report {
        schema: super::SCHEMA,
        command: "reconstruct",
        version: env!("CARGO_PKG_VERSION"),
        input: args.input.display().to_string(),
        output: args.output.display().to_string(),
        kind,
        data_type: array.dtype(),
        shape: array.shape().to_vec(),
        bytes: file.len() as u64,
    };
    if args.talk.json {
        return print_json(&report);
    }
    let text = format!(
        "{} ({}, {}) -> {}: {} of {}\n",
        report.input,
        report.kind,
        bytes(report.bytes),
        report.output,
        report.data_type,
        shape(&report.shape),
    );
    print(text.as_bytes())
}
