//! Gradients of whole students against central differences.
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::fs::{self, File};

use tn_formats::Truncation;
use tn_formats::npy::NpyArray;
use tn_qat::{ParameterKind, QatPhase};

use super::Student;
use crate::choice::{Growth, Job, Spec};
use crate::dataset::Dataset;
use crate::finetune::batches::{Batches, SplitMix};
use crate::finetune::config::{FinetuneConfig, Train};
use crate::finetune::kernels::tests::sequence;
use crate::finetune::objective::{Batch, Objective};
use crate::finetune::train::{inputs, mask};
use crate::inspect::Format;
use crate::model::Model;
use crate::proto::{self, GraphProto, ModelProto};
use crate::rewrite::compress;
use crate::tensor;

/// A model and data beside the workspace; `None`, visibly, where they are absent.
fn shared(model: &str, data: &str, samples: usize) -> Option<(Model, Dataset)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let bytes = fs::read(format!("{root}/models/{model}.onnx"));
    let file = File::open(format!("{root}/data/{data}.npz"));
    let (Ok(bytes), Ok(file)) = (bytes, file) else {
        eprintln!("skipped: {root} lacks {model}");
        return None;
    };
    let data = Dataset::from_npz(file).unwrap().head(samples);
    Some((Model::decode(bytes).unwrap(), data))
}

/// Compares 50 derivatives of the loss of all samples, in one batch and without quantization, with central differences.
///
/// Parameters are drawn at random among those that move the loss by at least 100 times the rounding of an f32, with a step of
/// at most `most` times the usual size of their array's elements.
fn check(teacher: &Model, data: &Dataset, spec: Spec, most: f64) {
    let config = FinetuneConfig {
        batch: Some(data.len()),
        held_back: 0.0,
        train: Train::Norms,
        ..FinetuneConfig::default()
    };
    let job = Job::new(spec).with_growth(Growth::Allowed);
    let model = compress(teacher, &job).unwrap().0;
    let mut student = Student::new(&model, teacher, None, config.train).unwrap();
    student.set_phase(QatPhase::Float).unwrap();
    let objective = Objective::new(teacher, &model, &student, &config).unwrap();
    let inputs = inputs(teacher);
    let mask = mask(&config, &inputs, data);
    let batches = Batches::new(data, inputs, mask.as_deref(), (data.len(), 0.0, 0)).unwrap();
    let samples = batches.training(0);
    let feeds = batches.feeds(&samples).unwrap();
    let labels = batches.labels(&samples);
    let batch = Batch {
        feeds: &feeds,
        keep: batches.keep(&feeds).unwrap(),
        labels: labels.as_deref(),
        mixture: None,
    };
    let taught = objective.teach(&feeds).unwrap();
    let taught = || Ok(taught.clone());
    let ready = objective.ready(&feeds).unwrap();
    let leaves = student.leaves(&ready.rows).unwrap();
    let (_, gradients) = objective
        .gradients(&ready, &leaves, taught, &batch)
        .unwrap();
    let mut sums = student.sums();
    student
        .accumulate(gradients, &ready.rows, 1.0, &mut sums)
        .unwrap();
    let value = |student: &Student| -> f64 {
        let leaves = student.leaves(&ready.rows).unwrap();
        objective.loss(&ready, &leaves, taught, &batch).unwrap()
    };
    let size = value(&student);
    let mean = |v: &[f32]| {
        let squares: f64 = v.iter().map(|&x| f64::from(x).powi(2)).sum();
        (squares / v.len() as f64).sqrt()
    };
    let mut random = SplitMix::new(7, 0);
    for _ in 0..50 {
        let (t, p, i, derivative, step) = loop {
            let mut below = |n: usize| (random.unit() * n as f64) as usize;
            let t = below(student.trainables.len());
            let p = below(student.trainables[t].parameters.len());
            let parameter = &student.trainables[t].parameters[p];
            let gradient = sums.gradients[t].iter().nth(p).unwrap();
            let i = below(gradient.len());
            let derivative = f64::from(gradient[i]);
            let usual = mean(parameter.values()).max(1e-3);
            let step = (1e-3 * size / (2.0 * derivative.abs())).min(most * usual);
            let moves = [ParameterKind::Weight, ParameterKind::Bias].contains(&parameter.kind());
            if moves && 2.0 * step * derivative.abs() > 2e-4 * size {
                break (t, p, i, derivative, step as f32);
            }
        };
        let before = student.trainables[t].parameters[p].values()[i];
        let mut moved = |by: f32| {
            student.trainables[t].parameters[p].values_mut()[i] = before + by;
            value(&student)
        };
        let numeric = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        moved(0.0);
        let noise = 2e-6 * size / (2.0 * f64::from(step));
        assert!(
            (derivative - numeric).abs() <= 0.02 * derivative.abs() + noise,
            "`{}`, element {i}: {derivative} against {numeric}, step {step}",
            student.trainables[t].parameters[p].name()
        );
    }
}

