//! `tnq plan`, and `tnq compress` with a goal: calibrate, choose, solve, verify.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use onnx_bridge::blocks::Levels;
use onnx_bridge::calibrate::TargetKind;
use onnx_bridge::plan::{Candidate, Plan, Planned, Session, Tradeoff, compress_planned, replay};
use onnx_bridge::{Dataset, Model, inspect};
use serde::Serialize;

use super::finetune::line;
use super::report::{Page, Seen, Sight};
use super::verification::{Latency, Named, Samples, VerificationReport};
use super::{Bytes, Ended, print, print_json};
use crate::args::{CompressArgs, PlanArgs, SettingsArgs, TalkArgs};
use crate::encoded::{Encoded, Storage};
use crate::error::CliError;
use crate::goals::{FolderStore, GoalArgs};
use crate::job::{existing, not_the_input, use_threads};
use crate::model::{read_dataset, read_model};
use crate::output::OutputFile;
use crate::progress::Progress;
use crate::report::{command_line, describe};
use crate::rules::{Action, LayerRule, idle_rules};
use crate::settings::Format;
use crate::table::{bytes, figure, shape, table};
use crate::tuning::{TuningJob, TuningReport};

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
    reason: String,
}

#[derive(Debug, Serialize)]
struct Seconds {
    plan: f64,
    total: f64,
}

/// What both commands need.
struct Ask<'a> {
    model: &'a Path,
    calib: &'a Path,
    goals: &'a GoalArgs,
    format: Option<Format>,
    bits: Option<u8>,
    rules: &'a [LayerRule],
    beside: &'a Path,
    plan: Option<&'a Path>,
    page: &'a Page,
    talk: &'a TalkArgs,
}

/// The finest grid that takes at most so many bits for a code, by its nominal bits.
fn grid_of(bits: u8) -> u8 {
    let grids = Levels::ALL.iter().map(|l| l.nominal_bits());
    grids.filter(|b| *b <= bits).max().unwrap_or(bits)
}

/// Settings that a plan has no choice for.
fn refuse(settings: &SettingsArgs) -> Result<(), CliError> {
    let given = [
        ("--layout", settings.layout.is_some()),
        ("--modes", settings.modes.is_some()),
        ("--ranks", settings.ranks.is_some()),
        ("--scheme", settings.scheme.is_some()),
        ("--granularity", settings.granularity.is_some()),
    ];
    match given.iter().find(|(_, set)| *set) {
        Some((flag, _)) => Err(CliError::Usage(format!(
            "{flag}: a goal leaves this to the plan; --format and --bits narrow its choices"
        ))),
        None => Ok(()),
    }
}

/// The plan and its model; the jobs that it took stay in the store until it is finished.
fn solve<'a>(
    ask: &Ask<'a>,
    model: &Model,
    data: &Dataset,
) -> Result<(Planned, FolderStore), CliError> {
    let progress = Progress::detect(ask.talk.quiet);
    let plan = ask.plan.map(read_plan).transpose()?;
    let names: std::collections::BTreeMap<String, Vec<String>> = inspect(model)
        .weights
        .into_iter()
        .map(|w| {
            (
                w.name.clone(),
                std::iter::once(w.name).chain(w.nodes).collect(),
            )
        })
        .collect();
    let layers: Vec<Vec<&str>> = names
        .values()
        .map(|names| names.iter().map(String::as_str).collect())
        .collect();
    for idle in idle_rules(ask.rules, &layers) {
        progress.warn(&idle);
    }
    let allow = |target: &onnx_bridge::calibrate::Target, candidate: &Candidate| {
        let own = [target.name().to_owned()];
        let names: Vec<&str> = names
            .get(target.name())
            .map_or(&own[..], Vec::as_slice)
            .iter()
            .map(String::as_str)
            .collect();
        let rule = ask
            .rules
            .iter()
            .rev()
            .find_map(|rule| rule.action_for(&names));
        let (format, bits) = match rule {
            Some(Action::Keep) => return *candidate == Candidate::Keep,
            Some(Action::Set(set)) => (
                set.format.or(ask.format),
                set.bits.map(|b| b.get()).or(ask.bits),
            ),
            None => (ask.format, ask.bits),
        };
        let named = match format.unwrap_or(Format::Auto) {
            Format::Auto => true,
            // Trains and Tucker networks stand for matrices of dense layers only: a table chooses freely.
            Format::Tt | Format::Tucker if matches!(target.kind(), TargetKind::Table(_)) => true,
            one => *candidate == Candidate::Keep || candidate.format_name() == one.name(),
        };
        named
            && bits.is_none_or(|b| *candidate != Candidate::Keep && candidate.bits() == grid_of(b))
    };
    let store = FolderStore::new(ask.goals.jobs.as_deref(), ask.beside);
    let stage = progress.stage("planning", 0);
    let session = Session {
        data,
        goal: ask.goals.goal(model.encoded_len()),
        allow: &allow,
        store: &store,
        progress: &|_, _, _| stage.step(),
    };
    let planned = match &plan {
        Some(plan) => replay(model, &session, plan),
        None => compress_planned(model, &session),
    };
    let planned = planned.map_err(|error| CliError::content(ask.model, error))?;
    stage.finish();
    Ok((planned, store))
}

