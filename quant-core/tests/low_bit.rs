//! Products with low-bit and dense matrices against plain sums in f64, on every instruction set.

use proptest::prelude::*;
use quant_core::kernels::Isa;
use quant_core::{LeftMatrix, LowBitMatrix, LowBitParts, PanelMatrix, ProductScratch, QuantError};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

struct Case {
    codes: Vec<u8>,
    scales: Vec<f32>,
    offsets: Vec<f32>,
    x: Vec<f32>,
}

fn numbers(rng: &mut Pcg64, count: usize, range: std::ops::Range<f32>) -> Vec<f32> {
    (0..count)
        .map(|_| rng.random_range(range.clone()))
        .collect()
}

fn case([m, n, k]: [usize; 3], levels: usize, block: usize, offsets: usize) -> Case {
    let mut rng = Pcg64::seed_from_u64((m * 7 + n * 131 + k * 17 + levels * 3 + block) as u64);
    let blocks = n * k.div_ceil(block);
    Case {
        codes: (0..n * k)
            .map(|_| rng.random_range(0..levels) as u8)
            .collect(),
        scales: numbers(&mut rng, blocks, 0.01..0.1),
        offsets: numbers(&mut rng, blocks * offsets, -1.0..1.0),
        x: numbers(&mut rng, m * k, -1.0..1.0),
    }
}

/// `X Wᵀ`, and the sum of `|x| size`, which errors are relative to.
fn product(x: &[f32], w: &[f32], size: &[f32], [m, n, k]: [usize; 3]) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|l| (f64::from(x[i * k + l]), j * k + l));
            out.push(terms.fold((0.0, 1e-30), |(sum, sizes), (x, l)| {
                (
                    sum + x * f64::from(w[l]),
                    sizes + (x * f64::from(size[l])).abs(),
                )
            }));
        }
    }
    out
}

fn check(found: &[f32], expected: &[(f64, f64)], tolerance: f64, what: &str) {
    for (i, (f, (e, size))) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*f) - e).abs() / size;
        assert!(
            error < tolerance,
            "{what}: element {i}: expected {e}, found {f}"
        );
    }
}

fn check_low_bit(shape: [usize; 3], levels: usize, block: usize, offsets: usize) {
    let [m, n, k] = shape;
    let c = case(shape, levels, block, offsets);
    let zero = (levels - 1) as f32 / 2.0;
    let parts = LowBitParts {
        shape: [n, k],
        codes: &c.codes,
        levels,
        zero,
        block,
        scales: &c.scales,
        offsets: &c.offsets,
    };
    let w = LowBitMatrix::new(parts).unwrap();
    let blocks = k.div_ceil(block);
    // What a product adds up for a weight: x times its code less zero, and x times its offset. The two may cancel.
    let (expected, sizes): (Vec<f32>, Vec<f32>) = (0..n * k)
        .map(|i| {
            let at = i / k * blocks + i % k / block;
            let offset = c.offsets.get(at).copied().unwrap_or(0.0);
            let code = f32::from(c.codes[i]) - zero;
            let scale = c.scales[at];
            ((code - offset) * scale, (code.abs() + offset.abs()) * scale)
        })
        .unzip();
    assert_eq!(w.dequantize(), expected);
    let bounds: Vec<f64> = (0..m * n)
        .map(|i| {
            let largest = c.x[i / n * k..][..k]
                .iter()
                .fold(0f32, |m, x| m.max(x.abs()));
            let weights = expected[i % n * k..][..k]
                .iter()
                .map(|w| f64::from(w.abs()));
            f64::from(largest) / 253.0 * weights.sum::<f64>() + 1e-6
        })
        .collect();
    let expected = product(&c.x, &expected, &sizes, shape);
    let mut scratch = ProductScratch::default();
    let mut ints: Vec<Vec<f32>> = Vec::new();
    for isa in Isa::available() {
        let what = format!(
            "{shape:?}, {levels} levels, blocks of {block}, {}",
            isa.name()
        );
        let mut y = vec![f32::NAN; m * n];
        w.matmul_on(isa, &c.x, &mut y, &mut scratch).unwrap();
        check(&y, &expected, 2e-6, &what);
        y.fill(f32::NAN);
        w.matmul_int8_on(isa, &c.x, &mut y, &mut scratch).unwrap();
        for ((y, (e, _)), bound) in y.iter().zip(&expected).zip(&bounds) {
            assert!(
                (f64::from(*y) - e).abs() < *bound,
                "{what}: expected {e}, found {y}"
            );
        }
        ints.push(y);
    }
    ints.windows(2)
        .for_each(|w| assert_eq!(w[0], w[1], "{shape:?}: bits differ"));
}

