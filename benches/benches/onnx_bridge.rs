//! Decoding, rewriting and running models made in memory, each beside its baseline.
//!
//! ```sh
//! cargo bench -p tn-benches --bench onnx_bridge
//! ```

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use onnx_bridge::proto::{
    DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use onnx_bridge::{Engine, Format, GraphView, Job, Model, Spec, compress, synthesize};
use prost::Message;
use tn_formats::Truncation;

fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = dims.iter().map(|text| {
        let value = text
            .parse()
            .map_or_else(|_| Value::DimParam(text.to_string()), Value::DimValue);
        Dimension {
            denotation: None,
            value: Some(value),
        }
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float as i32),
        shape,
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            denotation: None,
            value: Some(type_proto::Value::TensorType(tensor)),
        }),
        ..Default::default()
    }
}

/// A chain of `layers` products with square matrices of `n`.
fn chain(layers: usize, n: usize) -> Model {
    let name = |k: usize| {
        if k == layers {
            "y".to_string()
        } else {
            format!("x{k}")
        }
    };
    let weight = |k: usize| {
        let entry = |i: usize| {
            ((i / n + 1) as f32 * 0.01).sin() * ((i % n + k) as f32 * 0.02).cos()
                + (i % 17) as f32 * 0.01
        };
        TensorProto {
            name: Some(format!("w{k}")),
            dims: vec![n as i64, n as i64],
            data_type: Some(DataType::Float as i32),
            raw_data: Some(
                (0..n * n)
                    .flat_map(|i| entry(i).to_le_bytes())
                    .collect::<Vec<u8>>()
                    .into(),
            ),
            ..Default::default()
        }
    };
    let node = |k: usize| NodeProto {
        op_type: Some("MatMul".into()),
        input: vec![name(k), format!("w{k}")],
        output: vec![name(k + 1)],
        ..Default::default()
    };
    let size = n.to_string();
    let graph = GraphProto {
        name: Some("chain".into()),
        node: (0..layers).map(node).collect(),
        initializer: (0..layers).map(weight).collect(),
        input: vec![value("x0", &["batch", &size])],
        output: vec![value("y", &["batch", &size])],
        ..Default::default()
    };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(17),
        }],
        graph: Some(graph),
        ..Default::default()
    };
    Model::from_proto(proto).expect("a valid model")
}

fn decode(c: &mut Criterion) {
    let bytes = bytes(&chain(200, 64));
    let mut group = c.benchmark_group("decode 200 layers of 64x64");
    group.bench_function("prost alone", |b| {
        b.iter_batched(
            || bytes.clone(),
            |data| ModelProto::decode(black_box(data)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("validated and indexed", |b| {
        b.iter_batched(
            || bytes.clone(),
            |data| {
                let model = Model::decode(black_box(data)).expect("a valid model");
                black_box(GraphView::new(&model).opset())
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn bytes(model: &Model) -> prost::bytes::Bytes {
    model.encode().expect("a small model").into()
}

fn spec(format: Format, rank: usize) -> Job {
    Job::new(Spec {
        truncation: Some(Truncation::MaxRank(rank)),
        ..Spec::of(format)
    })
}

fn rewrite(c: &mut Criterion) {
    let model = chain(1, 1024);
    let mut group = c.benchmark_group("rewrite 1024x1024");
    group.sample_size(10);
    for format in [Format::Dense, Format::LowRank, Format::Tt] {
        let job = spec(format, 16);
        group.bench_function(format.name(), |b| {
            b.iter(|| compress(black_box(&model), &job).expect("a valid model"))
        });
    }
    group.finish();
}

fn run(c: &mut Criterion) {
    let model = chain(1, 1024);
    for batch in [1, 32] {
        let mut group = c.benchmark_group(format!("run 1024x1024, batch {batch}"));
        let data = synthesize(&model, batch, 1).expect("float inputs");
        let mut bench = |name: &str, model: &Model| {
            let engine = Engine::load(model).expect("tract takes the model");
            group.bench_function(name, |b| {
                b.iter(|| {
                    engine
                        .run_samples(black_box(&data), 0..batch)
                        .expect("it runs")
                })
            });
        };
        bench("original", &model);
        for (format, rank) in [(Format::LowRank, 16), (Format::Tt, 8)] {
            let (rewritten, _) = compress(&model, &spec(format, rank)).expect("a valid model");
            bench(&format!("{} rank {rank}", format.name()), &rewritten);
        }
        group.finish();
    }
}

criterion_group!(benches, decode, rewrite, run);
criterion_main!(benches);
