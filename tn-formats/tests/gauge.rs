//! Gauges keep the tensor; quantizers get better and never worse.

use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;
use quant_core::{Bits, Granularity, QuantScheme};
use rand::{RngExt, SeedableRng};
use tn_formats::{
    CoreRounding, Gauge, Layout, MatrixModes, Rotation, Strategy, TensorTrain, Truncation,
    TtMatrix, TtQuantizer,
};

const GAUGES: [Gauge; 6] = [
    Gauge::Left,
    Gauge::Right,
    Gauge::Symmetric,
    Gauge::Rotated(Rotation::Hadamard { seed: 7 }),
    Gauge::Rotated(Rotation::Random { seed: 7 }),
    Gauge::Rotated(Rotation::Learned { seed: 7, steps: 10 }),
];

/// A train of a noisy tensor whose singular values fall.
fn train(shape: &[usize], rank: usize, seed: u64) -> TensorTrain<f64> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
    let a = ArrayD::from_shape_fn(IxDyn(shape), |ix| {
        let s: f64 = (0..shape.len())
            .map(|k| (k + 1) as f64 * ix[k] as f64 / shape[k] as f64)
            .sum();
        1.0 / (1.0 + s * s) + 0.05 * rng.random::<f64>()
    });
    TensorTrain::decompose(a.view(), &Truncation::MaxRank(rank))
        .unwrap()
        .0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_gauge_keeps_the_tensor(
        shape in prop::collection::vec(1usize..7, 1..5),
        rank in 1usize..6,
        seed in any::<u64>(),
    ) {
        let train = train(&shape, rank, seed);
        for gauge in GAUGES {
            let other = train.gauge(gauge).unwrap();
            prop_assert_eq!(other.modes(), train.modes());
            prop_assert!(train.distance(&other).unwrap() <= 1e-9 * train.norm(), "{:?}", gauge);
        }
    }

    #[test]
    fn no_strategy_is_worse_than_independent(
        shape in prop::collection::vec(1usize..7, 1..5),
        bits in 2u8..=8,
        affine in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let train = train(&shape, 5, seed);
        let bits = Bits::new(bits).unwrap();
        let scheme = if affine { QuantScheme::affine(bits) } else { QuantScheme::symmetric(bits) };
        let quantizer = TtQuantizer::new(scheme);
        let (simple, independent) = quantizer.quantize_measured(&train).unwrap();
        for strategy in [Strategy::Gauge(Gauge::Symmetric), Strategy::BEST] {
            let (codes, error) = quantizer.clone().with_strategy(strategy).quantize_measured(&train).unwrap();
            prop_assert!(error.relative <= independent.relative);
            prop_assert!(codes.byte_len() <= simple.byte_len());
            let measured = codes.dequantize().cast::<f64>().distance(&train).unwrap() / train.norm();
            prop_assert!((measured - error.relative).abs() <= 1e-3 * measured + 1e-7);
        }
    }
}

#[test]
fn the_symmetric_gauge_shares_the_weight() {
    let train = train(&[8, 9], 6, 3).gauge(Gauge::Symmetric).unwrap();
    let (a, b) = (
        train.cores()[0].left_unfolding(),
        train.cores()[1].right_unfolding(),
    );
    let (left, right) = (a.t().dot(&a), b.dot(&b.t()));
    let scale = left[[0, 0]];
    assert!(
        (&left - &right).iter().all(|d| d.abs() < 1e-10 * scale),
        "both sides weigh the same"
    );
    for ((i, j), x) in left.indexed_iter() {
        assert!(
            i == j || x.abs() < 1e-10 * scale,
            "rank indices are orthogonal"
        );
    }
}

#[test]
fn four_bits_gain_a_factor_of_three_on_a_smooth_tensor() {
    let train = train(&[32, 32, 32], 16, 1);
    let quantizer = TtQuantizer::new(QuantScheme::symmetric(Bits::B4));
    let (_, independent) = quantizer.quantize_measured(&train).unwrap();
    let (_, best) = quantizer
        .with_strategy(Strategy::BEST)
        .quantize_measured(&train)
        .unwrap();
    assert!(
        3.0 * best.relative < independent.relative,
        "{best:?} {independent:?}"
    );
}

