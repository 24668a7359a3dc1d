//! `tnq study`: the experiments on a layer or a small network.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use ndarray::{Array2, ArrayView2, Axis};
use onnx_bridge::{Dataset, DenseStack, Inspection, Model, StackLayer, Verdict};
use serde::Serialize;
use tn_formats::MatrixModes;
use tn_qat::studies::{
    QatLayer, QatProblem, Study, StudyReport, bits, gauge, normal_inputs, qat, ranks,
};

use super::{print, print_json};
use crate::error::CliError;
use crate::job::{existing, not_the_input, use_threads};
use crate::model::{read_dataset, read_model};
use crate::output::OutputFile;
use crate::progress::Progress;
use crate::study::{QatArgs, StudyArgs, StudyCommand};

/// Layers of a network with a shorter side than this stay as they are, unless one is asked for.
const SHORTEST_SIDE: usize = 64;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    command: &'static str,
    study: &'static str,
    version: &'static str,
    input: String,
    data: Option<String>,
    held_out: Option<String>,
    layers: Vec<Layer>,
    result: serde_json::Value,
    conclusion: Vec<String>,
    plot: Option<String>,
    seconds: f64,
    seed: u64,
}

#[derive(Debug, Serialize)]
struct Layer {
    name: String,
    shape: [usize; 2],
    row_modes: Vec<usize>,
    col_modes: Vec<usize>,
}

impl Layer {
    fn new(layer: &StackLayer, modes: &MatrixModes) -> Self {
        Self {
            name: layer.name.clone(),
            shape: [layer.weight.nrows(), layer.weight.ncols()],
            row_modes: modes.row_modes().to_vec(),
            col_modes: modes.col_modes().to_vec(),
        }
    }
}

/// What a study came to.
struct Found {
    layers: Vec<Layer>,
    result: serde_json::Value,
    report: StudyReport,
}

impl Found {
    fn new<S: Study>(layers: Vec<Layer>, study: &S) -> Result<Self, CliError> {
        let result = serde_json::to_value(study).map_err(|error| CliError::Print(error.into()))?;
        Ok(Self {
            layers,
            result,
            report: study.report(),
        })
    }
}

/// Run the command.
pub(crate) fn run(command: &StudyCommand) -> Result<(), CliError> {
    let start = Instant::now();
    let args = command.common();
    let plot = match &args.output {
        Some(path) => {
            not_the_input(&args.model, path)?;
            Some(OutputFile::new(path, existing(args.force))?)
        }
        None => None,
    };
    use_threads(args.compute.threads)?;
    let progress = Progress::detect(args.talk.quiet);
    let stage = progress.stage("reading", 0);
    let model = read_model(&args.model)?;
    drop(stage);
    let failed = |error: tn_qat::QatError| CliError::content(&args.model, error);
    let (mut data, mut held_out) = (None, None);
    let found = match command {
        StudyCommand::Qat(qat_args) => {
            let shown = |path: &Option<std::path::PathBuf>| {
                path.as_ref().map(|path| path.display().to_string())
            };
            (data, held_out) = (shown(&qat_args.data), shown(&qat_args.held_out));
            study_qat(qat_args, &model, progress)?
        }
        StudyCommand::Ranks(more) => {
            let (layer, modes) = one_layer(args, &model)?;
            let _stage = progress.stage("studying", 0);
            let study = ranks(layer.weight.view(), &modes, &more.config()).map_err(failed)?;
            Found::new(vec![Layer::new(&layer, &modes)], &study)?
        }
        StudyCommand::Bits(more) => {
            let (layer, modes) = one_layer(args, &model)?;
            let _stage = progress.stage("studying", 0);
            let study = bits(layer.weight.view(), &modes, &more.config()).map_err(failed)?;
            Found::new(vec![Layer::new(&layer, &modes)], &study)?
        }
        StudyCommand::Gauge(more) => {
            let (layer, modes) = one_layer(args, &model)?;
            let _stage = progress.stage("studying", 0);
            let study = gauge(layer.weight.view(), &modes, &more.config()).map_err(failed)?;
            Found::new(vec![Layer::new(&layer, &modes)], &study)?
        }
    };
    if let Some(plot) = &plot {
        let svg = found.report.svg();
        let svg = svg.map_err(|error| CliError::content(plot.path(), error))?;
        plot.write(|file| file.write_all(svg.as_bytes()))?;
    }
    let report = Report {
        schema: super::SCHEMA,
        command: "study",
        study: command.name(),
        version: env!("CARGO_PKG_VERSION"),
        input: args.model.display().to_string(),
        data,
        held_out,
        layers: found.layers,
        result: found.result,
        conclusion: found.report.conclusion.clone(),
        plot: plot.map(|plot| plot.path().display().to_string()),
        seconds: start.elapsed().as_secs_f64(),
        seed: args.compute.seed,
    };
    if args.talk.json {
        print_json(&report)
    } else {
        print(text(&report, &found.report).as_bytes())
    }
}

