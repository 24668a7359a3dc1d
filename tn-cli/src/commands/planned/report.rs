//! What `tnq plan` and a planned `tnq compress` report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use onnx_bridge::plan::{Candidate, Ended as Search, Planned, Solved, Tradeoff};
use onnx_bridge::{Became, Model};
use serde::Serialize;

use super::super::finetune::line;
use super::super::report::{Seen, Sight};
use super::super::verification::{Latency, Named, Samples, VerificationReport};
use super::super::{Bytes, Ended, SCHEMA, print, print_json};
use super::Ask;
use crate::error::CliError;
use crate::report::{command_line, describe};
use crate::table::{bytes, figure, shape, table};
use crate::tuning::TuningReport;

#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: u32,
    command: &'static str,
    version: &'static str,
    command_line: String,
    input: String,
    output: Option<String>,
    seed: u64,
    bytes: Bytes,
    goal: Reached<'a>,
    tradeoff: Option<&'a Tradeoff>,
    weights: Vec<Weight<'a>>,
    skipped: Vec<Skipped<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finetune: Option<TuningReport>,
    verification: VerificationReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
    seconds: Seconds,
}

#[derive(Debug, Serialize)]
struct Reached<'a> {
    #[serde(flatten)]
    asked: onnx_bridge::plan::Goal,
    predicted_loss: f64,
    verified_loss: f64,
    met: bool,
    blocking: Option<&'a [String]>,
}

#[derive(Debug, Serialize)]
struct Weight<'a> {
    name: &'a str,
    nodes: &'a [String],
    op: &'a str,
    shape: [usize; 2],
    format: &'static str,
    modes: Modes,
    ranks: Vec<usize>,
    bits: u8,
    choice: Candidate,
    bytes_before: u64,
    bytes_after: u64,
    predicted_loss: f64,
    error: f64,
    /// `||W x - V y|| / ||W y||` on the calibration data.
    output_error: f64,
    /// The same of dense blocks of no more bytes, where the weight became something else.
    dense_output_error: Option<f64>,
    #[serde(flatten)]
    seen: Seen,
}

