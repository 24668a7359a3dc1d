//! `tnq compress`: read, rewrite, write, verify.

use std::time::Instant;

use onnx_bridge::{Became, Job, Model, Outcome, RewriteEntry, RewriteReport, Rewritten};
use quant_core::Bits;
use serde::Serialize;

use super::finetune::line;
use super::report::{Page, Seen, Sight};
use super::verification::{Latency, Named, Samples, VerificationReport};
use super::{Bytes, print, print_json};
use crate::args::CompressArgs;
use crate::encoded::Encoded;
use crate::error::CliError;
use crate::job::{Choices, CompressJob, existing, use_threads};
use crate::model::{read_dataset, read_model};
use crate::progress::Progress;
use crate::report::command_line;
use crate::table::{bytes, figure, shape, table};
use crate::tuning::{TuningReport, unseen};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: u32,
    command: &'static str,
    version: &'static str,
    command_line: String,
    input: String,
    output: String,
    seed: u64,
    bytes: Bytes,
    weights: Vec<Weight<'a>>,
    skipped: Vec<Skipped<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finetune: Option<TuningReport>,
    /// Null where the original does not run in tract; `unverified` says why.
    verification: Option<VerificationReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unverified: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
    seconds: Seconds,
}

/// A weight that became something else.
#[derive(Debug, Serialize)]
struct Weight<'a> {
    name: &'a str,
    nodes: &'a [String],
    op: String,
    shape: &'a [usize],
    format: &'static str,
    layout: Option<&'static str>,
    modes: Modes<'a>,
    ranks: &'a [usize],
    bits: u8,
    parameters: usize,
    bytes_before: u64,
    bytes_after: u64,
    error: f64,
    #[serde(flatten)]
    seen: Seen,
}

#[derive(Debug, Serialize)]
struct Modes<'a> {
    input: &'a [usize],
    output: &'a [usize],
}

/// A weight that stays.
#[derive(Debug, Serialize)]
struct Skipped<'a> {
    name: &'a str,
    nodes: &'a [String],
    op: String,
    shape: &'a [usize],
    bytes: u64,
    reason: String,
}

/// What every stage took.
#[derive(Debug, Serialize)]
struct Seconds {
    read: f64,
    compress: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    finetune: Option<f64>,
    write: f64,
    verify: f64,
    total: f64,
}

/// Run the command.
pub(crate) fn run(args: CompressArgs) -> Result<(), CliError> {
    let start = Instant::now();
    let (talk, threads) = (args.talk.clone(), args.compute.threads);
    let others = [args.model.as_path(), args.output.as_path()];
    let page = Page::new(&args.page, existing(args.force), &others)?;
    let job = CompressJob::new(args)?;
    use_threads(threads)?;
    let progress = Progress::detect(talk.quiet);

    let stage = progress.stage("reading", 0);
    let model = read_model(&job.model)?;
    let original = Named {
        model: &model,
        path: &job.model,
    };
    let tuning = match &job.tuning {
        Some(tuning) => Some((tuning, tuning.read(&model, &job.model)?)),
        None => None,
    };
    let samples = match (&tuning, &job.calib) {
        (Some((tuning, data)), None) => Ok(Samples::of(
            unseen(data, &tuning.data, &tuning.config)?,
            &tuning.data,
        )),
        (None, None) => Samples::new(original, None, job.seed).map_err(|error| error.to_string()),
        (_, calib) => Ok(Samples::new(original, calib.as_deref(), job.seed)?),
    };
    if job.calib.is_none() && tuning.is_none() {
        progress.warn(
            "no calibration data (--calib): the choices rest on the weights alone, and the verification on random inputs",
        );
    }
    let read = stage.finish();

    let (todo, finer) = asked(&model, &job, progress)?;
    let (mut compressed, rewrite, compress) = rewrite(&model, &job, &todo, progress)?;
    let mut tuned = None;
    if let Some(((tuning, data), finer)) = tuning.as_ref().zip(finer) {
        let stage = progress.stage("finer codes to start from", 0);
        let (warm, _) = onnx_bridge::compress_with(&model, &finer, &|_| ())
            .map_err(|error| not_rewritten(&job, &error))?;
        drop(stage);
        let pair = [&model, &compressed];
        let (trained, report) = tuning.train(pair, Some(&warm), data, 0, progress)?;
        compressed = trained;
        tuned = Some(report);
    }
    let stage = progress.stage("encoding", 0);
    let encoded = Encoded::new(&compressed, job.output.path(), job.storage)?;
    let encode = stage.finish();

    let stage = progress.stage("verifying", 0);
    let rewritten = Named {
        model: &compressed,
        path: job.output.path(),
    };
    let verification = match &samples {
        Ok(samples) => verify(samples, original, rewritten)?,
        Err(problem) => Err(problem.clone()),
    };
    let verify = stage.finish();

    let stage = progress.stage("writing", 0);
    if let Some(file) = &job.reference {
        let reference = onnx_bridge::dense_reference(&model, &rewrite)
            .map_err(|error| CliError::content(file.path(), error))?;
        Encoded::new(&reference, file.path(), job.storage)?.write(file)?;
    }
    encoded.write(&job.output)?;
    let write = encode + stage.finish();
    if let Err(problem) = &verification {
        progress.warn(&format!(
            "{} is NOT VERIFIED, since tract does not run the original: {problem}",
            job.output.path().display()
        ));
    }
    let (verification, unverified) = match verification {
        Ok(report) => (Some(report), None),
        Err(problem) => (None, Some(problem)),
    };

    let became = |name: &str| {
        let mut rewritten = rewrite.rewritten();
        let found = rewritten.find(|(weight, _)| *weight == name);
        found.map(|(_, rewritten)| -> Became<'_> {
            Box::new(move || Some(rewritten.network.to_dense()))
        })
    };
    let sight = Sight::of(&model, &talk, &page, &became);
    let latency = if let (true, Ok(samples), Some(_)) = (page.wanted(), &samples, &verification) {
        let stage = progress.stage("timing", 0);
        let other = Named {
            model: &compressed,
            path: job.output.path(),
        };
        let latency = samples.latency(original, other)?;
        drop(stage);
        Some(latency)
    } else {
        None
    };
    let report = Report {
        schema: super::SCHEMA,
        command: "compress",
        version: env!("CARGO_PKG_VERSION"),
        command_line: command_line(),
        input: job.model.display().to_string(),
        output: job.output.path().display().to_string(),
        seed: job.seed,
        bytes: Bytes {
            before: rewrite.bytes_before,
            after: encoded.len(),
        },
        weights: rewrite
            .weights
            .iter()
            .filter_map(|entry| weight(entry, &sight))
            .collect(),
        skipped: rewrite.weights.iter().filter_map(skipped).collect(),
        verification,
        unverified,
        latency,
        seconds: Seconds {
            read,
            compress,
            finetune: tuned.as_ref().map(|t| t.seconds),
            write,
            verify,
            total: start.elapsed().as_secs_f64(),
        },
        finetune: tuned,
    };
    page.write(&report)?;
    if talk.json {
        print_json(&report)
    } else {
        print(text(&report).as_bytes())
    }
}