fn text(report: &Report, study: &StudyReport) -> String {
    let mut text = String::new();
    for layer in &report.layers {
        text += &format!(
            "{} of {}: {} x {}, modes {:?} x {:?}\n",
            layer.name,
            report.input,
            layer.shape[0],
            layer.shape[1],
            layer.row_modes,
            layer.col_modes,
        );
    }
    text += &format!("\n{}", study.markdown());
    if let Some(plot) = &report.plot {
        text += &format!("\nplot: {plot}\n");
    }
    text += &format!("{:.1} s\n", report.seconds);
    text
}

/// The layer that is asked for, else the largest.
fn one_layer(args: &StudyArgs, model: &Model) -> Result<(StackLayer, MatrixModes), CliError> {
    let name = layer_name(args, &onnx_bridge::inspect(model))?;
    let stack = layer_stack(args, model, &name)?;
    let layer = stack.into_layers().into_iter().next();
    let layer =
        layer.ok_or_else(|| CliError::content(&args.model, "expected a layer, found none"))?;
    let modes = args.modes(layer.weight.nrows(), layer.weight.ncols())?;
    Ok((layer, modes))
}

fn layer_stack(args: &StudyArgs, model: &Model, name: &str) -> Result<DenseStack, CliError> {
    DenseStack::of_weight(model, name)
        .map_err(|reason| CliError::content(&args.model, format!("weight '{name}': {reason}")))
}

fn layer_name(args: &StudyArgs, inspection: &Inspection) -> Result<String, CliError> {
    let dense = inspection
        .weights
        .iter()
        .filter(|w| matches!(&w.verdict, Verdict::CanBecome { refused, .. } if refused.is_empty()))
        .filter(|w| w.shape.len() == 2);
    let chosen = match &args.layer {
        Some(regex) => dense.clone().find(|w| regex.is_match(&w.name)),
        // The first of equally large ones.
        None => dense.clone().rev().max_by_key(|w| w.bytes),
    };
    chosen.map(|w| w.name.clone()).ok_or_else(|| {
        let names: Vec<&str> = dense.map(|w| w.name.as_str()).collect();
        let problem = match &args.layer {
            Some(regex) => format!("--layer '{regex}' matches none of {}", names.join(", ")),
            None => "expected a dense layer, found none (see tnq inspect)".to_owned(),
        };
        CliError::content(&args.model, problem)
    })
}

/// The network at the model's output, or one layer: what is asked for, what is possible.
fn stack(args: &StudyArgs, model: &Model) -> Result<DenseStack, CliError> {
    let whole = match args.layer {
        Some(_) => None,
        None => DenseStack::at_output(model)
            .filter(|stack| stack.layers().iter().any(|l| is_large(&l.weight))),
    };
    match whole {
        Some(stack) => Ok(stack),
        None => layer_stack(
            args,
            model,
            &layer_name(args, &onnx_bridge::inspect(model))?,
        ),
    }
}