fn spec(format: Format, rank: usize) -> Spec {
    let mut spec = Spec::of(format);
    spec.truncation = Some(Truncation::MaxRank(rank));
    spec
}

#[test]
fn gradients_of_the_mnist_student_equal_central_differences() {
    if let Some((teacher, data)) = shared("mnist-mlp", "mnist/train", 16) {
        check(&teacher, &data, spec(Format::Tt, 8), 0.1);
    }
}

#[test]
fn gradients_of_the_minilm_student_equal_central_differences() {
    if let Some((teacher, data)) = shared("minilm-l6", "stsb/calib", 4) {
        check(&teacher, &data, spec(Format::LowRank, 32), 0.5);
    }
}

#[test]
fn gradients_of_a_convolutional_student_equal_central_differences() {
    let scaled = |n: usize, seed, by: f32| -> Vec<f32> {
        sequence(n, seed).into_iter().map(|v| v * by).collect()
    };
    let stored = |name: &str, shape: &[usize], by: f32| {
        let n = shape.iter().product();
        tensor::from_f32(name, shape, &scaled(n, name.len() as u32, by))
    };
    let x = scaled(16 * 4 * 8 * 8, 5, 1.0);
    let window = |k: i64| vec![proto::ints_attribute("kernel_shape", &[k, k])];
    let graph = GraphProto {
        node: vec![
            proto::node("Conv", "a", &["x", "w", "b"], "c", window(3)),
            proto::node("Tanh", "d", &["c"], "e", Vec::new()),
            proto::node("AveragePool", "f", &["e"], "g", window(2)),
            proto::node("Conv", "h", &["g", "ww", "bb"], "i", window(3)),
            proto::node("Sigmoid", "j", &["i"], "k", Vec::new()),
            proto::node("GlobalAveragePool", "l", &["k"], "m", Vec::new()),
            proto::node("Flatten", "n", &["m"], "o", Vec::new()),
            proto::node("MatMul", "p", &["o", "www"], "y", Vec::new()),
        ],
        initializer: vec![
            stored("w", &[8, 4, 3, 3], 0.3),
            stored("b", &[8], 0.3),
            stored("ww", &[12, 8, 3, 3], 0.3),
            stored("bb", &[12], 0.3),
            stored("www", &[12, 6], 2.0),
        ],
        input: vec![proto::value_info(&tensor::from_f32(
            "x",
            &[16, 4, 8, 8],
            &x,
        ))],
        output: vec![proto::value_info(&stored("y", &[16, 6], 0.0))],
        ..GraphProto::default()
    };
    let mut model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        ..ModelProto::default()
    };
    model.opset_import = vec![proto::OperatorSetIdProto {
        domain: Some(String::new()),
        version: Some(17),
    }];
    let teacher = Model::from_proto(model).unwrap();
    let x = ndarray::ArrayD::from_shape_vec(vec![16, 4, 8, 8], x).unwrap();
    let data = Dataset::new(vec![("x".into(), NpyArray::F32(x))]).unwrap();
    check(&teacher, &data, spec(Format::LowRank, 3), 0.5);
}