#[test]
fn low_bit_products_are_those_of_the_dequantized_matrix() {
    for levels in [2, 3, 4, 6, 9, 16, 40, 256] {
        for (shape, block) in [
            ([1, 32, 64], 64),
            ([2, 33, 100], 32),
            ([3, 16, 130], 130),
            ([5, 40, 17], 5),
            ([7, 1, 300], 300),
            ([13, 65, 96], 48),
            ([25, 70, 256], 64),
            ([40, 31, 1100], 1100),
        ] {
            check_low_bit(shape, levels, block, levels % 2);
        }
    }
    // An offset that all but cancels a code.
    check_low_bit([3, 61, 1], 155, 120, 1);
}

#[test]
fn eight_bit_rows_give_the_stated_error() {
    let shape = [16, 64, 768];
    let c = case(shape, 16, 64, 0);
    let mut rng = Pcg64::seed_from_u64(5);
    // Sums of twelve uniform numbers are close to normal.
    let x: Vec<f32> = (0..16 * 768)
        .map(|_| numbers(&mut rng, 12, -0.5..0.5).iter().sum())
        .collect();
    let parts = LowBitParts {
        shape: [64, 768],
        codes: &c.codes,
        levels: 16,
        zero: 7.5,
        block: 64,
        scales: &c.scales,
        offsets: &[],
    };
    let w = LowBitMatrix::new(parts).unwrap();
    let mut scratch = ProductScratch::default();
    let (mut exact, mut rounded) = (vec![0.0; 16 * 64], vec![0.0; 16 * 64]);
    w.matmul(&x, &mut exact, &mut scratch).unwrap();
    w.matmul_int8(&x, &mut rounded, &mut scratch).unwrap();
    let square = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v * v)).sum::<f64>();
    let error = square(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b));
    let error = (error / square(&mut exact.iter().copied())).sqrt();
    assert!((0.002..0.008).contains(&error), "{error}");
}

#[test]
fn dense_products_from_both_sides() {
    let mut rng = Pcg64::seed_from_u64(1);
    for shape in [
        [1, 32, 64],
        [2, 33, 9],
        [3, 5, 1030],
        [7, 48, 31],
        [12, 17, 5],
        [26, 64, 2100],
        [1, 1, 1],
    ] {
        let [m, n, k] = shape;
        let (x, w) = (
            numbers(&mut rng, m * k, -1.0..1.0),
            numbers(&mut rng, n * k, -1.0..1.0),
        );
        let expected = product(&x, &w, &w, shape);
        let turned: Vec<f32> = (0..k * n).map(|i| w[i % n * k + i / n]).collect();
        for isa in Isa::available() {
            let what = format!("{shape:?} {}", isa.name());
            let mut y = vec![f32::NAN; m * n];
            let panels = PanelMatrix::new(&w, [n, k]).unwrap();
            panels
                .matmul_on(isa, &x, &mut y, &mut ProductScratch::default())
                .unwrap();
            check(&y, &expected, 2e-6, &what);
            y.fill(f32::NAN);
            LeftMatrix::new_on(isa, &x, [m, k])
                .unwrap()
                .multiply(&turned, &mut y)
                .unwrap();
            check(&y, &expected, 2e-6, &what);
        }
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let parts = LowBitParts {
        shape: [2, 2],
        codes: &[0, 1, 2, 3],
        levels: 4,
        zero: 0.0,
        block: 2,
        scales: &[1.0, 1.0],
        offsets: &[],
    };
    assert!(LowBitMatrix::new(parts).is_ok());
    assert_eq!(
        LowBitMatrix::new(LowBitParts { block: 0, ..parts }),
        Err(QuantError::BlockSize)
    );
    for wrong in [
        LowBitParts { levels: 3, ..parts },
        LowBitParts { levels: 0, ..parts },
        LowBitParts {
            levels: 257,
            ..parts
        },
        LowBitParts {
            scales: &[1.0],
            ..parts
        },
        LowBitParts {
            offsets: &[1.0],
            ..parts
        },
        LowBitParts {
            codes: &[0],
            ..parts
        },
        LowBitParts {
            shape: [usize::MAX, 2],
            ..parts
        },
    ] {
        assert!(LowBitMatrix::new(wrong).is_err(), "{wrong:?}");
    }
    let w = LowBitMatrix::new(parts).unwrap();
    let mut scratch = ProductScratch::default();
    assert!(w.matmul(&[0.0; 3], &mut [0.0; 2], &mut scratch).is_err());
    assert!(
        w.matmul_int8(&[0.0; 2], &mut [0.0; 3], &mut scratch)
            .is_err()
    );
    assert!(PanelMatrix::new(&[0.0; 3], [2, 2]).is_err());
    assert!(LeftMatrix::new(&[0.0; 3], [2, 2]).is_err());
    let left = LeftMatrix::new(&[0.0; 4], [2, 2]).unwrap();
    assert!(left.multiply(&[0.0; 3], &mut [0.0; 2]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape(m in 1usize..30, n in 1usize..70, k in 1usize..150, levels in 1usize..257, block in 1usize..160, offsets in 0usize..2) {
        check_low_bit([m, n, k], levels, block, offsets);
    }
}