/// Both models on the samples; where tract does not run the original either, what it says about that.
fn verify(
    samples: &Samples,
    original: Named<'_>,
    rewritten: Named<'_>,
) -> Result<Result<VerificationReport, String>, CliError> {
    let error = match samples.verify(original, rewritten) {
        Ok(report) => return Ok(Ok(report)),
        Err(error) => error,
    };
    match samples.run_on(original.model) {
        Err(problem @ onnx_bridge::Error::Engine { .. }) => Ok(Err(problem.to_string())),
        _ => Err(error),
    }
}

/// The job, fitted to the data where there is some: factors, and how much the rows of tables count. Where its result is to be
/// trained, beside it the same with 8 bits for every number: what the training starts from, fewer bits having lost it. A
/// warning where tract does not run the model on the data.
fn asked(
    model: &Model,
    job: &CompressJob,
    progress: Progress,
) -> Result<(Job, Option<Job>), CliError> {
    let mut todo = ask(model, &job.choices, progress);
    let finer =
        |todo: &Job| Some(todo.clone().with_bits(Bits::B8)).filter(|_| job.tuning.is_some());
    let Some(calib) = &job.calib else {
        let finer = finer(&todo);
        return Ok((todo, finer));
    };
    let data = read_dataset(calib, model)?;
    let mut untold = None;
    match onnx_bridge::calibrate::row_importance(model, &data) {
        Ok(counted) => {
            for (table, rows) in counted {
                todo = todo.with_importance(table, rows);
            }
        }
        Err(error @ onnx_bridge::Error::Engine { .. }) => untold = Some(error),
        Err(error) => return Err(CliError::content(&job.model, error)),
    }
    let mut finer = finer(&todo);
    let mut both: Vec<&mut Job> = std::iter::once(&mut todo).chain(&mut finer).collect();
    let stage = progress.stage("calibrating", 0);
    let fitted = onnx_bridge::fit_jobs(model, &mut both, &data, &|_, _, _| stage.step());
    drop(stage);
    match fitted {
        Ok(()) => {}
        Err(error @ onnx_bridge::Error::Engine { .. }) => untold = Some(error),
        Err(error) => return Err(CliError::content(calib, error)),
    }
    if let Some(error) = untold {
        progress.warn(&format!(
            "{} is NOT USED for the choices, which rest on the weights alone, since tract does not run the model: {error}",
            calib.display()
        ));
    }
    Ok((todo, finer))
}

fn rewrite(
    model: &Model,
    job: &CompressJob,
    todo: &Job,
    progress: Progress,
) -> Result<(Model, RewriteReport, f64), CliError> {
    let total = onnx_bridge::inspect(model).weights.len() as u64;
    let stage = progress.stage("compressing", total);
    let done = |_: &str| stage.step();
    let (compressed, report) = onnx_bridge::compress_with(model, todo, &done)
        .map_err(|error| not_rewritten(job, &error))?;
    Ok((compressed, report, stage.finish()))
}

