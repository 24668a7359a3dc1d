//! `tnq plan`, and `tnq compress` with a goal: calibrate, choose, solve, verify.

mod report;
mod rounds;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use onnx_bridge::blocks::Levels;
use onnx_bridge::calibrate::TargetKind;
use onnx_bridge::plan::{Candidate, Plan, Planned, Session, compress_planned, plan_again, replay};
use onnx_bridge::{Dataset, Model, inspect};

use self::report::{Seconds, tell};
use self::rounds::Rounds;
use super::Ended;
use super::report::Page;
use crate::args::{CompressArgs, PlanArgs, SettingsArgs, TalkArgs};
use crate::encoded::{Encoded, Storage};
use crate::error::CliError;
use crate::goals::{Engine, FolderStore, GoalArgs};
use crate::job::{existing, not_the_input, use_threads};
use crate::model::{read_dataset, read_model};
use crate::output::OutputFile;
use crate::progress::Progress;
use crate::rules::{Action, LayerRule, idle_rules};
use crate::settings::Format;
use crate::tuning::TuningJob;

/// What both commands need.
struct Ask<'a> {
    model: &'a Path,
    calib: Option<&'a Path>,
    goals: &'a GoalArgs,
    format: Option<Format>,
    bits: Option<u8>,
    rules: &'a [LayerRule],
    beside: &'a Path,
    plan: Option<&'a Path>,
    page: &'a Page,
    talk: &'a TalkArgs,
    nodes: &'a Nodes,
}

/// The nodes that use each weight.
type Nodes = BTreeMap<String, Vec<String>>;

fn nodes_of(model: &Model) -> Nodes {
    let weights = inspect(model).weights.into_iter();
    weights.map(|w| (w.name, w.nodes)).collect()
}

/// The finest grid that takes at most so many bits for a code, by its nominal bits.
fn grid_of(bits: u8) -> u8 {
    let grids = Levels::ALL.iter().map(|l| l.nominal_bits());
    grids.filter(|b| *b <= bits).max().unwrap_or(bits)
}

