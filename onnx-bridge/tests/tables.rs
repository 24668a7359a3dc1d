//! Tables that rows are looked up in: every form and width runs in tract and agrees with the dense reconstruction.

#![cfg(feature = "tract")]

mod common;

use common::{floats, node, noise, proto, value};
use onnx_bridge::calibrate::row_importance;
use onnx_bridge::plan::{Candidate, Goal, MemoryStore, Session, compress_planned};
use onnx_bridge::proto::{DataType, ValueInfoProto, type_proto};
use onnx_bridge::{
    CoreGranularity, Dataset, Engine, Format, Growth, Job, MappingChoice, Model, Outcome,
    Quantization, RunsOn, SkipReason, Spec, Verdict, compress, dense_reference, inspect, verify,
};
use quant_core::Bits;
use tn_formats::npy::NpyArray;
use tn_formats::{Layout, Truncation};

const ROWS: usize = 70;
const COLUMNS: usize = 48;

/// Rows of a table by `ids [batch, positions]`, then a product.
fn model(tied: bool) -> Model {
    typed_model(tied, DataType::Int64)
}

fn typed_model(tied: bool, indices: DataType) -> Model {
    let initializer = vec![
        floats("table", &[ROWS, COLUMNS], |i| noise(1, i)),
        floats("w", &[COLUMNS, 12], |i| noise(2, i)),
    ];
    let mut nodes = vec![
        node("Gather", &["table", "ids"], "rows", vec![]),
        node("MatMul", &["rows", "w"], "y", vec![]),
    ];
    if tied {
        nodes.insert(1, node("Gather", &["table", "ids"], "again", vec![]));
        nodes[2].input[0] = "both".into();
        nodes.insert(2, node("Mul", &["rows", "again"], "both", vec![]));
    }
    let (ids, y) = (ids(&[0, 0], indices), value("y", &[0, 0, 12]));
    Model::from_proto(proto(13, initializer, nodes, ids, y)).unwrap()
}

/// An input of indices.
fn ids(shape: &[usize], indices: DataType) -> ValueInfoProto {
    let mut ids = value("ids", shape);
    if let Some(type_proto::Value::TensorType(t)) =
        ids.r#type.as_mut().and_then(|t| t.value.as_mut())
    {
        t.elem_type = Some(indices as i32);
    }
    ids
}

/// Twenty samples of six rows: the first ten rows often, the others hardly ever.
fn data() -> Dataset {
    let ids = ndarray::Array::from_shape_fn((20, 6), |(i, j)| {
        let k = (i * 7 + j * 3) as i64;
        if k % 11 == 0 { k % ROWS as i64 } else { k % 10 }
    });
    Dataset::new(vec![("ids".into(), NpyArray::I64(ids.into_dyn()))]).unwrap()
}

fn spec(format: Format, bits: u8, granularity: CoreGranularity) -> Spec {
    Spec {
        quantization: Quantization {
            bits: Bits::new(bits).unwrap(),
            mapping: MappingChoice::Symmetric,
            granularity,
        },
        truncation: Some(Truncation::MaxRank(9)),
        ..Spec::of(format)
    }
}

fn check(label: &str, model: &Model, spec: &Spec) -> f64 {
    let job = Job::new(Spec::keep())
        .with_weight("table", spec.clone())
        .with_growth(Growth::Allowed);
    let (rewritten, report) = compress(model, &job).unwrap();
    let Outcome::Rewritten(entry) = &report.weights[0].outcome else {
        panic!("{label}: {:?}", report.weights[0].outcome);
    };
    let bytes = rewritten.encode().unwrap();
    assert_eq!(Model::decode(bytes.clone()).unwrap(), rewritten, "{label}");
    let again = compress(model, &job).unwrap().0.encode().unwrap();
    assert_eq!(again, bytes, "{label}: a second run");
    let kept = |name: &str| {
        rewritten
            .graph()
            .initializer
            .iter()
            .any(|t| t.name() == name)
    };
    assert!(!kept("table"), "{label}");
    let reference = dense_reference(model, &report).unwrap();
    let found = verify(&reference, &rewritten, &data()).unwrap();
    assert!(found.relative_l2 < 1e-5, "{label}: {found:?}");
    entry.error
}

#[test]
fn rows_and_factors_in_every_width() {
    let block = CoreGranularity::Block(std::num::NonZeroUsize::new(16).unwrap());
    for tied in [false, true] {
        let model = model(tied);
        for format in [Format::Dense, Format::LowRank] {
            let mut errors = Vec::new();
            for bits in [2, 3, 4, 8] {
                for granularity in [CoreGranularity::Core, block] {
                    let label = format!("{} {bits} {granularity:?}", format.name());
                    errors.push(check(&label, &model, &spec(format, bits, granularity)));
                }
            }
            assert!(errors[0] > errors[6], "{errors:?}");
        }
    }
}

