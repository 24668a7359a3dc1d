//! `tnq bench`: how long a model takes in tract, and a compressed one beside it.

mod memory;
mod pairs;
mod report;

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use onnx_bridge::runtime::{Runtime, RuntimeOptions};
use onnx_bridge::{Dataset, Engine, Error, Model, model_inputs};
use tn_formats::npy::NpyArray;

use self::pairs::{Speedup, Spread, Verdict, in_turns};
use self::report::{Batch, Contestant, Report, Timing};
use super::{print, print_json};
use crate::error::CliError;
use crate::job::check_threads;
use crate::model::{read_dataset, read_model};
use crate::progress::Progress;
use crate::timing::{ActivationsChoice, BenchArgs, RuntimeChoice};

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Plain,
    Fused(ActivationsChoice),
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Fused(ActivationsChoice::F32) => "fused",
            Self::Fused(ActivationsChoice::Int8) => "fused int8",
        }
    }
}

/// A model and what runs it.
#[derive(Debug, Clone, Copy)]
struct Contender<'a> {
    name: &'static str,
    path: &'a Path,
    model: &'a Model,
    how: How,
    threads: NonZeroUsize,
}

impl Contender<'_> {
    fn load(&self, shapes: &[Vec<usize>]) -> Result<Loaded, CliError> {
        let loaded = match self.how {
            How::Plain => Engine::load_shaped(self.model, shapes)
                .and_then(|engine| engine.with_threads(self.threads))
                .map(Loaded::Plain),
            How::Fused(activations) => {
                let mut options = RuntimeOptions::default();
                options.activations = activations.into();
                options.threads = self.threads;
                Runtime::load_shaped(self.model, &options, shapes).map(Loaded::Fused)
            }
        };
        loaded.map_err(|error| CliError::content(self.path, error))
    }
}

/// A model that is ready to run.
#[derive(Debug)]
enum Loaded {
    Plain(Engine),
    Fused(Runtime),
}

impl Loaded {
    fn run(&self, inputs: &[NpyArray]) -> Result<Vec<NpyArray>, Error> {
        match self {
            Self::Plain(engine) => engine.run(inputs),
            Self::Fused(runtime) => runtime.run(inputs),
        }
    }

    /// How many layers are fused, and the bytes of their weights in memory.
    fn fused(&self) -> (usize, usize) {
        match self {
            Self::Plain(_) => (0, 0),
            Self::Fused(runtime) => {
                let layers = runtime.layers();
                (layers.len(), layers.iter().map(|l| l.bytes).sum())
            }
        }
    }
}

/// Run the command.
pub(crate) fn run(args: &BenchArgs) -> Result<(), CliError> {
    if let Some(shapes) = &args.memory_for {
        let bytes = memory::measure(args, shapes)?;
        return print(bytes.map_or(String::new(), |b| b.to_string()).as_bytes());
    }
    check_threads(args.threads)?;
    let progress = Progress::detect(args.talk.quiet);
    let stage = progress.stage("reading", 0);
    let original = read_model(&args.model)?;
    let other = args.output.as_deref().map(read_model).transpose()?;
    let data = match &args.data {
        Some(file) => Some(read_dataset(file, &original)?),
        None => None,
    };
    drop(stage);
    let contenders = contenders(args, &original, other.as_ref());
    let sizes = batch_sizes(args, &original, progress);
    let mut contestants = Vec::new();
    let mut batches = Vec::new();
    for batch in sizes {
        let stage = progress.stage(&format!("batch {batch}"), 0);
        let inputs = inputs(args, &original, data.as_ref(), batch)?;
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|a| a.shape().to_vec()).collect();
        let loaded: Vec<Loaded> = contenders
            .iter()
            .map(|c| c.load(&shapes))
            .collect::<Result<_, _>>()?;
        if contestants.is_empty() {
            for (contender, loaded) in contenders.iter().zip(&loaded) {
                contestants.push(contestant(contender, loaded, &shapes)?);
            }
            differences(&contenders, &loaded, &inputs, &mut contestants)?;
        }
        batches.push(time(args, &contenders, &loaded, &inputs, batch)?);
        drop(stage);
    }
    let report = Report {
        schema: super::SCHEMA,
        command: "bench",
        version: env!("CARGO_PKG_VERSION"),
        input: args.model.display().to_string(),
        output: args.output.as_ref().map(|p| p.display().to_string()),
        data: args.data.as_ref().map(|p| p.display().to_string()),
        models: contestants,
        batches,
        threads: args.threads.get(),
        seed: args.seed,
    };
    for batch in &report.batches {
        warn(batch, progress);
    }
    if args.talk.json {
        print_json(&report)
    } else {
        print(report.to_string().as_bytes())
    }
}

/// The reference first.
fn contenders<'a>(
    args: &'a BenchArgs,
    original: &'a Model,
    other: Option<&'a Model>,
) -> Vec<Contender<'a>> {
    let plain = Contender {
        name: if other.is_some() { "original" } else { "model" },
        path: &args.model,
        model: original,
        how: How::Plain,
        threads: args.threads,
    };
    let second = match (other, &args.output) {
        (Some(model), Some(path)) => Contender {
            name: "compressed",
            path,
            model,
            ..plain
        },
        _ => plain,
    };
    let fused = Contender {
        how: How::Fused(args.activations),
        ..second
    };
    let mut all = vec![plain];
    if other.is_some() && args.runtime != RuntimeChoice::Fused {
        all.push(second);
    }
    if args.runtime != RuntimeChoice::Plain {
        all.push(fused);
    }
    all
}