fn read_plan(path: &Path) -> Result<Plan, CliError> {
    let text = fs::read(path).map_err(|source| CliError::Read {
        path: path.to_owned(),
        source,
    })?;
    let plan: Plan =
        serde_json::from_slice(&text).map_err(|error| CliError::content(path, error))?;
    if plan.schema == Plan::SCHEMA {
        Ok(plan)
    } else {
        Err(CliError::content(
            path,
            format!("expected schema {}, found {}", Plan::SCHEMA, plan.schema),
        ))
    }
}

/// `tnq compress` with a goal or a plan.
pub(crate) fn compress(args: &CompressArgs) -> Result<Ended, CliError> {
    let start = Instant::now();
    let Some(calib) = &args.calib else {
        return Err(CliError::Usage(
            "a goal or a plan needs --calib: the choices rest on what the layers are given".into(),
        ));
    };
    refuse(&args.settings)?;
    let tuning = TuningJob::new(args.finetune.as_deref(), &args.tuning, args.compute.seed)?;
    not_the_input(&args.model, &args.output)?;
    let output = OutputFile::new(&args.output, existing(args.force))?;
    let page = Page::new(
        &args.page,
        existing(args.force),
        &[&args.model, &args.output],
    )?;
    use_threads(args.compute.threads)?;
    let model = read_model(&args.model)?;
    let data = read_dataset(calib, &model)?;
    let samples = match &tuning {
        Some(tuning) => Some(tuning.read(&model, &args.model)?),
        None => None,
    };
    let ask = Ask {
        model: &args.model,
        calib,
        goals: &args.goals,
        format: args.settings.format,
        bits: args.settings.bits.map(|b| b.get()),
        rules: &args.layers,
        beside: &args.output,
        plan: args.plan.as_deref(),
        page: &page,
        talk: &args.talk,
    };
    let (mut planned, store) = solve(&ask, &model, &data)?;
    let plan_seconds = start.elapsed().as_secs_f64();
    let mut tuned = None;
    if let (Some(tuning), Some(samples)) = (&tuning, &samples) {
        let progress = Progress::detect(args.talk.quiet);
        let (trained, report) = tuning.train([&model, &planned.model], None, samples, progress)?;
        planned.model = trained;
        let stage = progress.stage("verifying", 0);
        judge(&mut planned, &model, &data, calib)?;
        drop(stage);
        tuned = Some(report);
    }
    let storage = Storage::asked(args.external_data);
    let encoded = Encoded::new(&planned.model, output.path(), storage)?;
    encoded.write(&output)?;
    store.finish();
    let seconds = Seconds {
        plan: plan_seconds,
        total: start.elapsed().as_secs_f64(),
    };
    tell(
        "compress",
        &model,
        &ask,
        &planned,
        tuned,
        Some(args.output.clone()),
        args.compute.seed,
        seconds,
    )
}