#[test]
fn a_table_says_what_it_cannot_become() {
    let model = model(false);
    let info = &inspect(&model).weights[0];
    let Verdict::CanBecome {
        formats, refused, ..
    } = &info.verdict
    else {
        panic!("{:?}", info.verdict);
    };
    assert_eq!(formats, &[Format::Tt, Format::LowRank, Format::Dense]);
    assert_eq!(refused.len(), 1);
    let affine = Spec {
        quantization: Quantization {
            mapping: MappingChoice::Affine,
            ..Quantization::default()
        },
        ..Spec::of(Format::Dense)
    };
    for spec in [Spec::of(Format::Tucker), affine] {
        let job = Job::new(Spec::keep()).with_weight("table", spec);
        let (_, report) = compress(&model, &job).unwrap();
        let outcome = &report.weights[0].outcome;
        assert!(
            matches!(outcome, Outcome::Skipped(SkipReason::Misfit { .. })),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_lookup_of_nothing_keeps_its_table() {
    let mut damaged = model(false).proto().clone();
    let nodes = &mut damaged.graph.as_mut().unwrap().node;
    let gather = nodes.iter_mut().find(|n| n.op_type() == "Gather").unwrap();
    gather.input.truncate(1);
    let damaged = Model::from_proto(damaged).unwrap();
    let (_, report) = compress(&damaged, &Job::new(Spec::of(Format::Dense))).unwrap();
    let table = report
        .weights
        .iter()
        .find(|w| w.weight.name == "table")
        .unwrap();
    let expected = SkipReason::NoOperand {
        op: "Gather".into(),
        operand: "indices".into(),
    };
    assert_eq!(table.outcome, Outcome::Skipped(expected));
}

#[test]
fn factors_are_nearest_where_rows_are_looked_up() {
    let (model, data) = (model(false), data());
    let counted = row_importance(&model, &data).unwrap();
    let (name, rows) = &counted[0];
    assert_eq!(
        (counted.len(), name.as_str(), rows.len()),
        (1, "table", ROWS)
    );
    assert!((rows.iter().sum::<f64>() - ROWS as f64).abs() < 1e-9);
    let least = rows.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(least, 0.5, "a row that no sample looks up");
    let loss = |job: &Job| {
        let (rewritten, _) = compress(&model, job).unwrap();
        verify(&model, &rewritten, &data).unwrap().relative_l2
    };
    let block = CoreGranularity::Block(std::num::NonZeroUsize::new(5).unwrap());
    let split = || train(Layout::Split, [&[8, 9], &[48]], Quantization::default());
    let low_rank = |granularity| spec(Format::LowRank, 8, granularity);
    let interleaved = |granularity| {
        let quantization = spec(Format::Tt, 8, granularity).quantization;
        train(Layout::Interleaved, [&[8, 9], &[6, 8]], quantization)
    };
    let specs = [
        low_rank(CoreGranularity::Core),
        interleaved(CoreGranularity::Core),
        interleaved(CoreGranularity::Axis),
        interleaved(block),
        split(),
    ];
    for spec in specs {
        let plain = Job::new(Spec::keep())
            .with_weight("table", spec.clone())
            .with_growth(Growth::Allowed);
        let weighted = plain.clone().with_importance("table", rows.clone());
        let (plain, weighted) = (loss(&plain), loss(&weighted));
        assert!(weighted < 0.7 * plain, "{spec:?}: {weighted} {plain}");
    }
}

#[test]
fn a_plan_is_nearest_where_rows_are_looked_up() {
    const ROWS: usize = 256;
    let table = floats("table", &[ROWS, COLUMNS], |i| noise(1, i));
    let nodes = vec![node("Gather", &["table", "ids"], "y", vec![])];
    let (ids, output) = (ids(&[0], DataType::Int64), value("y", &[0, COLUMNS]));
    let model = Model::from_proto(proto(13, vec![table], nodes, ids, output)).unwrap();
    let of = |rows: usize| {
        let ids = ndarray::Array::from_shape_fn(ROWS, |i| (i % rows) as i64);
        Dataset::new(vec![("ids".into(), NpyArray::I64(ids.into_dyn()))]).unwrap()
    };
    let losses = [of(10), of(ROWS)].map(|data| {
        let session = Session {
            data: &data,
            goal: Goal {
                bytes: Some(u64::MAX),
                ..Goal::default()
            },
            runs_on: RunsOn::Portable,
            allow: &|_, c| matches!(c, Candidate::LowRank { rank: 9, .. }),
            store: &MemoryStore::default(),
            progress: &|_, _, _| {},
        };
        let planned = compress_planned(&model, &session).unwrap();
        assert_eq!(planned.plan.weights[0].choice.format_name(), "low-rank");
        let losses = [of(10), of(ROWS)];
        losses.map(|data| verify(&model, &planned.model, &data).unwrap().relative_l2)
    });
    let [few, all] = losses;
    assert!(few[0] < 0.5 * all[0], "{losses:?}");
    assert!(few[1] < 1.2 * all[1], "{losses:?}");
}

/// A train of the table with these row and column modes.
fn train(layout: Layout, modes: [&[usize]; 2], quantization: Quantization) -> Spec {
    Spec {
        layout: Some(layout),
        modes: Some((modes[0].to_vec(), modes[1].to_vec())),
        truncation: Some(Truncation::MaxRank(9)),
        quantization,
        ..Spec::of(Format::Tt)
    }
}

#[test]
fn trains_in_every_layout_width_and_granularity() {
    let block = CoreGranularity::Block(std::num::NonZeroUsize::new(16).unwrap());
    let cuts: [(Layout, [&[usize]; 2]); 5] = [
        (Layout::Interleaved, [&[5, 7, 2], &[4, 4, 3]]),
        // 72 rows, of which two are padding.
        (Layout::Interleaved, [&[9, 8], &[8, 6]]),
        (Layout::Interleaved, [&[35, 2, 1], &[4, 4, 3]]),
        (Layout::Split, [&[10, 7], &[6, 8]]),
        (Layout::Split, [&[3, 5, 5], &[48]]),
    ];
    for tied in [false, true] {
        let model = model(tied);
        for (layout, modes) in cuts {
            let mut errors = Vec::new();
            for bits in [2, 3, 5, 8] {
                for granularity in [CoreGranularity::Core, CoreGranularity::Axis, block] {
                    for mapping in [MappingChoice::Symmetric, MappingChoice::Affine] {
                        let quantization = Quantization {
                            bits: Bits::new(bits).unwrap(),
                            mapping,
                            granularity,
                        };
                        let label = format!("{layout:?} {modes:?} {quantization:?}");
                        let spec = train(layout, modes, quantization);
                        errors.push(check(&label, &model, &spec));
                    }
                }
            }
            assert!(errors[0] > errors[18], "{errors:?}");
        }
    }
}

#[test]
fn modes_that_a_table_cannot_have_are_refused() {
    let model = model(false);
    let refused: [[&[usize]; 2]; 4] = [
        // Too few rows, a slice that is padding alone, other columns, as many numbers as the table itself.
        [&[6, 11], &[6, 8]],
        [&[10, 8], &[6, 8]],
        [&[10, 7], &[6, 7]],
        [&[70], &[48]],
    ];
    for modes in refused {
        let spec = train(Layout::Interleaved, modes, Quantization::default());
        let job = Job::new(Spec::keep())
            .with_weight("table", spec)
            .with_growth(Growth::Allowed);
        let (_, report) = compress(&model, &job).unwrap();
        let outcome = &report.weights[0].outcome;
        assert!(
            matches!(outcome, Outcome::Skipped(SkipReason::Misfit { .. })),
            "{modes:?}: {outcome:?}"
        );
    }
}

/// The rows that a model gives for these indices `[n, 1]`.
fn looked_up(model: &Model, ids: NpyArray) -> Vec<f32> {
    let found = Engine::load(model).unwrap().run(&[ids]).unwrap();
    let NpyArray::F32(rows) = &found[0] else {
        panic!("expected floats, found {found:?}");
    };
    rows.iter().copied().collect()
}

#[test]
fn indices_count_from_either_end_in_both_types_and_stop_at_the_table() {
    let modes: [&[usize]; 2] = [&[9, 8], &[8, 6]];
    let spec = train(Layout::Interleaved, modes, Quantization::default());
    let job = Job::new(Spec::keep())
        .with_weight("table", spec)
        .with_growth(Growth::Allowed);
    let wide = |ids: &[i64]| {
        let ids = ndarray::Array::from_shape_vec((ids.len(), 1), ids.to_vec()).unwrap();
        NpyArray::I64(ids.into_dyn())
    };
    let narrow = |ids: &[i64]| {
        let ids = ids.iter().map(|&i| i as i32).collect();
        let ids: ndarray::Array2<i32> = ndarray::Array::from_shape_vec((4, 1), ids).unwrap();
        NpyArray::I32(ids.into_dyn())
    };
    let rows = ROWS as i64;
    for (kind, element) in [(0, DataType::Int64), (1, DataType::Int32)] {
        let (rewritten, _) = compress(&typed_model(false, element), &job).unwrap();
        let given = |ids: &[i64]| if kind == 0 { wide(ids) } else { narrow(ids) };
        let front = looked_up(&rewritten, given(&[0, 1, 33, rows - 1]));
        let back = looked_up(&rewritten, given(&[-rows, 1 - rows, 33 - rows, -1]));
        assert_eq!(front, back);
    }
    // tract's Gather does not return an error for an index outside: it panics, with a table and with a train alike.
    let original = model(false);
    let (rewritten, _) = compress(&original, &job).unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let stops = |model: &Model, id: i64| {
        let engine = Engine::load(model).unwrap();
        let run = || engine.run(&[wide(&[id])]).is_err();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(true)
    };
    // Rows 70 and 71 are padding. tract wraps indices that need more than 32 bits in the comparisons of a train.
    let outside = [rows, rows + 1, rows + 2, -rows - 1, 1 << 30, -(1 << 30)];
    let stopped = outside.map(|id| (stops(&original, id), stops(&rewritten, id)));
    std::panic::set_hook(hook);
    assert_eq!(stopped, [(true, true); 6]);
}
