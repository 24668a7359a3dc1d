//! One layer in tract: dense, in ONNX Runtime's 4 bits, and compressed, as the plain chain of operators and fused.
//!
//! ```sh
//! cargo bench -p tn-benches --bench runtime              # or one layer: -- 4096x4096
//! python3 benches/python/runtime_table.py
//! ```

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use onnx_bridge::runtime::{Activations, Runtime, RuntimeOptions};
use onnx_bridge::{
    CoreGranularity, Engine, Format, Job, Model, Quantization, Spec, compress, synthesize,
};
use quant_core::Bits;
use tn_benches::models::{nbits, products};
use tn_formats::npy::NpyArray;
use tn_formats::{Layout, Truncation};

/// Inputs and outputs of the layers.
const LAYERS: [[usize; 2]; 4] = [[384, 1536], [1024, 1024], [4096, 4096], [25088, 4096]];
const BATCHES: [usize; 4] = [1, 16, 128, 512];

/// What a layer is compressed to.
fn forms() -> [(&'static str, Spec); 3] {
    let quantization = Quantization {
        bits: Bits::B4,
        granularity: CoreGranularity::Block(std::num::NonZeroUsize::MIN.saturating_add(31)),
        ..Quantization::default()
    };
    let of = |format, layout, rank| Spec {
        layout,
        quantization,
        truncation: Some(Truncation::MaxRank(rank)),
        ..Spec::of(format)
    };
    [
        ("dense 4 bits", of(Format::Dense, None, 1)),
        ("low rank 128", of(Format::LowRank, None, 128)),
        (
            "train rank 16",
            of(Format::Tt, Some(Layout::Interleaved), 16),
        ),
    ]
}

fn fused(model: &Model, activations: Activations, shapes: &[Vec<usize>]) -> Runtime {
    let mut options = RuntimeOptions::default();
    options.activations = activations;
    Runtime::load_shaped(model, &options, shapes).expect("tract takes the model")
}

fn layers(c: &mut Criterion) {
    // Without `--bench` this is the smoke run of the tests.
    let whole = std::env::args().any(|a| a == "--bench");
    let (layers, batches) = if whole {
        (&LAYERS[..], &BATCHES[..])
    } else {
        (&LAYERS[..1], &BATCHES[..1])
    };
    let only: Option<String> = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    for &[inputs, outputs] in layers {
        let name = format!("{inputs}x{outputs}");
        if only.as_ref().is_some_and(|only| !only.contains(&name)) {
            continue; // compressing it takes longer than timing another
        }
        let original = products(&[inputs, outputs]);
        let theirs = nbits(inputs, outputs);
        let compressed = forms().map(|(name, spec)| {
            let (small, _) = compress(&original, &Job::new(spec)).expect("a valid model");
            (name, small)
        });
        for &batch in batches {
            let data = synthesize(&original, batch, 1).expect("float inputs");
            let x = [data.arrays()[0].1.clone()];
            let shapes = [x[0].shape().to_vec()];
            let mut group = c.benchmark_group(format!("{name}, batch {batch}"));
            group
                .sample_size(10)
                .warm_up_time(Duration::from_millis(200))
                .measurement_time(Duration::from_secs(1));
            let mut bench = |name: &str, run: &dyn Fn(&[NpyArray]) -> Vec<NpyArray>| {
                group.bench_function(name, |b| b.iter(|| run(&x)));
            };
            let mut stock = |name: &str, model: &Model| {
                let engine = Engine::load_shaped(model, &shapes).expect("tract takes the model");
                bench(name, &|x| engine.run(x).expect("it runs"));
            };
            stock("dense f32", &original);
            stock("MatMulNBits", &theirs);
            for (name, model) in &compressed {
                stock(&format!("{name}, chain"), model);
            }
            for (name, model) in &compressed {
                for (kind, activations) in [("f32", Activations::F32), ("int8", Activations::Int8)]
                {
                    let runtime = fused(model, activations, &shapes);
                    bench(&format!("{name}, fused {kind}"), &|x| {
                        runtime.run(x).expect("it runs")
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