#[derive(Debug, Serialize)]
struct Modes {
    input: Vec<usize>,
    output: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct Skipped<'a> {
    name: &'a str,
    nodes: &'a [String],
    reason: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Seconds {
    pub(super) plan: f64,
    pub(super) total: f64,
}

#[allow(clippy::too_many_arguments, reason = "what a report tells, each once")]
pub(super) fn tell(
    command: &'static str,
    model: &Model,
    ask: &Ask<'_>,
    planned: &Planned,
    finetune: Option<TuningReport>,
    output: Option<PathBuf>,
    seed: u64,
    seconds: Seconds,
) -> Result<Ended, CliError> {
    let names = planned.plan.weights.iter().map(|w| w.name.as_str());
    let solved: BTreeMap<&str, &Solved> = names.zip(&planned.solved).collect();
    let became = |name: &str| {
        let solved = *solved.get(name)?;
        let matrix: Became<'_> = Box::new(move || solved.form.matrix());
        Some(matrix)
    };
    let sight = Sight::of(model, ask.talk, ask.page, &became);
    let latency = if ask.page.wanted() {
        let [original, other] = [(model, ask.model), (&planned.model, ask.beside)]
            .map(|(model, path)| Named { model, path });
        Some(Samples::new(original, ask.calib, seed)?.latency(original, other)?)
    } else {
        None
    };
    let nodes = |name: &str| ask.nodes.get(name).map_or(&[][..], Vec::as_slice);
    let weights = planned
        .plan
        .weights
        .iter()
        .zip(planned.errors.iter().zip(&planned.solved))
        .map(|(w, (error, solved))| Weight {
            name: &w.name,
            nodes: nodes(&w.name),
            op: &w.op,
            shape: w.shape,
            format: w.choice.format_name(),
            modes: {
                let [input, output] = w.choice.modes(w.shape);
                Modes { input, output }
            },
            ranks: w.choice.ranks(),
            bits: w.choice.bits(),
            choice: w.choice,
            bytes_before: w.bytes_before,
            bytes_after: w.bytes,
            predicted_loss: w.predicted_loss,
            error: *error,
            output_error: solved.loss.own.sqrt(),
            dense_output_error: solved.loss.dense.map(f64::sqrt),
            seen: sight.weight(&w.name),
        });
    let report = Report {
        schema: SCHEMA,
        command,
        version: env!("CARGO_PKG_VERSION"),
        command_line: command_line(),
        input: ask.model.display().to_string(),
        output: output.map(|o| o.display().to_string()),
        seed,
        bytes: Bytes {
            before: model.encoded_len(),
            after: planned.plan.bytes,
        },
        goal: Reached {
            asked: planned.plan.goal,
            predicted_loss: planned.plan.predicted_loss.sqrt(),
            verified_loss: planned.verification.relative_l2,
            met: planned.blocking.is_none(),
            blocking: planned.blocking.as_deref(),
        },
        tradeoff: planned.tradeoff.as_ref(),
        weights: weights.collect(),
        skipped: planned
            .skipped
            .iter()
            .map(|(name, r)| Skipped {
                name,
                nodes: nodes(name),
                reason: r.to_string(),
            })
            .collect(),
        finetune,
        verification: VerificationReport::new(ask.calib, planned.verification.clone()),
        latency,
        seconds,
    };
    ask.page.write(&report)?;
    if ask.talk.json {
        print_json(&report)?;
    } else {
        print(text(&report).as_bytes())?;
    }
    Ok(if planned.blocking.is_some() {
        Ended::GoalMissed
    } else {
        Ended::Done
    })
}

/// Of a goal on loss, the largest of the smaller files that miss it, and what that shows.
fn smaller(report: &Report<'_>) -> String {
    let Some((seen, ended)) = report.tradeoff.and_then(|t| Some((t, t.ended?))) else {
        return String::new();
    };
    let after = report.bytes.after;
    let missed = seen.tried.iter().filter(|t| !t.kept && t.bytes < after);
    let said = missed.max_by_key(|t| t.bytes).map(|tried| {
        format!(
            "{:.1} % less, {}, misses the goal: relative L2 {}",
            100.0 * (1.0 - tried.bytes as f64 / after.max(1) as f64),
            bytes(tried.bytes),
            figure(tried.verified_loss)
        )
    });
    let between = match ended {
        Search::NothingBetween => Some("no file between is made by what the weights may become"),
        Search::Rounds => Some("not all sizes between were tried"),
        _ => None,
    };
    let between = between.map(str::to_owned);
    let said: Vec<String> = said.into_iter().chain(between).collect();
    if said.is_empty() {
        return String::new();
    }
    format!("\n{}", said.join("; "))
}

fn text(report: &Report<'_>) -> String {
    let mut rows: Vec<Vec<String>> = report
        .weights
        .iter()
        .map(|w| {
            let of = [bytes(w.bytes_before), bytes(w.bytes_after)];
            let [before, after] = of;
            vec![
                w.name.to_owned(),
                shape(&w.shape),
                w.format.to_owned(),
                describe(&w.choice),
                before,
                after,
                figure(w.error),
            ]
        })
        .collect();
    rows.extend(report.skipped.iter().map(|s| {
        let blank = String::new;
        vec![
            s.name.to_owned(),
            blank(),
            "stays".to_owned(),
            s.reason.clone(),
            blank(),
            blank(),
            blank(),
        ]
    }));
    let header = [
        "weight", "shape", "becomes", "choice", "before", "after", "error",
    ];
    let Bytes { before, after } = report.bytes;
    let missed = match report.goal.blocking {
        Some(names) => format!(
            "\nthe goal is missed; most of what is left stands in: {}",
            names.join(", ")
        ),
        None => smaller(report),
    };
    let trained = report.finetune.as_ref();
    let trained = trained.map_or_else(String::new, |t| format!("{}\n", line(t)));
    format!(
        "{}\n{}: {} -> {}, {:.1} times smaller\npredicted loss {}{missed}\n{trained}{}\ntook {:.1} s\n",
        table(&header, &["before", "after"], rows),
        report.input,
        bytes(before),
        bytes(after),
        before as f64 / after.max(1) as f64,
        figure(report.goal.predicted_loss),
        report.verification,
        report.seconds.total,
    )
}
