//! A training step of `tn-qat`'s layers, each beside the same step of a dense layer.
//!
//! ```sh
//! cargo bench -p tn-benches --bench tn_qat
//! ```
//!
//! `benches/python/tt_linear_torch.py --rust` sets the same step beside PyTorch.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::Array2;
use quant_core::{Bits, Granularity, QuantScheme};
use tn_formats::{Layout, MatrixModes};
use tn_qat::{Cache, DenseLinear, FakeQuant, Gradients, Layer, Route, StepInit, TtLinear};

const BATCH: usize = 128;

fn input() -> Array2<f32> {
    Array2::from_shape_fn((BATCH, 1024), |(b, i)| {
        ((b * 31 + i * 17) % 101) as f32 / 50.0 - 1.0
    })
}

fn train(rank: usize, route: Route) -> TtLinear {
    let modes = vec![4, 8, 8, 4];
    let modes = MatrixModes::new(Layout::Interleaved, modes.clone(), modes).expect("valid modes");
    let layer = TtLinear::random(&modes, &[rank; 3], 1).expect("valid ranks");
    layer.with_route(route)
}

/// Forward, backward with all gradients.
fn step(layer: &dyn Layer<f32>, x: &Array2<f32>, cache: &mut Cache, grads: &mut Gradients) {
    grads.clear();
    let y = layer.forward(x.view(), cache).expect("valid shapes");
    let mut dx = Array2::zeros(x.dim());
    let done = layer.backward_into(x.view(), cache, y.view(), grads, Some(dx.view_mut()));
    done.expect("valid shapes");
    black_box((y, dx));
}

/// 1024 x 1024 as (4, 8, 8, 4)², batch 128: planned, through the dense matrix, with fake quantization; and a dense layer.
fn steps(c: &mut Criterion) {
    let x = input();
    let mut quantized = train(16, Route::Auto);
    let scheme = QuantScheme::symmetric(Bits::B4);
    quantized
        .quantize(scheme, StepInit::Mse)
        .expect("finite cores");
    let dense = DenseLinear::random(1024, 1024, 1).expect("a matrix");
    let layers: [(&str, Box<dyn Layer<f32>>); 6] = [
        ("rank 8", Box::new(train(8, Route::Auto))),
        ("rank 8 through dense", Box::new(train(8, Route::Dense))),
        ("rank 16", Box::new(train(16, Route::Auto))),
        ("rank 16 through dense", Box::new(train(16, Route::Dense))),
        ("rank 16 int4", Box::new(quantized)),
        ("dense layer", Box::new(dense)),
    ];
    let mut group = c.benchmark_group("step 1024x1024 batch 128");
    group.sample_size(10);
    for (name, layer) in &layers {
        let (mut cache, mut grads) = (Cache::new(), Gradients::zeros(layer.parameters()));
        group.bench_function(*name, |b| {
            b.iter(|| step(&**layer, &x, &mut cache, &mut grads));
        });
    }
    group.finish();
}

/// Fake quantization of 2^20 weights per row of 1024, forward and backward, beside a copy.
fn fake_quantize(c: &mut Criterion) {
    let w: Vec<f32> = (0..1_u64 << 20)
        .map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0)
        .collect();
    let scheme = QuantScheme::symmetric(Bits::B4).with_granularity(Granularity::per_axis(0));
    let fake = FakeQuant::new(scheme, &[1024, 1024]).expect("two axes");
    let (steps, _) = fake
        .initial_steps(&w, StepInit::MinMax)
        .expect("finite weights");
    let mut out = vec![0.0; w.len()];
    let mut group = c.benchmark_group("fake quantization 2^20");
    group.bench_function("copy", |b| {
        b.iter(|| black_box(&mut out).copy_from_slice(&w))
    });
    group.bench_function("forward", |b| {
        b.iter(|| fake.forward(&w, &steps, None, black_box(&mut out)));
    });
    let mut d_steps = vec![0.0; steps.len()];
    group.bench_function("backward", |b| {
        b.iter(|| fake.backward(&w, &steps, None, black_box(&mut out), &mut d_steps, None));
    });
    group.finish();
}

criterion_group!(benches, steps, fake_quantize);
criterion_main!(benches);
