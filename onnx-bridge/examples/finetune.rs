//! Distils a compressed model from the original: `finetune TEACHER STUDENT NPZ OUT [STEPS]`.
//!
//! ```sh
//! cargo run --release -p onnx-bridge --example compress -- model.onnx student.onnx
//! cargo run --release -p onnx-bridge --example finetune -- model.onnx student.onnx train.npz out.onnx 4000
//! ```
#![allow(clippy::print_stderr, reason = "an example prints")]

use std::error::Error;
use std::fs::{self, File};
use std::ops::ControlFlow;

use onnx_bridge::finetune::{
    Evaluation, FinetuneConfig, Length, Observer, Start, Started, StepReport, finetune,
};
use onnx_bridge::{Dataset, Model};

struct Lines;

impl Observer for Lines {
    fn started(&mut self, report: &Started) {
        eprintln!("{report:?}");
    }

    fn step(&mut self, report: &StepReport) -> ControlFlow<()> {
        if report.step.is_multiple_of(250) {
            eprintln!(
                "step {:6}  loss {:.4}  {:.0} s",
                report.step, report.loss, report.seconds
            );
        }
        ControlFlow::Continue(())
    }

    fn evaluated(&mut self, report: &Evaluation) {
        eprintln!(
            "step {:6}  held back {:.4}  ({:?})",
            report.step, report.loss, report.phase
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [teacher, student, data, out, rest @ ..] = args.as_slice() else {
        return Err("usage: finetune TEACHER STUDENT NPZ OUT [STEPS]".into());
    };
    let teacher = Model::decode(fs::read(teacher)?)?;
    let student = Model::decode(fs::read(student)?)?;
    let data = Dataset::from_npz(File::open(data)?)?;
    let mut config = FinetuneConfig::default();
    if let Some(steps) = rest.first() {
        config.length = Length::Steps(steps.parse()?);
    }
    for setting in rest.iter().skip(1) {
        let (name, value) = setting.split_once('=').ok_or("expected NAME=VALUE")?;
        match name {
            "lr" => config.learning_rate = Some(value.parse()?),
            "labels" => config.labels_weight = value.parse()?,
            "hidden" => config.hidden_weight = Some(value.parse()?),
            "float" => config.float_part = Some(value.parse()?),
            "mix" => config.mix = value.parse()?,
            "batch" => config.batch = Some(value.parse()?),
            "seed" => config.seed = value.parse()?,
            "mask" => config.mask = Some(value.to_string()),
            _ => return Err(format!("unknown setting `{name}`").into()),
        }
    }
    let outcome = finetune(
        &teacher,
        &student,
        &data,
        &config,
        &Start::default(),
        &mut Lines,
    )?;
    fs::write(out, outcome.model.encode()?)?;
    eprintln!(
        "{} s, held back {:.4} -> {:.4}",
        outcome.seconds, outcome.first_loss, outcome.best_loss
    );
    Ok(())
}