#[test]
fn the_prediction_is_near_the_measurement_at_eight_bits() {
    for seed in 0..5 {
        let train = train(&[20, 20, 20], 8, seed);
        let quantizer = TtQuantizer::new(QuantScheme::symmetric(Bits::B8))
            .with_strategy(Strategy::Gauge(Gauge::Rotated(Rotation::Random { seed })));
        let (_, error) = quantizer.quantize_measured(&train).unwrap();
        let ratio = error.predicted / error.relative;
        assert!((0.7..1.4).contains(&ratio), "{error:?}");
    }
}

#[test]
fn a_byte_budget_is_kept_and_used() {
    let train = train(&[24, 24, 24], 8, 2);
    let simple = TtQuantizer::new(QuantScheme::symmetric(Bits::B4));
    let bytes = simple.quantize(&train).unwrap().byte_len();
    let (codes, error) = simple
        .clone()
        .with_byte_budget(bytes)
        .quantize_measured(&train)
        .unwrap();
    assert!(codes.byte_len() <= bytes);
    let uniform = simple.quantize_measured(&train).unwrap().1;
    assert!(error.relative <= uniform.relative, "{error:?} {uniform:?}");
}

#[test]
fn blocks_and_axes_are_compensated_too() {
    let w = ndarray::Array2::from_shape_fn((32, 48), |(i, j)| {
        ((i * j) as f32 * 0.01).sin() / (1 + i) as f32
    });
    let modes = MatrixModes::new(Layout::Interleaved, vec![8, 4], vec![6, 8]).unwrap();
    let (train, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(8)).unwrap();
    for granularity in [
        Granularity::per_block(1, 4).unwrap(),
        Granularity::per_axis(1),
    ] {
        let quantizer =
            TtQuantizer::new(QuantScheme::symmetric(Bits::B4).with_granularity(granularity));
        let (simple, independent) = quantizer.quantize_matrix_measured(&train).unwrap();
        let best = quantizer.with_strategy(Strategy::BEST);
        let (codes, compensated) = best.quantize_matrix_measured(&train).unwrap();
        assert_eq!(simple.byte_len(), codes.byte_len());
        assert!(
            compensated.relative < 0.7 * independent.relative,
            "{compensated:?} {independent:?}"
        );
    }
}

#[test]
fn the_comparison_starts_with_independent_and_holds_what_is_taken() {
    let w = ndarray::Array2::from_shape_fn((32, 48), |(i, j)| {
        ((i * j) as f32 * 0.01).sin() / (1 + i) as f32
    });
    let modes = MatrixModes::new(Layout::Split, vec![8, 4], vec![6, 8]).unwrap();
    let (train, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(8)).unwrap();
    let simple = TtQuantizer::new(QuantScheme::symmetric(Bits::B4));
    let (_, independent) = simple.quantize_matrix_measured(&train).unwrap();
    let best = simple.with_strategy(Strategy::BEST);
    let tried = best.compare_matrix(&train).unwrap();
    assert_eq!(tried[0], independent);
    let (_, taken) = best.quantize_matrix_measured(&train).unwrap();
    assert!(tried.contains(&taken));
    assert!(tried.iter().all(|t| t.relative >= taken.relative));
}

/// `tr(M C Mᵀ)^(1/2)`.
fn weighted(m: &ndarray::Array2<f64>, c: &ndarray::Array2<f64>) -> f64 {
    (&m.dot(c) * m).sum().sqrt()
}

/// Second moment of inputs that a few directions dominate.
fn second_moment(n: usize) -> ndarray::Array2<f64> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(n as u64);
    let x = ndarray::Array2::from_shape_fn((3 * n, n), |(_, j)| {
        (rng.random::<f64>() - 0.4) / (1.0 + 0.3 * j as f64)
    });
    x.t().dot(&x) / (3 * n) as f64
}

