//! Weights and data that trip numerics: each has a result that is written down here.
//!
//! | weight or data | result |
//! |---|---|
//! | a NaN or an infinity among the weights | it stays, with the place of the first one |
//! | all zeros | rewritten, error 0, outputs 0 |
//! | denormals | rewritten; outputs finite |
//! | entries near the largest float | rewritten or kept with a reason; what is written is finite |
//! | rank deficient (rank 1) | rewritten, within the standard truncation of 0.1 |
//! | `1 x n`, `n x 1` | rewritten where that is smaller, else kept with a reason |
//! | one large entry, the others tiny | rewritten; the error is that of the large entry |
//! | a side of length 0 | it stays, with a reason |
//! | constant activations, activations of zeros, one calibration sample | a plan, verified, with a finite loss |
//! | no calibration sample | refused where the data is read |
//!
//! The same for matrices, kernels of convolutions and tables.

#![cfg(feature = "tract")]

mod common;

use common::{floats, gemm, int, node, noise, proto, value};
use ndarray::ArrayD;
use onnx_bridge::plan::{Goal, MemoryStore, Session, compress_planned};
use onnx_bridge::{Dataset, Engine, Format, Job, Model, Outcome, Spec, compress};
use tn_formats::npy::NpyArray;

type Values<'a> = &'a dyn Fn(usize) -> f32;
type Maker = fn(usize, usize, Values<'_>) -> Model;

/// `y = x W`, `W [n, m]`.
fn model(n: usize, m: usize, value_at: Values<'_>) -> Model {
    let nodes = vec![node("MatMul", &["x", "w"], "y", vec![])];
    let weight = floats("w", &[n, m], value_at);
    let (x, y) = (value("x", &[0, n]), value("y", &[0, m]));
    Model::from_proto(proto(17, vec![weight], nodes, x, y)).unwrap()
}

/// Images of n channels and 5 x 5 pixels, a kernel `[m, n, 3, 3]`.
fn convolution(n: usize, m: usize, value_at: Values<'_>) -> Model {
    let nodes = vec![node("Conv", &["x", "w"], "y", vec![])];
    let weight = floats("w", &[m, n, 3, 3], value_at);
    let (x, y) = (value("x", &[0, n, 5, 5]), value("y", &[0, m, 3, 3]));
    Model::from_proto(proto(17, vec![weight], nodes, x, y)).unwrap()
}

/// Rows of a table `[n, m]` where `x` points.
fn lookup(n: usize, m: usize, value_at: Values<'_>) -> Model {
    let nodes = vec![
        node("Cast", &["x"], "at", vec![int("to", 7)]),
        node("Gather", &["w", "at"], "y", vec![]),
    ];
    let weight = floats("w", &[n, m], value_at);
    let (x, y) = (value("x", &[0]), value("y", &[0, m]));
    Model::from_proto(proto(17, vec![weight], nodes, x, y)).unwrap()
}

fn input(rows: usize, cols: usize, value_at: impl Fn(usize) -> f32) -> Dataset {
    samples(&[rows, cols], value_at)
}

fn samples(shape: &[usize], value_at: impl Fn(usize) -> f32) -> Dataset {
    let values = (0..shape.iter().product()).map(value_at).collect();
    let array = ArrayD::from_shape_vec(shape, values).unwrap();
    Dataset::new(vec![("x".into(), NpyArray::F32(array))]).unwrap()
}

fn run(model: &Model, data: &Dataset) -> Vec<f32> {
    let engine = Engine::load(model).unwrap();
    let outputs = engine.run_samples(data, 0..data.len()).unwrap();
    outputs[0].to_f32().iter().copied().collect()
}

/// Every format on one weight: what is rewritten has a finite error that `most` bounds, and finite outputs.
fn check(
    label: &str,
    n: usize,
    m: usize,
    value_at: impl Fn(usize) -> f32 + Copy,
    most: f64,
) -> usize {
    // Small enough that no sum of the original is beyond the largest float.
    let data = input(3, n, |i| 1e-3 * noise(9, i));
    check_model(label, &model(n, m, &value_at), &data, most)
}

fn check_model(label: &str, model: &Model, data: &Dataset, most: f64) -> usize {
    let specs = Format::ALL
        .map(Spec::of)
        .into_iter()
        .chain([Spec::default()]);
    let mut rewritten = 0;
    for spec in specs {
        let format = spec.format;
        let (written, report) = compress(model, &Job::new(spec)).unwrap();
        match &report.weights[0].outcome {
            Outcome::Rewritten(r) => {
                rewritten += 1;
                assert!(
                    r.error.is_finite() && r.error <= most,
                    "{label} {format:?}: error {}",
                    r.error
                );
                let outputs = run(&written, data);
                assert!(outputs.iter().all(|v| v.is_finite()), "{label} {format:?}");
            }
            Outcome::Skipped(reason) => {
                assert!(!reason.to_string().is_empty(), "{label} {format:?}")
            }
        }
        assert!(
            Model::decode(written.encode().unwrap()).is_ok(),
            "{label} {format:?}"
        );
    }
    rewritten
}

#[test]
fn weights_that_are_no_numbers_stay_with_their_place() {
    let makers: [Maker; 3] = [model, convolution, lookup];
    for (odd, make) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .flat_map(|odd| makers.map(|make| (odd, make)))
    {
        let model = make(64, 48, &|i| if i == 77 { odd } else { noise(1, i) });
        for spec in Format::ALL
            .map(Spec::of)
            .into_iter()
            .chain([Spec::default()])
        {
            let (written, report) = compress(&model, &Job::new(spec)).unwrap();
            let (_, reason) = report.skipped().next().unwrap();
            let reason = reason.to_string();
            assert!(
                reason.contains("found NaN or infinity at"),
                "{odd}: {reason}"
            );
            assert_eq!(written.encode().unwrap(), model.encode().unwrap(), "{odd}");
        }
    }
}

#[test]
fn weights_that_trip_numerics_are_rewritten_or_kept_with_a_reason() {
    assert!(check("zeros", 64, 48, |_| 0.0, 0.0) >= 4);
    assert!(check("denormals", 64, 48, |i| 1e-41 * noise(2, i), 1.5) >= 1);
    check("huge", 64, 48, |i| 3e38 * noise(3, i), 1.5);
    let rank_one = |i: usize| noise(4, i / 48) * noise(5, i % 48);
    assert!(check("rank one", 64, 48, rank_one, 0.12) >= 1);
    assert!(check("constant", 64, 48, |_| 0.125, 0.12) >= 1);
    check("one row", 1, 4096, |i| noise(6, i), 1.0);
    check("one column", 4096, 1, |i| noise(6, i), 1.0);
    let spike = |i: usize| if i == 5 { 1e6 } else { 1e-3 * noise(7, i) };
    assert!(check("one large entry", 64, 48, spike, 0.12) >= 1);
}

#[test]
fn kernels_and_tables_that_trip_numerics_are_rewritten_or_kept_with_a_reason() {
    let images = samples(&[2, 24, 5, 5], |i| 1e-3 * noise(9, i));
    let rows = samples(&[5], |i| i as f32);
    let cases: [(&str, Values, f64); 6] = [
        ("zeros", &|_| 0.0, 0.0),
        ("constant", &|_| 0.125, 0.12),
        ("denormals", &|i| 1e-41 * noise(2, i), 1.5),
        ("huge", &|i| 3e38 * noise(3, i), 1.5),
        ("rank one", &|i| noise(4, i / 48) * noise(5, i % 48), 1.0),
        (
            "one large entry",
            &|i| if i == 5 { 1e6 } else { 1e-3 * noise(7, i) },
            0.12,
        ),
    ];
    for (label, value_at, most) in cases {
        let kernel = convolution(24, 48, value_at);
        assert!(
            check_model(label, &kernel, &images, most) >= 1,
            "kernel: {label}"
        );
        assert!(
            check_model(label, &lookup(96, 48, value_at), &rows, most) >= 1,
            "table: {label}"
        );
    }
}

#[test]
fn weights_without_elements_stay_with_a_reason() {
    for make in [model as Maker, convolution, lookup] {
        for [n, m] in [[0, 48], [64, 0], [0, 0]] {
            let model = make(n, m, &|_| 0.0);
            for spec in Format::ALL
                .map(Spec::of)
                .into_iter()
                .chain([Spec::default()])
            {
                let (written, report) = compress(&model, &Job::new(spec)).unwrap();
                assert!(
                    report
                        .weights
                        .iter()
                        .all(|w| matches!(w.outcome, Outcome::Skipped(_))),
                    "{n} x {m}: {:?}",
                    report.weights
                );
                assert_eq!(written.encode().unwrap(), model.encode().unwrap());
            }
        }
    }
}

#[test]
fn no_samples_are_refused() {
    let empty = ArrayD::from_shape_vec(vec![0, 96], vec![]).unwrap();
    let error = Dataset::new(vec![("x".into(), NpyArray::F32(empty))]).unwrap_err();
    assert!(
        error.to_string().contains("one sample, found none"),
        "{error}"
    );
}

#[test]
fn zeros_stay_zeros() {
    let model = model(64, 48, &|_| 0.0);
    for format in Format::ALL {
        let (written, _) = compress(&model, &Job::new(Spec::of(format))).unwrap();
        let outputs = run(&written, &input(2, 64, |i| noise(1, i)));
        assert!(outputs.iter().all(|v| *v == 0.0), "{format:?}");
    }
}

#[test]
fn data_that_trips_numerics_makes_a_plan() {
    let model = gemm(96, 64, vec![]);
    let goals = [
        Goal::default(),
        Goal {
            bytes: Some(model.encoded_len() / 4),
            ..Goal::default()
        },
    ];
    let cases: [(&str, Dataset); 5] = [
        ("constant", input(16, 96, |_| 0.5)),
        ("zeros", input(16, 96, |_| 0.0)),
        ("one sample", input(1, 96, |i| noise(8, i))),
        (
            "one position",
            input(16, 96, |i| if i % 96 == 3 { 1.0 } else { 0.0 }),
        ),
        ("large", input(16, 96, |i| 1e15 * noise(8, i))),
    ];
    for (label, data) in &cases {
        for goal in goals {
            let session = Session {
                data,
                goal,
                runs_on: onnx_bridge::RunsOn::Portable,
                allow: &|_, _| true,
                store: &MemoryStore::default(),
                progress: &|_, _, _| {},
            };
            let planned =
                compress_planned(&model, &session).unwrap_or_else(|e| panic!("{label}: {e}"));
            let loss = planned.verification.relative_l2;
            assert!(loss.is_finite(), "{label}: {loss}");
            assert!(planned.errors.iter().all(|e| e.is_finite()), "{label}");
            assert!(planned.plan.predicted_loss.is_finite(), "{label}");
            let outputs = run(&planned.model, data);
            assert!(outputs.iter().all(|v| v.is_finite()), "{label}");
        }
    }
}

#[test]
fn data_that_is_no_number_is_refused_or_gives_a_result_that_says_so() {
    let model = gemm(96, 64, vec![]);
    for odd in [f32::NAN, f32::INFINITY] {
        let data = input(4, 96, |i| if i == 7 { odd } else { noise(8, i) });
        let session = Session {
            data: &data,
            goal: Goal::default(),
            runs_on: onnx_bridge::RunsOn::Portable,
            allow: &|_, _| true,
            store: &MemoryStore::default(),
            progress: &|_, _, _| {},
        };
        let error = compress_planned(&model, &session).unwrap_err().to_string();
        assert!(error.contains("finite"), "{error}");
    }
}
