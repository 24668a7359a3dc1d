//! Fine-tuning end to end: interpretation, recognition of what emission stored, exact export, resuming.

#![cfg(feature = "finetune")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod common;

use std::fs::File;
use std::ops::ControlFlow;

use common::{floats, int, ints, node, noise, proto, value};
use ndarray::{ArrayD, IxDyn};
use onnx_bridge::finetune::{
    Checkpoint, Ending, FinetuneConfig, Length, Observer, Silent, Start, Started, StepReport,
    Train, finetune, interpret, missing_operators,
};
use onnx_bridge::proto::{AttributeProto, DataType, type_proto};
use onnx_bridge::{
    CoreGranularity, Dataset, Error, Format, Growth, Job, Model, Spec, Stored, compress,
    stored_arrays,
};
use quant_core::{Bits, QuantizedTensor};
use tn_formats::Truncation;
use tn_formats::npy::NpyArray;

/// A classifier of 24 inputs, a hidden layer of 32 and 5 classes.
fn teacher() -> Model {
    let nodes = vec![
        node("Gemm", &["x", "w1", "b1"], "h", vec![int("transB", 1)]),
        node("Relu", &["h"], "r", vec![]),
        node("MatMul", &["r", "w2"], "m", vec![]),
        node("Add", &["m", "b2"], "y", vec![]),
    ];
    let initializers = vec![
        floats("w1", &[32, 24], |i| 0.4 * noise(1, i)),
        floats("b1", &[32], |i| 0.1 * noise(2, i)),
        floats("w2", &[32, 5], |i| 0.6 * noise(3, i)),
        floats("b2", &[5], |i| 0.1 * noise(4, i)),
    ];
    let (x, y) = (value("x", &[0, 24]), value("y", &[0, 5]));
    Model::from_proto(proto(17, initializers, nodes, x, y)).unwrap()
}

fn data(samples: usize) -> Dataset {
    let x: Vec<f32> = (0..samples * 24).map(|i| noise(9, i)).collect();
    let x = ArrayD::from_shape_vec(IxDyn(&[samples, 24]), x).unwrap();
    Dataset::new(vec![("x".into(), NpyArray::F32(x))]).unwrap()
}

fn spec(format: Format, bits: u8, granularity: CoreGranularity) -> Spec {
    let mut spec = Spec::of(format);
    spec.truncation = Some(Truncation::MaxRank(6));
    spec.quantization.bits = Bits::new(bits).unwrap();
    spec.quantization.granularity = granularity;
    spec
}

fn student(format: Format, bits: u8, granularity: CoreGranularity) -> Model {
    compress(
        &teacher(),
        &Job::new(spec(format, bits, granularity)).with_growth(Growth::Allowed),
    )
    .unwrap()
    .0
}

fn output(model: &Model, data: &Dataset) -> Vec<f32> {
    output_of(interpret(model, data).unwrap().remove(0).1)
}

fn output_of(array: NpyArray) -> Vec<f32> {
    match array {
        NpyArray::F32(a) => a.iter().copied().collect(),
        other => panic!("expected floats, found {}", other.dtype()),
    }
}

fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max)
}

fn config(steps: u64) -> FinetuneConfig {
    FinetuneConfig {
        length: Length::Steps(steps),
        batch: Some(32),
        evaluations: 4,
        ..Default::default()
    }
}

#[test]
fn arrays_are_recognised_in_every_form_and_rewritten_bit_for_bit() {
    for format in [Format::Tt, Format::LowRank, Format::Tucker, Format::Dense] {
        for bits in 2..=8 {
            let granularities = [
                CoreGranularity::Core,
                CoreGranularity::Axis,
                CoreGranularity::Block(8.try_into().unwrap()),
            ];
            for granularity in granularities {
                let student = student(format, bits, granularity);
                let arrays = stored_arrays(student.graph());
                let least = if format == Format::Dense { 2 } else { 4 };
                assert!(
                    arrays.len() >= least,
                    "{format:?} {bits} {granularity:?}: {} arrays",
                    arrays.len()
                );
                let mut proto = student.proto().clone();
                let graph = proto.graph.as_mut().unwrap();
                for array in &arrays {
                    assert_eq!(array.tensor().scheme().bits().get(), bits);
                    // The same codes give the same bytes.
                    assert_eq!(array.store(graph, array.tensor()), Stored::Written);
                }
                assert!(
                    proto == *student.proto(),
                    "{format:?} {bits} {granularity:?}: stored differently"
                );
                // Other codes are read back.
                let graph = proto.graph.as_mut().unwrap();
                let turned: Vec<QuantizedTensor> =
                    arrays.iter().map(|a| turn(a.tensor())).collect();
                for (array, tensor) in arrays.iter().zip(&turned) {
                    assert_eq!(array.store(graph, tensor), Stored::Written);
                }
                for (array, tensor) in stored_arrays(graph).iter().zip(&turned) {
                    assert_eq!(
                        array.tensor().codes(),
                        tensor.codes(),
                        "{format:?} {bits} {granularity:?}"
                    );
                }
            }
        }
    }
}