/// Calibration samples that a trained model is verified on at most, unless accuracy is a goal.
const MOST_VERIFIED: usize = 512;

/// What the trained model loses, and whether it keeps the goal that the plan alone missed.
fn judge(
    planned: &mut Planned,
    original: &Model,
    data: &Dataset,
    path: &Path,
) -> Result<(), CliError> {
    let goal = planned.plan.goal;
    let head;
    let data = if goal.drop.is_some() {
        data
    } else {
        head = data.head(MOST_VERIFIED);
        &head
    };
    let verified = onnx_bridge::verify(original, &planned.model, data)
        .map_err(|error| CliError::content(path, error))?;
    let dropped = verified.accuracy_before.zip(verified.accuracy_after);
    let kept = goal.bytes.is_none_or(|most| planned.plan.bytes <= most)
        && goal.speed.is_none()
        && goal.loss.is_none_or(|most| verified.relative_l2 <= most)
        && goal
            .drop
            .is_none_or(|most| dropped.is_some_and(|(before, after)| before - after <= most));
    planned.blocking = planned.blocking.take().filter(|_| !kept);
    planned.verification = verified;
    Ok(())
}

/// `tnq plan`: the choices, without a model.
pub(crate) fn plan(args: &PlanArgs) -> Result<Ended, CliError> {
    let start = Instant::now();
    refuse(&args.settings)?;
    use_threads(args.compute.threads)?;
    let model = read_model(&args.model)?;
    let output = args
        .output
        .as_ref()
        .map(|o| OutputFile::new(o, existing(args.force)))
        .transpose()?;
    let mut others = vec![args.model.as_path()];
    others.extend(args.output.as_deref());
    let page = Page::new(&args.page, existing(args.force), &others)?;
    let ask = Ask {
        model: &args.model,
        calib: &args.calib,
        goals: &args.goals,
        format: args.settings.format,
        bits: args.settings.bits.map(|b| b.get()),
        rules: &args.layers,
        beside: args.output.as_deref().unwrap_or(&args.model),
        plan: None,
        page: &page,
        talk: &args.talk,
    };
    let data = read_dataset(&args.calib, &model)?;
    let (planned, store) = solve(&ask, &model, &data)?;
    store.finish();
    if let Some(output) = output {
        let mut text =
            serde_json::to_vec_pretty(&planned.plan).map_err(|e| CliError::Print(e.into()))?;
        text.push(b'\n');
        output.write(|file| file.write_all(&text))?;
    }
    let total = start.elapsed().as_secs_f64();
    let seconds = Seconds { plan: total, total };
    tell(
        "plan",
        &model,
        &ask,
        &planned,
        None,
        args.output.clone(),
        args.compute.seed,
        seconds,
    )
}

#[allow(clippy::too_many_arguments, reason = "what a report tells, each once")]
fn tell(
    command: &'static str,
    model: &Model,
    ask: &Ask<'_>,
    planned: &Planned,
    finetune: Option<TuningReport>,
    output: Option<PathBuf>,
    seed: u64,
    seconds: Seconds,
) -> Result<Ended, CliError> {
    let solved = planned.plan.weights.iter().zip(&planned.solved);
    let became = |name: &str| {
        let (_, solved) = solved.clone().find(|(w, _)| w.name == name)?;
        solved.form.matrix()
    };
    let sight = Sight::of(model, ask.talk, ask.page, &became);
    let latency = if ask.page.wanted() {
        let [original, other] = [(model, ask.model), (&planned.model, ask.beside)]
            .map(|(model, path)| Named { model, path });
        Some(Samples::new(original, Some(ask.calib), seed)?.latency(original, other)?)
    } else {
        None
    };
    let weights = planned
        .plan
        .weights
        .iter()
        .zip(&planned.errors)
        .map(|(w, error)| Weight {
            name: &w.name,
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
            seen: sight.weight(&w.name),
        });
    let report = Report {
        schema: super::SCHEMA,
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
        None => String::new(),
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