fn is_large(weight: &Array2<f32>) -> bool {
    weight.nrows().min(weight.ncols()) >= SHORTEST_SIDE
}

/// Rows of inputs to train and to judge on, and the classes of the latter.
struct Inputs {
    train: Array2<f32>,
    judge: Array2<f32>,
    labels: Option<Vec<i64>>,
}

impl Inputs {
    fn new(
        args: &QatArgs,
        model: &Model,
        stack: &DenseStack,
        progress: Progress,
    ) -> Result<Self, CliError> {
        let most = args.samples.get();
        let Some(path) = &args.data else {
            progress.warn("no data (--data): the layers are given normal noise, and judged by their outputs on it");
            let n = stack.layers().first().map_or(0, |l| l.weight.ncols());
            let seed = args.common.compute.seed;
            return Ok(Self {
                train: normal_inputs(most, n, seed),
                judge: normal_inputs(most.min(1000), n, seed.wrapping_add(1)),
                labels: None,
            });
        };
        let read = |path: &Path, samples: usize| -> Result<(Array2<f32>, Dataset), CliError> {
            let data = read_dataset(path, model)?.head(samples);
            let rows = stack.inputs(model, &data);
            Ok((rows.map_err(|error| CliError::content(path, error))?, data))
        };
        let stage = progress.stage("running the model", 0);
        let inputs = match &args.held_out {
            Some(held_out) => {
                let (train, _) = read(path, most)?;
                let (judge, data) = read(held_out, usize::MAX)?;
                let labels = data.labels().map(<[i64]>::to_vec);
                Self {
                    train,
                    judge,
                    labels,
                }
            }
            None => {
                let (rows, data) = read(path, most.saturating_add(most.div_ceil(4)))?;
                let (judge, train): (Vec<usize>, Vec<usize>) =
                    (0..rows.nrows()).partition(|i| i % 5 == 4);
                let labels = data.labels().filter(|labels| labels.len() == rows.nrows());
                let labels = labels.map(|l| judge.iter().map(|&i| l[i]).collect());
                Self {
                    train: rows.select(Axis(0), &train),
                    judge: rows.select(Axis(0), &judge),
                    labels,
                }
            }
        };
        drop(stage);
        if inputs.judge.is_empty() || inputs.train.is_empty() {
            return Err(CliError::content(
                path,
                "expected samples to train on and to judge on, found too few; give --held-out",
            ));
        }
        Ok(inputs)
    }
}

fn study_qat(args: &QatArgs, model: &Model, progress: Progress) -> Result<Found, CliError> {
    let config = args.config()?;
    let stack = stack(&args.common, model)?;
    let inputs = Inputs::new(args, model, &stack, progress)?;
    let alone = stack.layers().len() == 1;
    // Classes are of use only where outputs are logits: at the end of the network.
    let is_end = args.common.layer.is_none();
    let (mut layers, mut shown) = (Vec::new(), Vec::new());
    for layer in stack.into_layers() {
        let modes = if alone || is_large(&layer.weight) {
            let modes = args
                .common
                .modes(layer.weight.nrows(), layer.weight.ncols())?;
            shown.push(Layer::new(&layer, &modes));
            Some(modes)
        } else {
            None
        };
        layers.push(QatLayer {
            weight: layer.weight,
            bias: layer.bias,
            activation: layer.activation,
            modes,
        });
    }
    let rows = |a: &Array2<f32>| a.nrows();
    let labels = inputs
        .labels
        .as_deref()
        .filter(|l| is_end && l.len() == rows(&inputs.judge));
    let train: ArrayView2<'_, f32> = inputs.train.view();
    let problem = QatProblem {
        layers,
        x: train,
        held_out: inputs.judge.view(),
        labels,
    };
    let total = config.ranks.len() * (2 + config.bits.len());
    let stage = progress.stage("training", total as u64);
    let study = qat(&problem, &config, &mut |_, _| stage.step())
        .map_err(|error| CliError::content(&args.common.model, error))?;
    drop(stage);
    Found::new(shown, &study)
}
