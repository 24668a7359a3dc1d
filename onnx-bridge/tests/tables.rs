//! Tables that rows are looked up in: every form and width runs in tract and agrees with the dense reconstruction.

#![cfg(feature = "tract")]

mod common;

use common::{floats, node, noise, proto, value};
use onnx_bridge::calibrate::row_importance;
use onnx_bridge::proto::{DataType, type_proto};
use onnx_bridge::{
    CoreGranularity, Dataset, Format, Growth, Job, MappingChoice, Model, Outcome, Quantization,
    SkipReason, Spec, Verdict, compress, dense_reference, inspect, verify,
};
use quant_core::Bits;
use tn_formats::Truncation;
use tn_formats::npy::NpyArray;

const ROWS: usize = 70;
const COLUMNS: usize = 48;

/// Rows of a table by `ids [batch, positions]`, then a product.
fn model(tied: bool) -> Model {
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
    let mut ids = value("ids", &[0, 0]);
    if let Some(type_proto::Value::TensorType(t)) =
        ids.r#type.as_mut().and_then(|t| t.value.as_mut())
    {
        t.elem_type = Some(DataType::Int64 as i32);
    }
    Model::from_proto(proto(13, initializer, nodes, ids, value("y", &[0, 0, 12]))).unwrap()
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
    assert_eq!(formats, &[Format::LowRank, Format::Dense]);
    assert_eq!(refused.len(), 2);
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
fn low_rank_is_nearest_where_rows_are_looked_up() {
    let (model, data) = (model(false), data());
    let counted = row_importance(&model, &data).unwrap();
    let (name, rows) = &counted[0];
    assert_eq!(
        (counted.len(), name.as_str(), rows.len()),
        (1, "table", ROWS)
    );
    assert!((rows.iter().sum::<f64>() - 120.0 - 0.1 * ROWS as f64).abs() < 1e-9);
    let spec = spec(Format::LowRank, 8, CoreGranularity::Core);
    let plain = Job::new(Spec::keep())
        .with_weight("table", spec)
        .with_growth(Growth::Allowed);
    let weighted = plain.clone().with_importance("table", rows.clone());
    let loss = |job: &Job| {
        let (rewritten, _) = compress(&model, job).unwrap();
        verify(&model, &rewritten, &data).unwrap().relative_l2
    };
    let (plain, weighted) = (loss(&plain), loss(&weighted));
    assert!(weighted < 0.7 * plain, "{weighted} {plain}");
}