/// The sizes asked for, or the one that the file fixes.
fn batch_sizes(args: &BenchArgs, model: &Model, progress: Progress) -> Vec<usize> {
    let asked: Vec<usize> = args.batches.iter().map(|n| n.get()).collect();
    let fixed = model_inputs(model)
        .iter()
        .find_map(|input| input.dims.first().copied().flatten());
    let Some(fixed) = fixed else {
        return asked;
    };
    if asked != [fixed] {
        progress.warn(&format!(
            "{}: the file fixes the batch at {fixed}; only that is timed",
            args.model.display()
        ));
    }
    vec![fixed]
}

/// One array for each input.
fn inputs(
    args: &BenchArgs,
    model: &Model,
    data: Option<&Dataset>,
    batch: usize,
) -> Result<Vec<NpyArray>, CliError> {
    let made_up;
    let data = match (data, &args.data) {
        (Some(data), Some(file)) => {
            if data.len() < batch {
                let found = data.len();
                let problem = format!("expected {batch} samples for a batch, found {found}");
                return Err(CliError::content(file, problem));
            }
            data.head(batch)
        }
        _ => {
            made_up = onnx_bridge::synthesize_sized(model, batch, args.length.get(), args.seed);
            made_up.map_err(|error| CliError::content(&args.model, error))?
        }
    };
    let of_input = |name: &str| data.arrays().iter().find(|(n, _)| n == name);
    let arrays = model_inputs(model).into_iter().map(|input| {
        let found = of_input(&input.name).map(|(_, array)| array.clone());
        found.ok_or_else(|| {
            CliError::content(
                &args.model,
                format!(
                    "expected samples for the input `{}`, found none",
                    input.name
                ),
            )
        })
    });
    arrays.collect()
}

fn contestant(
    contender: &Contender<'_>,
    loaded: &Loaded,
    shapes: &[Vec<usize>],
) -> Result<Contestant, CliError> {
    let (fused_layers, fused_bytes) = loaded.fused();
    let meta = fs::metadata(contender.path).map_err(|source| CliError::Read {
        path: contender.path.to_owned(),
        source,
    })?;
    Ok(Contestant {
        model: contender.name,
        runtime: contender.how.name(),
        bytes: meta.len(),
        memory_bytes: memory::after_load(contender, shapes),
        fused_layers,
        fused_bytes,
        difference: None,
    })
}

/// How far fused operators are from stock tract on the same file.
fn differences(
    contenders: &[Contender<'_>],
    loaded: &[Loaded],
    inputs: &[NpyArray],
    contestants: &mut [Contestant],
) -> Result<(), CliError> {
    for (i, contender) in contenders.iter().enumerate() {
        let same = |c: &Contender<'_>| c.how == How::Plain && c.name == contender.name;
        let Some(plain) = contenders.iter().position(same).filter(|&p| p != i) else {
            continue;
        };
        let outputs = |k: usize| {
            let run = loaded[k].run(inputs);
            run.map_err(|error| CliError::content(contender.path, error))
        };
        let (wanted, found) = (outputs(plain)?, outputs(i)?);
        let [mut error, mut norm] = [0.0f64; 2];
        for (a, b) in wanted.iter().zip(&found) {
            for (a, b) in a.to_f32().iter().zip(&b.to_f32()) {
                error += f64::from(a - b).powi(2);
                norm += f64::from(*a).powi(2);
            }
        }
        contestants[i].difference = (norm > 0.0).then(|| (error / norm).sqrt());
    }
    Ok(())
}

fn time(
    args: &BenchArgs,
    contenders: &[Contender<'_>],
    loaded: &[Loaded],
    inputs: &[NpyArray],
    batch: usize,
) -> Result<Batch, CliError> {
    let run = |(contender, loaded): (&Contender<'_>, &Loaded)| {
        loaded
            .run(inputs)
            .map(drop)
            .map_err(|error| CliError::content(contender.path, error))
    };
    let mut jobs: Vec<_> = contenders
        .iter()
        .zip(loaded)
        .map(|pair| move || run(pair))
        .collect();
    let mut jobs: Vec<&mut dyn FnMut() -> Result<(), CliError>> =
        jobs.iter_mut().map(|job| job as _).collect();
    let times = in_turns(&mut jobs, args.seconds)?;
    let reference = &times[0];
    let timings = contenders.iter().zip(&times).enumerate();
    Ok(Batch {
        batch,
        rounds: reference.len(),
        timings: timings
            .map(|(i, (contender, times))| Timing {
                model: contender.name,
                runtime: contender.how.name(),
                spread: Spread::of(times),
                against_first: (i > 0).then(|| Speedup::of(reference, times)),
            })
            .collect(),
    })
}

/// Says where the rounds differ too much to tell.
fn warn(batch: &Batch, progress: Progress) {
    for timing in &batch.timings {
        let Some(speedup) = &timing.against_first else {
            continue;
        };
        if speedup.verdict == Verdict::Unclear {
            progress.warn(&format!(
                "batch {}, {} {}: the machine is too noisy to tell which is faster (between {:.2} and {:.2} times); \
                 close other programs or measure longer (--seconds)",
                batch.batch, timing.model, timing.runtime, speedup.speedup_low, speedup.speedup_high
            ));
        }
    }
}