#[test]
fn every_rounding_of_cores_compensates() {
    let train = train(&[16, 12, 20], 10, 4);
    let quantizer = TtQuantizer::new(QuantScheme::symmetric(Bits::B4));
    let (_, independent) = quantizer.quantize_measured(&train).unwrap();
    let mut errors = Vec::new();
    for rounding in [
        CoreRounding::Nearest,
        CoreRounding::ColumnOrder,
        CoreRounding::NearestPlane,
        CoreRounding::Admm { iterations: 20 },
    ] {
        let best = quantizer.clone().with_strategy(Strategy::BEST);
        let (codes, error) = best
            .with_rounding(rounding)
            .quantize_measured(&train)
            .unwrap();
        let measured = codes.dequantize().cast::<f64>().distance(&train).unwrap() / train.norm();
        assert!((measured - error.relative).abs() <= 1e-3 * measured);
        assert!(
            2.0 * error.relative < independent.relative,
            "{rounding:?}: {error:?}"
        );
        errors.push(error.relative);
    }
    assert!(errors[2] <= errors[0], "{errors:?}");
}

#[test]
fn inputs_that_matter_are_rounded_better() {
    let w = ndarray::Array2::from_shape_fn((24, 30), |(i, j)| {
        ((i * 7 + j * j) as f64 * 0.31).sin() / (1.0 + 0.05 * (i + j) as f64)
    });
    let c = second_moment(30);
    for (layout, rows, cols) in [
        (Layout::Split, vec![24], vec![30]),
        (Layout::Interleaved, vec![4, 6], vec![5, 6]),
        (Layout::Split, vec![4, 6], vec![5, 6]),
    ] {
        let modes = MatrixModes::new(layout, rows, cols).unwrap();
        let (train, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(10)).unwrap();
        let dense = train.to_dense();
        let quantizer =
            TtQuantizer::new(QuantScheme::symmetric(Bits::B4)).with_strategy(Strategy::BEST);
        let (plain, _) = quantizer.quantize_matrix_measured(&train).unwrap();
        let (aware, error) = quantizer
            .quantize_matrix_weighted(&train, c.view())
            .unwrap();
        let seen = |codes: &tn_formats::QuantizedTtMatrix| {
            let back = codes.dequantize().cast::<f64>().to_dense();
            weighted(&(&back - &dense), &c) / weighted(&dense, &c)
        };
        assert!((seen(&aware) - error.relative).abs() < 1e-6, "{error:?}");
        assert_eq!(aware.byte_len(), plain.byte_len());
        assert!(
            seen(&aware) < 0.9 * seen(&plain),
            "{layout:?}: {error:?} {}",
            seen(&plain)
        );
        let simple = quantizer.clone().with_strategy(Strategy::Independent);
        let (_, independent) = simple.quantize_matrix_weighted(&train, c.view()).unwrap();
        assert!(2.0 * error.relative < independent.relative);
    }
    let modes = MatrixModes::low_rank(24, 30).unwrap();
    let (train, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(4)).unwrap();
    let quantizer = TtQuantizer::new(QuantScheme::symmetric(Bits::B4));
    let small = second_moment(29);
    assert!(
        quantizer
            .quantize_matrix_weighted(&train, small.view())
            .is_err()
    );
}

#[test]
fn cores_may_have_schemes_of_their_own() {
    let train = train(&[8, 9, 10], 4, 5);
    let scheme = |bits| QuantScheme::symmetric(bits);
    let each = vec![scheme(Bits::B8), scheme(Bits::B4), scheme(Bits::B2)];
    let quantizer = TtQuantizer::new(scheme(Bits::B8)).with_core_schemes(each);
    let codes = quantizer.quantize(&train).unwrap();
    let bits: Vec<u8> = codes
        .cores()
        .iter()
        .map(|c| c.scheme().bits().get())
        .collect();
    assert_eq!(bits, [8, 4, 2]);
    let short = quantizer.with_core_schemes(vec![scheme(Bits::B8)]);
    assert!(short.quantize(&train).is_err());
}