fn not_rewritten(job: &CompressJob, error: &onnx_bridge::Error) -> CliError {
    CliError::content(&job.model, format!("cannot be rewritten: {error}"))
}

/// The job for the weights of this model. A rule that matches none of them is worth a warning.
fn ask(model: &Model, choices: &Choices, progress: Progress) -> Job {
    let inspection = onnx_bridge::inspect(model);
    let names: Vec<Vec<&str>> = inspection
        .weights
        .iter()
        .map(|weight| {
            std::iter::once(&weight.name)
                .chain(&weight.nodes)
                .map(String::as_str)
                .collect()
        })
        .collect();
    for idle in choices.idle_rules(&names) {
        progress.warn(&idle);
    }
    inspection
        .weights
        .iter()
        .zip(&names)
        .fold(Job::new(choices.spec(&[])), |job, (weight, names)| {
            job.with_weight(&weight.name, choices.spec(names))
        })
}

fn weight<'a>(entry: &'a RewriteEntry, sight: &Sight) -> Option<Weight<'a>> {
    let Outcome::Rewritten(rewritten) = &entry.outcome else {
        return None;
    };
    let Rewritten {
        format,
        layout,
        row_modes,
        col_modes,
        ranks,
        bits,
        parameters,
        bytes,
        error,
        ..
    } = &**rewritten;
    Some(Weight {
        name: &entry.weight.name,
        nodes: &entry.weight.nodes,
        op: entry.weight.ops.join(", "),
        shape: &entry.weight.shape,
        format: format.name(),
        layout: *layout,
        modes: Modes {
            input: col_modes,
            output: row_modes,
        },
        ranks,
        bits: *bits,
        parameters: *parameters,
        bytes_before: entry.weight.bytes,
        bytes_after: *bytes,
        error: *error,
        seen: sight.weight(&entry.weight.name),
    })
}

fn skipped(entry: &RewriteEntry) -> Option<Skipped<'_>> {
    let Outcome::Skipped(reason) = &entry.outcome else {
        return None;
    };
    Some(Skipped {
        name: &entry.weight.name,
        nodes: &entry.weight.nodes,
        op: entry.weight.ops.join(", "),
        shape: &entry.weight.shape,
        bytes: entry.weight.bytes,
        reason: reason.to_string(),
    })
}

fn text(report: &Report<'_>) -> String {
    let mut rows: Vec<Vec<String>> = report.weights.iter().map(row).collect();
    rows.extend(report.skipped.iter().map(|weight| {
        let kept = bytes(weight.bytes);
        let blank = String::new;
        vec![
            weight.name.to_owned(),
            shape(weight.shape),
            "stays".to_owned(),
            blank(),
            blank(),
            blank(),
            kept.clone(),
            kept,
            weight.reason.clone(),
        ]
    }));
    let header = [
        "weight", "shape", "becomes", "modes", "ranks", "bits", "before", "after", "error",
    ];
    let Bytes { before, after } = report.bytes;
    let Seconds {
        read,
        compress,
        finetune,
        write,
        verify,
        total,
        ..
    } = report.seconds;
    let finetune = finetune.map_or_else(String::new, |s| format!(", finetune {s:.1}"));
    let verdict = match (&report.verification, &report.unverified) {
        (Some(verification), _) => verification.to_string(),
        (None, problem) => format!(
            "NOT VERIFIED: tract does not run the original: {}",
            problem.as_deref().unwrap_or_default()
        ),
    };
    let trained = report.finetune.as_ref();
    let trained = trained.map_or_else(String::new, |t| format!("{}\n", line(t)));
    format!(
        "{}\n{} -> {}: {} -> {}, {:.1} times smaller\n{trained}{}\ntook {total:.1} s: read {read:.1}, compress \
         {compress:.1}{finetune}, write {write:.1}, verify {verify:.1}\n",
        table(&header, &["bits", "before", "after"], rows),
        report.input,
        report.output,
        bytes(before),
        bytes(after),
        before as f64 / after as f64,
        verdict,
    )
}

fn row(weight: &Weight<'_>) -> Vec<String> {
    let format = match (weight.format, weight.layout) {
        ("tt", Some(layout)) => format!("tt, {layout}"),
        (format, _) => format.to_owned(),
    };
    let modes = crate::settings::Modes {
        input: weight.modes.input.to_vec(),
        output: weight.modes.output.to_vec(),
    };
    let modes = if weight.format == "tt" {
        modes.to_string()
    } else {
        String::new()
    };
    vec![
        weight.name.to_owned(),
        shape(weight.shape),
        format,
        modes,
        crate::settings::join(weight.ranks, ","),
        weight.bits.to_string(),
        bytes(weight.bytes_before),
        bytes(weight.bytes_after),
        figure(weight.error),
    ]
}
