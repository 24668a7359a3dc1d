//! `tnq run`: a model on arrays from a file.

use std::io;

use onnx_bridge::finetune::interpret;
use onnx_bridge::runtime::{Activations, Runtime, RuntimeOptions};
use onnx_bridge::{Dataset, Engine, Error, Model};
use serde::Serialize;
use tn_formats::npy::{NpyArray, write_npz};

use super::{print, print_json};
use crate::args::{RunArgs, RunEngine};
use crate::error::CliError;
use crate::job::{existing, not_the_input, use_threads};
use crate::model::{read_dataset, read_model};
use crate::output::OutputFile;
use crate::progress::Progress;
use crate::table::{shape, table};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    command: &'static str,
    version: &'static str,
    input: String,
    data: String,
    output: String,
    samples: usize,
    outputs: Vec<Output>,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    shape: Vec<usize>,
    data_type: &'static str,
}

/// Run the command.
pub(crate) fn run(args: &RunArgs) -> Result<(), CliError> {
    not_the_input(&args.input, &args.output)?;
    not_the_input(&args.model, &args.output)?;
    let file = OutputFile::new(&args.output, existing(args.force))?;
    use_threads(args.threads)?;
    let progress = Progress::detect(args.talk.quiet);

    let stage = progress.stage("reading", 0);
    let model = read_model(&args.model)?;
    let data = read_dataset(&args.input, &model)?;
    drop(stage);
    let stage = progress.stage("running", 0);
    let outputs = match args.engine {
        RunEngine::Tract => Engine::load(&model).and_then(|engine| engine.run_all(&data)),
        RunEngine::Fused => fused(&model, &data, Activations::F32),
        RunEngine::FusedInt8 => fused(&model, &data, Activations::Int8),
        RunEngine::Interpreter => interpret(&model, &data),
    };
    let outputs = outputs.map_err(|error| match error {
        Error::Dataset { .. } | Error::MissingInput { .. } => CliError::content(&args.input, error),
        _ => CliError::content(&args.model, error),
    })?;
    drop(stage);
    let arrays = outputs.iter().map(|(name, array)| (name.as_str(), array));
    file.write(|writer| write_npz(writer, arrays).map_err(io::Error::other))?;

    let report = Report {
        schema: super::SCHEMA,
        command: "run",
        version: env!("CARGO_PKG_VERSION"),
        input: args.model.display().to_string(),
        data: args.input.display().to_string(),
        output: args.output.display().to_string(),
        samples: data.len(),
        outputs: outputs
            .iter()
            .map(|(name, array)| Output {
                name: name.clone(),
                shape: array.shape().to_vec(),
                data_type: array.dtype(),
            })
            .collect(),
    };
    if args.talk.json {
        print_json(&report)
    } else {
        print(text(&report).as_bytes())
    }
}

fn fused(
    model: &Model,
    data: &Dataset,
    activations: Activations,
) -> onnx_bridge::Result<Vec<(String, NpyArray)>> {
    let mut options = RuntimeOptions::default();
    options.activations = activations;
    Runtime::load(model, &options)?.run_all(data)
}

fn text(report: &Report) -> String {
    let rows = report.outputs.iter().map(|output| {
        vec![
            output.name.clone(),
            shape(&output.shape),
            output.data_type.to_owned(),
        ]
    });
    let table = table(&["output", "shape", "type"], &[], rows.collect());
    format!(
        "{table}\n{} samples of {} -> {}\n",
        report.samples, report.data, report.output
    )
}