fn turn(tensor: &QuantizedTensor) -> QuantizedTensor {
    let codes: Vec<i32> = tensor.codes().iter().map(|c| -1 - c).collect();
    let codes = codes
        .iter()
        .map(|&c| c.clamp(tensor.scheme().min_code(), tensor.scheme().max_code()))
        .collect::<Vec<_>>();
    QuantizedTensor::from_codes(tensor.shape(), tensor.params().clone(), &codes).unwrap()
}

#[test]
fn training_brings_a_student_to_its_teacher_and_exports_what_it_measured() {
    let (teacher, data) = (teacher(), data(512));
    for format in [Format::Tt, Format::LowRank, Format::Tucker, Format::Dense] {
        let student = student(format, 4, CoreGranularity::Core);
        let outcome = finetune(
            &teacher,
            &student,
            &data,
            &config(300),
            &Start::default(),
            &mut Silent,
        )
        .unwrap();
        assert!(
            outcome.best_loss < 0.7 * outcome.first_loss,
            "{format:?}: {} -> {}",
            outcome.first_loss,
            outcome.best_loss
        );
        // What is in the file has the loss that was measured: the run starts from it at the same loss.
        let again = finetune(
            &teacher,
            &outcome.model,
            &data,
            &config(1),
            &Start::default(),
            &mut Silent,
        )
        .unwrap();
        assert!(
            (again.first_loss - outcome.best_loss).abs() <= 1e-4 * outcome.best_loss,
            "{format:?}"
        );
        let wanted = output(&teacher, &data);
        let error = |model: &Model| -> f32 {
            let found = output(model, &data);
            found
                .iter()
                .zip(&wanted)
                .map(|(x, y)| (x - y).powi(2))
                .sum()
        };
        assert!(error(&outcome.model) < error(&student), "{format:?}");
    }
}

#[cfg(feature = "tract")]
#[test]
fn the_interpreter_agrees_with_tract() {
    let data = data(8);
    for format in [Format::Tt, Format::LowRank, Format::Tucker, Format::Dense] {
        let student = student(format, 4, CoreGranularity::Axis);
        let engine = onnx_bridge::Engine::load(&student).unwrap();
        let NpyArray::F32(theirs) = engine.run_all(&data).unwrap().remove(0).1 else {
            panic!("floats")
        };
        let theirs: Vec<f32> = theirs.iter().copied().collect();
        assert!(gap(&output(&student, &data), &theirs) < 1e-5, "{format:?}");
    }
}

/// Rows of a table by `ids`, then a product.
fn lookup_teacher() -> Model {
    let nodes = vec![
        node("Gather", &["table", "ids"], "rows", vec![]),
        node("Tanh", &["rows"], "t", vec![]),
        node("MatMul", &["t", "w"], "y", vec![]),
    ];
    let initializers = vec![
        floats("table", &[100, 24], |i| noise(5, i)),
        floats("w", &[24, 5], |i| 0.6 * noise(3, i)),
    ];
    let mut ids = value("ids", &[0, 3]);
    if let Some(type_proto::Value::TensorType(t)) =
        ids.r#type.as_mut().and_then(|t| t.value.as_mut())
    {
        t.elem_type = Some(DataType::Int64 as i32);
    }
    Model::from_proto(proto(17, initializers, nodes, ids, value("y", &[0, 3, 5]))).unwrap()
}

