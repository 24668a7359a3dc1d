//! Decoding, rewriting and running models made in memory, each beside its baseline.
//!
//! ```sh
//! cargo bench -p tn-benches --bench onnx_bridge
//! ```

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use onnx_bridge::proto::ModelProto;
use onnx_bridge::{Engine, Format, GraphView, Job, Model, Spec, compress, synthesize};
use prost::Message;
use tn_benches::models::products;
use tn_formats::Truncation;

/// A chain of `layers` products with square matrices of `n`.
fn chain(layers: usize, n: usize) -> Model {
    products(&vec![n; layers + 1])
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
