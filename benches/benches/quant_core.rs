//! quant-core's kernels beside a copy of the same bytes, their scalar forms, and f32 products.
//!
//! All work is on one thread and timed by that thread's CPU clock, so that other processes do not count.
//! `benches/python/quant_core_table.py` makes the tables of README.md from the results.
#![allow(missing_docs, reason = "criterion's macros")]
#![allow(unsafe_code, reason = "the baselines' kernels are unsafe to call")]

use std::hint::black_box;
use std::time::Duration;

use cpu_time::ThreadTime;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use quant_core::kernels::{AffineMap, Isa};
use quant_core::{Bits, MatrixLayout, PackedMatrix, QuantScheme, Signedness};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;
use tract_data::prelude::{DatumType, Tensor};
use tract_linalg::MmmDispatch;
use tract_linalg::mmm::{AsInputValue, FusedSpec};

/// The CPU time of the thread.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = ThreadTime;
    type Value = Duration;
    fn start(&self) -> ThreadTime {
        ThreadTime::now()
    }
    fn end(&self, start: ThreadTime) -> Duration {
        start.elapsed()
    }
    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }
    fn zero(&self) -> Duration {
        Duration::ZERO
    }
    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

type Group<'a> = BenchmarkGroup<'a, CpuTime>;

/// Elements: in the second-level cache, in the third, in memory.
const SIZES: [usize; 3] = [1 << 16, 1 << 20, 1 << 24];

/// The instruction sets to time at a size; the scalar kernels do not depend on where the data is, and take long.
fn isas(size: usize) -> impl Iterator<Item = Isa> {
    Isa::available()
        .into_iter()
        .filter(move |&isa| isa != Isa::SCALAR || size < SIZES[2])
}

fn floats(len: usize) -> Vec<f32> {
    let mut rng = Pcg64::seed_from_u64(1);
    (0..len).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect()
}

fn bytes(len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    Pcg64::seed_from_u64(2).fill_bytes(&mut data);
    data
}

/// A group whose kernels read and write `moved` bytes, with a copy that moves as many.
fn with_memcpy<'a>(
    c: &'a mut Criterion<CpuTime>,
    name: &str,
    size: usize,
    moved: usize,
) -> Group<'a> {
    let mut group = c.benchmark_group(format!("{name}/{size}"));
    group.throughput(Throughput::Bytes(moved as u64));
    let (from, mut to) = (bytes(moved / 2), vec![0u8; moved / 2]);
    group.bench_function("memcpy", |b| {
        b.iter(|| black_box(&mut to[..]).copy_from_slice(black_box(&from)))
    });
    group
}

fn elementwise(c: &mut Criterion<CpuTime>) {
    let map = AffineMap::new(0.0081, 0, &QuantScheme::symmetric(Bits::B8)).unwrap();
    for size in SIZES {
        let (x, mut codes, mut out) = (floats(size), bytes(size), vec![0f32; size]);
        let mut group = with_memcpy(c, "quantize f32 to int8", size, 5 * size);
        for isa in isas(size) {
            group.bench_function(isa.name(), |b| {
                b.iter(|| isa.quantize(black_box(&x), map, black_box(&mut codes)));
            });
        }
        group.finish();
        let mut group = with_memcpy(c, "dequantize int8 to f32", size, 5 * size);
        for isa in isas(size) {
            group.bench_function(isa.name(), |b| {
                b.iter(|| {
                    isa.dequantize(
                        black_box(&codes),
                        Signedness::Signed,
                        map,
                        black_box(&mut out),
                    )
                });
            });
        }
        group.finish();
        let mut group = with_memcpy(c, "fake-quantize f32", size, 8 * size);
        for isa in isas(size) {
            group.bench_function(isa.name(), |b| {
                b.iter(|| isa.fake_quantize(black_box(&x), map, black_box(&mut out)));
            });
        }
        group.finish();
    }
}

fn packing(c: &mut Criterion<CpuTime>) {
    for bits in [Bits::B4, Bits::B3] {
        for size in SIZES {
            let mut codes = bytes(size);
            let mut packed = vec![0; quant_core::packed_len(size, bits)];
            let moved = size + packed.len();
            let mut group = with_memcpy(c, &format!("pack int{bits}"), size, moved);
            for isa in isas(size) {
                group.bench_function(isa.name(), |b| {
                    b.iter(|| isa.pack(black_box(&codes), bits, black_box(&mut packed)));
                });
            }
            group.finish();
            let mut group = with_memcpy(c, &format!("unpack int{bits}"), size, moved);
            for isa in isas(size) {
                group.bench_function(isa.name(), |b| {
                    b.iter(|| {
                        isa.unpack(
                            black_box(&packed),
                            bits,
                            Signedness::Signed,
                            black_box(&mut codes),
                        )
                    });
                });
            }
            group.finish();
        }
    }
}