/// Settings that a plan has no choice for, of all layers and of those that a rule names.
fn refuse(settings: &SettingsArgs, rules: &[LayerRule]) -> Result<(), CliError> {
    let all = settings.settings();
    let of_rules = rules.iter().filter_map(|rule| match rule.action() {
        Action::Set(set) => Some((format!("--layer '{}': ", rule.pattern()), set)),
        Action::Keep => None,
    });
    for (place, set) in [("--".to_owned(), &all)].into_iter().chain(of_rules) {
        let given = [
            ("layout", set.layout.is_some()),
            ("modes", set.modes.is_some()),
            ("ranks", set.ranks.is_some()),
            ("scheme", set.scheme.is_some()),
            ("granularity", set.granularity.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(_, set)| *set) {
            return Err(CliError::Usage(format!(
                "{place}{key}: a goal, or the formats of an engine, leave this to the plan; format and bits narrow its choices"
            )));
        }
    }
    Ok(())
}

/// The plan and its model, made again where it is known what a training leaves of every weight's error; the jobs that it took stay in
/// the store until it is finished.
fn solve(
    ask: &Ask<'_>,
    model: &Model,
    data: &Dataset,
    left: Option<&BTreeMap<String, f64>>,
) -> Result<(Planned, FolderStore), CliError> {
    let progress = Progress::detect(ask.talk.quiet);
    let plan = ask.plan.map(read_plan).transpose()?;
    let names = |weight: &str| -> Vec<&str> {
        let nodes = ask.nodes.get_key_value(weight);
        let nodes = nodes.map(|(name, nodes)| std::iter::once(name).chain(nodes));
        nodes.into_iter().flatten().map(String::as_str).collect()
    };
    let layers: Vec<Vec<&str>> = ask.nodes.keys().map(|weight| names(weight)).collect();
    for idle in idle_rules(ask.rules, &layers) {
        progress.warn(&idle);
    }
    let allow = |target: &onnx_bridge::calibrate::Target, candidate: &Candidate| {
        let names = names(target.name());
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
    let asked = ask.goals.target.map(Engine::runs_on);
    if let (Some(plan), Some(asked)) = (&plan, asked)
        && plan.runs_on != asked
    {
        return Err(CliError::Usage(format!(
            "--target: the plan was made for {:?}, and another would not be its bytes",
            plan.runs_on
        )));
    }
    let session = Session {
        data,
        goal: ask.goals.goal(model.encoded_len()),
        runs_on: asked.unwrap_or_default(),
        allow: &allow,
        store: &store,
        progress: &|_, _, _| stage.step(),
    };
    let planned = match (&plan, left) {
        (Some(plan), _) => replay(model, &session, plan),
        (None, Some(left)) => plan_again(model, &session, left),
        (None, None) => compress_planned(model, &session),
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
    refuse(&args.settings, &args.layers)?;
    if args.reference.is_some() {
        return Err(CliError::Usage(
            "--reference: expected no goal, plan or engine, whose grids have no dense reference"
                .into(),
        ));
    }
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
    let calib = args.calib.as_deref();
    let without = match args.plan {
        Some(_) => REPLAYED_WITHOUT,
        None => PLANNED_WITHOUT,
    };
    let named = (args.model.as_path(), &model);
    let data = calibration(calib, without, named, args.compute.seed, &args.talk)?;
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
        nodes: &nodes_of(&model),
    };
    let (mut planned, store) = solve(&ask, &model, &data, None)?;
    let plan_seconds = start.elapsed().as_secs_f64();
    let mut tuned = None;
    if let (Some(job), Some(samples)) = (&tuning, &samples) {
        let most = args.rounds.map_or(0, NonZeroUsize::get);
        let rounds = Rounds { job, samples, most };
        let (trained, report) = rounds.run(&ask, &model, &data, planned)?;
        planned = trained;
        let stage = Progress::detect(args.talk.quiet).stage("verifying", 0);
        judge(&mut planned, &model, &data, calib.unwrap_or(&args.model))?;
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

/// Samples that are made up to plan on, where none are given.
const MADE_UP: usize = 256;

/// What planning rests on without samples, and a plan that is replayed.
const PLANNED_WITHOUT: &str = "the choices rest on the weights and on random inputs, and so does the loss that a goal is held to";
const REPLAYED_WITHOUT: &str = "the plan's choices are carried out without the samples it was made on, and their loss is that on random inputs";

/// The samples of a file, or made-up ones with a warning.
fn calibration(
    calib: Option<&Path>,
    without: &str,
    (path, model): (&Path, &Model),
    seed: u64,
    talk: &TalkArgs,
) -> Result<Dataset, CliError> {
    if let Some(calib) = calib {
        let data = read_dataset(calib, model)?;
        onnx_bridge::check_data(model, &data).map_err(|error| CliError::content(calib, error))?;
        return Ok(data);
    }
    Progress::detect(talk.quiet).warn(&format!(
        "NO CALIBRATION DATA (--calib): {without}; real data may lose more"
    ));
    onnx_bridge::synthesize(model, MADE_UP, seed).map_err(|error| CliError::content(path, error))
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
    refuse(&args.settings, &args.layers)?;
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
        calib: args.calib.as_deref(),
        goals: &args.goals,
        format: args.settings.format,
        bits: args.settings.bits.map(|b| b.get()),
        rules: &args.layers,
        beside: args.output.as_deref().unwrap_or(&args.model),
        plan: None,
        page: &page,
        talk: &args.talk,
        nodes: &nodes_of(&model),
    };
    let named = (args.model.as_path(), &model);
    let calib = args.calib.as_deref();
    let data = calibration(calib, PLANNED_WITHOUT, named, args.compute.seed, &args.talk)?;
    let (planned, store) = solve(&ask, &model, &data, None)?;
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
