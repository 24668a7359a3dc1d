//! Decompositions, products and quantizers of `tn-formats`, each beside its baseline.
//!
//! ```sh
//! cargo bench -p tn-benches --bench tn_formats
//! ```

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quant_core::{Bits, QuantScheme};
use rand::{RngExt, SeedableRng};
use tn_formats::linalg::matmul;
use tn_formats::{Layout, MatrixModes, Strategy, TensorTrain, Truncation, TtMatrix, TtQuantizer};

type Matrix = ndarray::Array2<f32>;

fn noise(rows: usize, cols: usize) -> Matrix {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(1);
    Matrix::from_shape_fn((rows, cols), |_| rng.random::<f32>() - 0.5)
}

fn modes_1024() -> MatrixModes {
    let modes = vec![4, 8, 8, 4];
    MatrixModes::new(Layout::Interleaved, modes.clone(), modes).expect("valid modes")
}

/// TT-SVD of 1024 x 1024 at rank 16, beside copying the matrix twice.
fn decompose(c: &mut Criterion) {
    let w = noise(1024, 1024);
    let modes = modes_1024();
    let mut group = c.benchmark_group("tt-svd 1024 r16");
    group.sample_size(10).throughput(Throughput::Bytes(4 << 20));
    group.bench_function("copy twice", |b| {
        b.iter(|| black_box((w.clone(), w.clone())))
    });
    group.bench_function("decompose", |b| {
        b.iter(|| TtMatrix::decompose(black_box(w.view()), &modes, &Truncation::MaxRank(16)))
    });
    group.finish();
}

/// TT-SVD of 2^25 elements, ranks up to 20, beside copying them twice.
fn tall(c: &mut Criterion) {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(2);
    let a = ndarray::ArrayD::from_shape_fn(vec![32; 5], |_| rng.random::<f32>() - 0.5);
    let mut group = c.benchmark_group("tt-svd 2^25 r20");
    group.sample_size(10).throughput(Throughput::Bytes(4 << 25));
    group.bench_function("copy twice", |b| {
        b.iter(|| black_box((a.clone(), a.clone())))
    });
    group.bench_function("decompose", |b| {
        b.iter(|| TensorTrain::decompose(black_box(a.view()), &Truncation::MaxRank(20)))
    });
    group.finish();
}

/// A 1024 x 1024 matrix times 32 columns: dense here, dense in matrixmultiply, as a train of rank 8.
fn product(c: &mut Criterion) {
    let (w, x) = (noise(1024, 1024), noise(32, 1024));
    let modes = modes_1024();
    let (train, _) =
        TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(8)).expect("a finite matrix");
    let mut group = c.benchmark_group("1024 x 1024 times 32");
    group.bench_function("matrixmultiply", |b| b.iter(|| baseline(black_box(&x), &w)));
    group.bench_function("gemm", |b| b.iter(|| matmul(black_box(x.view()), w.t())));
    group.bench_function("train r8", |b| b.iter(|| train.matmul(black_box(x.view()))));
    group.finish();
}

/// `x wᵀ` by matrixmultiply, on one thread.
fn baseline(x: &Matrix, w: &Matrix) -> Matrix {
    x.dot(&w.t())
}

/// A train of rank 16 at 4 bits: each core alone, and compensated.
fn quantize(c: &mut Criterion) {
    let w = noise(1024, 1024);
    let (train, _) = TtMatrix::decompose(w.view(), &modes_1024(), &Truncation::MaxRank(16))
        .expect("a finite matrix");
    let simple = TtQuantizer::new(QuantScheme::symmetric(Bits::B4));
    let best = simple.clone().with_strategy(Strategy::BEST);
    let mut group = c.benchmark_group("quantize 1024 r16 int4");
    group.sample_size(10);
    group.bench_function("independent", |b| {
        b.iter(|| simple.quantize_matrix(black_box(&train)))
    });
    group.bench_function("compensated", |b| {
        b.iter(|| best.quantize_matrix(black_box(&train)))
    });
    group.finish();
}

criterion_group!(benches, decompose, tall, product, quantize);
criterion_main!(benches);
