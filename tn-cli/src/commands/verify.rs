//! `tnq verify`: the original against a compressed model.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::verification::{Latency, Named, Samples, VerificationReport};
use super::{Bytes, print, print_json};
use crate::args::VerifyArgs;
use crate::error::CliError;
use crate::job::use_threads;
use crate::model::read_model;
use crate::progress::Progress;
use crate::report::command_line;
use crate::table::bytes;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    command: &'static str,
    version: &'static str,
    command_line: String,
    input: String,
    output: String,
    bytes: Bytes,
    verification: VerificationReport,
    latency: Latency,
    seed: u64,
}

/// Run the command.
pub(crate) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    use_threads(args.compute.threads)?;
    let progress = Progress::detect(args.talk.quiet);
    let stage = progress.stage("reading", 0);
    let [original, other] = [read_model(&args.model)?, read_model(&args.output)?];
    let original = Named {
        model: &original,
        path: &args.model,
    };
    let other = Named {
        model: &other,
        path: &args.output,
    };
    let samples = Samples::new(original, args.data.as_deref(), args.compute.seed)?;
    drop(stage);
    if args.data.is_none() {
        progress
            .warn("no data (--data): compared on random inputs, which real ones need not resemble");
    }
    let stage = progress.stage("verifying", 0);
    let verification = samples.verify(original, other)?;
    drop(stage);
    let stage = progress.stage("timing", 0);
    let latency = samples.latency(original, other)?;
    drop(stage);
    let size = |path: &Path| match fs::metadata(path) {
        Ok(meta) => Ok(meta.len()),
        Err(source) => Err(CliError::Read {
            path: path.to_owned(),
            source,
        }),
    };
    let report = Report {
        schema: super::SCHEMA,
        command: "verify",
        version: env!("CARGO_PKG_VERSION"),
        command_line: command_line(),
        input: args.model.display().to_string(),
        output: args.output.display().to_string(),
        bytes: Bytes {
            before: size(&args.model)?,
            after: size(&args.output)?,
        },
        verification,
        latency,
        seed: args.compute.seed,
    };
    if args.talk.json {
        print_json(&report)
    } else {
        print(text(&report).as_bytes())
    }
}

fn text(report: &Report) -> String {
    let Bytes { before, after } = report.bytes;
    format!(
        "{} -> {}: {} -> {}, {:.1} times smaller\n{}\n{}\n",
        report.input,
        report.output,
        bytes(before),
        bytes(after),
        before as f64 / after as f64,
        report.verification,
        report.latency,
    )
}