/// A dot product is a product of one row by one column.
fn dot(c: &mut Criterion<CpuTime>) {
    for size in [64, 256, 1024, 65_536] {
        let mut group = c.benchmark_group(format!("dot/{size}"));
        group.throughput(Throughput::Elements(size as u64));
        let signed = |seed: u8| {
            bytes(size)
                .into_iter()
                .map(|b| (b ^ seed) as i8)
                .collect::<Vec<_>>()
        };
        let (a, b_codes) = (signed(0), signed(0x55));
        for isa in Isa::available() {
            group.bench_function(isa.name(), |b| {
                b.iter(|| isa.dot(black_box(&a), black_box(&b_codes)))
            });
        }
        f32_products(&mut group, 1, size, 1);
        group.finish();
    }
}

fn product(c: &mut Criterion<CpuTime>) {
    for side in [64, 256, 1024] {
        for batch in [1, 16, 128] {
            let mut group = c.benchmark_group(format!("product {side}x{side}/batch {batch}"));
            group.throughput(Throughput::Elements((batch * side * side) as u64));
            let (layout, signedness) = (MatrixLayout::OutByIn, Signedness::Signed);
            let w = PackedMatrix::new(&bytes(side * side), [side, side], layout, signedness, &[0])
                .unwrap();
            let (a, mut out) = (bytes(batch * side), vec![0i32; batch * side]);
            for isa in Isa::available() {
                group.bench_function(BenchmarkId::new("int8 x int8", isa.name()), |b| {
                    b.iter(|| {
                        w.matmul_on(isa, black_box(&a), signedness, &[0], black_box(&mut out))
                    });
                });
            }
            let (x, mut out) = (floats(batch * side), vec![0f32; batch * side]);
            for isa in Isa::available()
                .into_iter()
                .filter(|&isa| isa != Isa::SCALAR)
            {
                group.bench_function(BenchmarkId::new("int8 x f32", isa.name()), |b| {
                    b.iter(|| w.matmul_f32_on(isa, black_box(&x), &[0.01], black_box(&mut out)));
                });
            }
            f32_products(&mut group, side, side, batch);
            group.finish();
        }
    }
}

/// `[n, k]` weights by `[k, batch]` activations in f32. tract's weights are packed beforehand, as a constant's are, and
/// the activations as part of the work, as quant-core does; matrixmultiply packs both as part of the work.
fn f32_products(group: &mut Group<'_>, n: usize, k: usize, batch: usize) {
    let (w, x) = (floats(n * k), floats(k * batch));
    let kernel = MmmDispatch::native()
        .preferred_kernel(DatumType::F32, Some(n), Some(k), Some(batch))
        .expect("tract has an f32 kernel");
    let packing = &kernel.packings()[0];
    let weights = Tensor::from_shape(&[n, k], &w).unwrap();
    let weights = packing.0.prepare_one(&weights, 1, 0).unwrap();
    let activations = Tensor::from_shape(&[k, batch], &x).unwrap();
    let mut product = Tensor::zero::<f32>(&[n, batch]).unwrap();
    group.bench_function("f32 tract-linalg", |b| {
        b.iter(|| {
            let activations = packing
                .1
                .prepare_one(black_box(&activations), 0, 1)
                .unwrap();
            // SAFETY: the operands are packed for this kernel with these sizes, the output has them.
            unsafe {
                let store = kernel.c_view(Some(0), Some(1)).wrap(&product.view_mut());
                let multiply = FusedSpec::AddMatMul {
                    a: AsInputValue::Borrowed(&*weights),
                    b: AsInputValue::Borrowed(&*activations),
                    packing: 0,
                };
                kernel
                    .run(n, batch, &[multiply, FusedSpec::Store(store)])
                    .unwrap();
            }
        });
    });
    let mut out = vec![0f32; n * batch];
    group.bench_function("f32 matrixmultiply", |b| {
        b.iter(|| {
            let (w, x, out) = (black_box(&w), black_box(&x), black_box(&mut out));
            let (columns, inner) = (batch as isize, k as isize);
            // SAFETY: the sizes and strides are those of the three buffers.
            unsafe {
                matrixmultiply::sgemm(
                    n,
                    k,
                    batch,
                    1.0,
                    w.as_ptr(),
                    inner,
                    1,
                    x.as_ptr(),
                    columns,
                    1,
                    0.0,
                    out.as_mut_ptr(),
                    columns,
                    1,
                );
            }
        });
    });
}

fn config() -> Criterion<CpuTime> {
    Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .without_plots()
}

criterion_group! {
    name = benches;
    config = config();
    targets = elementwise, packing, dot, product
}
criterion_main!(benches);
