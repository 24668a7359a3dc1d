//! `tnq finetune`: end-to-end distillation of a compressed model.

use serde::Serialize;

use super::report::Page;
use super::verification::{Named, Samples, VerificationReport};
use super::{Bytes, print, print_json};
use crate::args::FinetuneArgs;
use crate::error::CliError;
use crate::job::{existing, not_the_input, use_threads};
use crate::model::{read_dataset, read_model};
use crate::output::OutputFile;
use crate::progress::Progress;
use crate::report::command_line;
use crate::table::bytes;
use crate::tuning::{Tuning, TuningReport, tune, unseen};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    command: &'static str,
    version: &'static str,
    command_line: String,
    teacher: String,
    student: String,
    output: String,
    bytes: Bytes,
    finetune: TuningReport,
    verification_before: VerificationReport,
    verification: VerificationReport,
    seed: u64,
}

/// Run the command.
pub(crate) fn run(args: FinetuneArgs) -> Result<(), CliError> {
    let config = args.tuning.config(args.compute.seed)?;
    not_the_input(&args.teacher, &args.output)?;
    let output = OutputFile::new(&args.output, existing(args.force))?;
    let others = [args.teacher.as_path(), &args.student, &args.output];
    let page = Page::new(&args.page, existing(args.force), &others)?;
    use_threads(args.compute.threads)?;
    let progress = Progress::detect(args.talk.quiet);
    let stage = progress.stage("reading", 0);
    let [teacher, student] = [read_model(&args.teacher)?, read_model(&args.student)?];
    let data = read_dataset(&args.data, &teacher)?;
    drop(stage);
    let original = Named {
        model: &teacher,
        path: &args.teacher,
    };
    let stage = progress.stage("verifying the compressed model", 0);
    let samples = Samples::of(unseen(&data, &args.data, &config)?, &args.data);
    let verification_before = samples.verify(
        original,
        Named {
            model: &student,
            path: &args.student,
        },
    )?;
    drop(stage);
    let job = Tuning {
        teacher: &teacher,
        student: &student,
        warm: None,
        data: &data,
        path: &args.data,
        checkpoint: args.tuning.checkpoint.as_deref(),
    };
    let (trained, finetune) = tune(job, &config, progress)?;
    let encoded = trained
        .encode()
        .map_err(|error| CliError::content(output.path(), error))?;
    // Its operators are those that were verified before training: the result is safe before it is measured.
    output.write(|file| std::io::Write::write_all(file, &encoded))?;
    let stage = progress.stage("verifying", 0);
    let verification = samples.verify(
        original,
        Named {
            model: &trained,
            path: output.path(),
        },
    )?;
    drop(stage);
    let report = Report {
        schema: super::SCHEMA,
        command: "finetune",
        version: env!("CARGO_PKG_VERSION"),
        command_line: command_line(),
        teacher: args.teacher.display().to_string(),
        student: args.student.display().to_string(),
        output: args.output.display().to_string(),
        bytes: Bytes {
            before: teacher.encoded_len(),
            after: encoded.len() as u64,
        },
        finetune,
        verification_before,
        verification,
        seed: args.compute.seed,
    };
    page.write(&report)?;
    if args.talk.json {
        print_json(&report)
    } else {
        print(text(&report).as_bytes())
    }
}

fn text(report: &Report) -> String {
    format!(
        "{} -> {}: {}\n{}\nbefore training, {}\n{}\n",
        report.student,
        report.output,
        bytes(report.bytes.after),
        line(&report.finetune),
        report.verification_before,
        report.verification,
    )
}

/// What training came to, in a line, and one for every time that the plan was made again.
pub(crate) fn line(report: &TuningReport) -> String {
    let mut text = format!(
        "trained {} steps on {} in {:.0} s: loss on held-back samples {:.4} -> {:.4}, from step {}",
        report.steps,
        report.data,
        report.seconds,
        report.loss_before,
        report.loss_after,
        report.best_step
    );
    for round in &report.rounds {
        text += &format!(
            "\nplanned again, {} weights changed: loss once trained {:.4} -> {:.4}{}",
            round.changed,
            round.loss_before,
            round.loss_after,
            if round.kept { "" } else { ", not kept" }
        );
    }
    text
}