#[test]
fn a_table_that_is_a_train_is_trained() {
    let teacher = lookup_teacher();
    let ids = (0..512 * 3).map(|i| (i * 37 % 211 % 100) as i64 - 50);
    let ids = ArrayD::from_shape_vec(IxDyn(&[512, 3]), ids.collect()).unwrap();
    let data = Dataset::new(vec![("ids".into(), NpyArray::I64(ids))]).unwrap();
    let table = Spec {
        modes: Some((vec![9, 3, 4], vec![2, 3, 4])),
        truncation: Some(Truncation::MaxRank(10)),
        ..Spec::of(Format::Tt)
    };
    let job = Job::new(Spec::keep())
        .with_growth(Growth::Allowed)
        .with_weight("table", table);
    let (student, _) = compress(&teacher, &job.with_bits(Bits::B4)).unwrap();
    assert_eq!(stored_arrays(student.graph()).len(), 3);
    let config = config(300);
    let outcome = finetune(
        &teacher,
        &student,
        &data,
        &config,
        &Start::default(),
        &mut Silent,
    )
    .unwrap();
    assert!(
        outcome.best_loss < 0.7 * outcome.first_loss,
        "{} -> {}",
        outcome.first_loss,
        outcome.best_loss
    );
}

#[cfg(feature = "tract")]
#[test]
fn transposed_convolutions_are_those_of_tract() {
    let check =
        |label: &str, image: &[usize], kernel: &[usize], attributes: Vec<AttributeProto>| {
            let channels = attributes
                .iter()
                .find(|a| a.name() == "group")
                .map_or(1, AttributeProto::i) as usize
                * kernel[1];
            let weights = vec![
                floats("w", kernel, |i| noise(1, i)),
                floats("b", &[channels], |i| noise(2, i)),
            ];
            let nodes = vec![node("ConvTranspose", &["x", "w", "b"], "y", attributes)];
            let dims = [&[0, 4], image].concat();
            let output = vec![0; dims.len()];
            let (x, y) = (value("x", &dims), value("y", &output));
            let model = Model::from_proto(proto(17, weights, nodes, x, y)).unwrap();
            let shape = [&[3, 4], image].concat();
            let x: Vec<f32> = (0..shape.iter().product()).map(|i| noise(3, i)).collect();
            let x = ArrayD::from_shape_vec(IxDyn(&shape), x).unwrap();
            let data = Dataset::new(vec![("x".into(), NpyArray::F32(x))]).unwrap();
            let engine = onnx_bridge::Engine::load(&model).unwrap();
            let NpyArray::F32(theirs) = engine.run_all(&data).unwrap().remove(0).1 else {
                panic!("floats")
            };
            let (_, ours) = interpret(&model, &data).unwrap().remove(0);
            assert_eq!(ours.shape(), theirs.shape(), "{label}");
            let theirs: Vec<f32> = theirs.iter().copied().collect();
            assert!(gap(&output_of(ours), &theirs) < 1e-5, "{label}");
        };
    let text = |name: &str, value: &str| AttributeProto {
        s: Some(value.as_bytes().to_vec()),
        // STRING.
        r#type: Some(3),
        ..ints(name, &[])
    };
    check("one axis", &[6], &[4, 5, 3], vec![ints("strides", &[2])]);
    check("plain", &[5, 4], &[4, 5, 3, 2], vec![]);
    let all = vec![
        ints("strides", &[2, 3]),
        ints("pads", &[1, 0, 2, 1]),
        ints("output_padding", &[1, 2]),
    ];
    check("strides, pads and more", &[5, 4], &[4, 5, 3, 3], all);
    check(
        "dilations",
        &[5, 4],
        &[4, 5, 3, 2],
        vec![ints("dilations", &[2, 3])],
    );
    let grouped = vec![int("group", 2), ints("strides", &[2, 2])];
    check("groups", &[5, 4], &[4, 3, 2, 2], grouped);
    for same in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
        let attributes = vec![text("auto_pad", same), ints("strides", &[2, 2])];
        check(same, &[5, 4], &[4, 5, 3, 3], attributes);
    }
}

/// Stops after some steps and keeps the last checkpoint.
struct StopAfter(u64, Option<Vec<u8>>);

impl Observer for StopAfter {
    fn step(&mut self, report: &StepReport) -> ControlFlow<()> {
        if report.step == self.0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn checkpoint(&mut self, state: &dyn Fn() -> Checkpoint) {
        self.1 = Some(state().encode().unwrap());
    }
}

#[test]
fn a_run_that_was_stopped_and_resumed_ends_in_the_same_bytes() {
    let (teacher, data) = (teacher(), data(256));
    let student = student(Format::Tt, 4, CoreGranularity::Core);
    let config = config(60);
    let whole = finetune(
        &teacher,
        &student,
        &data,
        &config,
        &Start::default(),
        &mut Silent,
    )
    .unwrap();
    assert_eq!(whole.ending, Ending::Finished);
    // In the float phase, at its end, and among the learned steps.
    for stop in [7, 24, 41] {
        let mut observer = StopAfter(stop, None);
        let part = finetune(
            &teacher,
            &student,
            &data,
            &config,
            &Start::default(),
            &mut observer,
        )
        .unwrap();
        assert_eq!((part.ending, part.steps), (Ending::Stopped, stop));
        let checkpoint = Checkpoint::decode(&observer.1.unwrap()).unwrap();
        let start = Start {
            resume: Some(&checkpoint),
            warm: None,
        };
        let resumed = finetune(&teacher, &student, &data, &config, &start, &mut Silent).unwrap();
        assert!(
            resumed.model.encode().unwrap() == whole.model.encode().unwrap(),
            "stopped at {stop}"
        );
    }
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let (teacher, data) = (teacher(), data(64));
    let student = student(Format::Tt, 4, CoreGranularity::Core);
    let mut observer = StopAfter(3, None);
    finetune(
        &teacher,
        &student,
        &data,
        &config(60),
        &Start::default(),
        &mut observer,
    )
    .unwrap();
    let checkpoint = Checkpoint::decode(&observer.1.unwrap()).unwrap();
    let start = Start {
        resume: Some(&checkpoint),
        warm: None,
    };
    let refused = finetune(&teacher, &student, &data, &config(61), &start, &mut Silent);
    assert!(matches!(refused, Err(Error::Checkpoint { .. })));
    assert!(matches!(
        Checkpoint::decode(b"{}"),
        Err(Error::Checkpoint { .. })
    ));
}

#[test]
fn lacking_operators_are_named_before_any_work() {
    let mut proto = teacher().proto().clone();
    proto.graph.as_mut().unwrap().node[1].op_type = Some("ThresholdedRelu".into());
    let odd = Model::from_proto(proto).unwrap();
    assert_eq!(missing_operators(&odd), ["ThresholdedRelu"]);
    let (student, _) = compress(
        &odd,
        &Job::new(spec(Format::Tt, 4, CoreGranularity::Core)).with_growth(Growth::Allowed),
    )
    .unwrap();
    let refused = finetune(
        &odd,
        &student,
        &data(64),
        &config(10),
        &Start::default(),
        &mut Silent,
    );
    match refused {
        Err(Error::MissingOperators { operators }) => assert_eq!(operators, ["ThresholdedRelu"]),
        other => panic!("expected missing operators, found {other:?}"),
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let (teacher, data) = (teacher(), data(64));
    let student = student(Format::Tt, 4, CoreGranularity::Core);
    let bad = FinetuneConfig {
        learning_rate: Some(-1.0),
        ..config(10)
    };
    let error = finetune(
        &teacher,
        &student,
        &data,
        &bad,
        &Start::default(),
        &mut Silent,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "learning rate: expected a number above 0, found -1"
    );
    let plain = finetune(
        &teacher,
        &teacher,
        &data,
        &config(10),
        &Start::default(),
        &mut Silent,
    )
    .unwrap_err();
    assert!(
        plain.to_string().contains("expected a compressed model"),
        "{plain}"
    );
}

/// Constants, zeros and a single sample train to a finite loss that is no worse than at the start; what is no number is an error.
#[test]
fn data_that_trips_training_has_a_result() {
    let (teacher, student) = (teacher(), student(Format::Tt, 4, CoreGranularity::Core));
    let samples = |samples: usize, value_at: &dyn Fn(usize) -> f32| {
        let x = (0..samples * 24).map(value_at).collect();
        let x = ArrayD::from_shape_vec(IxDyn(&[samples, 24]), x).unwrap();
        Dataset::new(vec![("x".into(), NpyArray::F32(x))]).unwrap()
    };
    let train = |data: &Dataset| {
        let start = Start::default();
        finetune(&teacher, &student, data, &config(20), &start, &mut Silent)
    };
    for (label, data) in [
        ("zeros", samples(64, &|_| 0.0)),
        ("constant", samples(64, &|_| 0.5)),
        ("one sample", samples(1, &|i| noise(9, i))),
        ("two samples", samples(2, &|i| noise(9, i))),
        ("denormals", samples(64, &|i| 1e-41 * noise(9, i))),
        ("large", samples(64, &|i| 1e15 * noise(9, i))),
    ] {
        let outcome = train(&data).unwrap_or_else(|error| panic!("{label}: {error}"));
        assert!(outcome.best_loss.is_finite(), "{label}");
        assert!(outcome.best_loss <= outcome.first_loss, "{label}");
        let outputs = output(&outcome.model, &data);
        assert!(outputs.iter().all(|v| v.is_finite()), "{label}");
    }
    for odd in [f32::NAN, f32::INFINITY] {
        let data = samples(64, &|i| if i % 50 == 7 { odd } else { noise(9, i) });
        let error = train(&data).unwrap_err().to_string();
        assert!(error.contains("finite"), "{odd}: {error}");
    }
}

#[test]
fn a_batch_in_parts_has_the_gradients_of_the_whole() {
    let (teacher, data) = (teacher(), data(256));
    let student = student(Format::Tt, 4, CoreGranularity::Core);
    // Of the divergence of logits, a mean over samples, the parts add up to the whole.
    let run = |accumulate| {
        let config = FinetuneConfig {
            accumulate,
            hidden_weight: Some(0.0),
            ..config(10)
        };
        let start = Start::default();
        finetune(&teacher, &student, &data, &config, &start, &mut Silent).unwrap()
    };
    let (whole, parts) = (run(1), run(5));
    for (a, b) in whole.curve.iter().zip(&parts.curve) {
        assert!((a.loss - b.loss).abs() < 1e-3 * a.loss, "{a:?} {b:?}");
    }
    assert!(whole.best_loss < whole.first_loss);
}

/// What a run says that it trains.
struct Counts(usize);

impl Observer for Counts {
    fn started(&mut self, report: &Started) {
        self.0 = report.floats;
    }
}

#[test]
fn what_is_trained_grows_from_cores_to_everything() {
    let nodes = vec![
        node("MatMul", &["x", "w1"], "m", vec![]),
        node("Add", &["m", "b1"], "h", vec![]),
        node("LayerNormalization", &["h", "scale", "offset"], "n", vec![]),
        node("Mul", &["n", "gate"], "g", vec![]),
        node("MatMul", &["g", "w2"], "y", vec![]),
    ];
    let initializers = vec![
        floats("w1", &[24, 32], |i| 0.4 * noise(1, i)),
        floats("b1", &[32], |i| 0.1 * noise(2, i)),
        floats("scale", &[32], |i| 1.0 + 0.1 * noise(3, i)),
        floats("offset", &[32], |i| 0.1 * noise(4, i)),
        floats("gate", &[32], |i| 1.0 + 0.1 * noise(5, i)),
        floats("w2", &[32, 5], |i| 0.6 * noise(6, i)),
    ];
    let (x, y) = (value("x", &[0, 24]), value("y", &[0, 5]));
    let teacher = Model::from_proto(proto(17, initializers, nodes, x, y)).unwrap();
    let job = Job::new(spec(Format::LowRank, 4, CoreGranularity::Core));
    let student = compress(&teacher, &job.with_weight("w2", Spec::keep()))
        .unwrap()
        .0;
    for (train, expected) in [
        (Train::Cores, 32),
        (Train::Norms, 32 + 64),
        (Train::All, 32 + 64 + 32 + 160),
    ] {
        let config = FinetuneConfig { train, ..config(2) };
        let mut counts = Counts(0);
        let start = Start::default();
        finetune(&teacher, &student, &data(64), &config, &start, &mut counts).unwrap();
        assert_eq!(counts.0, expected, "{train:?}");
    }
}

/// Models beside the workspace against tract.
#[cfg(feature = "tract")]
#[test]
fn the_shared_models_are_interpreted_exactly() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    for (name, arrays, samples) in [
        ("mnist-mlp", "mnist/dev", 16),
        ("minilm-l6", "stsb/calib", 4),
    ] {
        let (Ok(bytes), Ok(file)) = (
            std::fs::read(format!("{root}/models/{name}.onnx")),
            File::open(format!("{root}/data/{arrays}.npz")),
        ) else {
            eprintln!("skipped: {root} lacks {name}");
            continue;
        };
        let model = Model::decode(bytes).unwrap();
        let data = Dataset::from_npz(file).unwrap().head(samples);
        let engine = onnx_bridge::Engine::load(&model).unwrap();
        let NpyArray::F32(theirs) = engine.run_all(&data).unwrap().remove(0).1 else {
            panic!("floats")
        };
        let theirs: Vec<f32> = theirs.iter().copied().collect();
        let largest = gap(&output(&model, &data), &theirs);
        assert!(largest < 2e-5, "{name}: {largest}");
    }
}
