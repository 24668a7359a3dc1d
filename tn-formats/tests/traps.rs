//! Arrays that trip numerics: what a decomposition and its quantization make of each.
//!
//! | array | result |
//! |---|---|
//! | a NaN or an infinity | [`Error::NotFinite`] |
//! | an axis of length 0, no axis | [`Error::Empty`] |
//! | zeros | rank 1, error 0, zeros again |
//! | constant, or of rank 1 | rank 1 where an error of 1e-4 is allowed |
//! | denormals | within the error that is allowed, or the type's smallest step; in codes they may be zeros |
//! | entries of 1e36 | within the error that is allowed |
//! | `f32` whose norm is beyond the largest float | an error, or finite |
//! | one element, `1 x n`, `n x 1` | within the error that is allowed |
//! | one large entry, the others tiny | within the error that is allowed |
//! | `f64` whose squares add up beyond the largest float | [`Error::NotFinite`] |

use ndarray::{Array2, ArrayD, IxDyn};
use quant_core::{Bits, Granularity, QuantScheme};
use tn_formats::{
    Error, Gauge, Layout, MatrixModes, Strategy, TensorTrain, Truncation, TtMatrix, TtQuantizer,
    Tucker, TuckerQuantizer,
};

const EPSILON: f64 = 1e-4;

fn noise(i: usize) -> f64 {
    let x = (i as f64 * 12.9898 + 4.1).sin() * 43758.5453;
    2.0 * (x - x.floor()) - 1.0
}

fn array(shape: &[usize], value_at: impl Fn(usize) -> f64) -> ArrayD<f32> {
    let len = shape.iter().product();
    let values = (0..len).map(|i| value_at(i) as f32).collect();
    ArrayD::from_shape_vec(IxDyn(shape), values).unwrap()
}

/// The distance of two arrays over the norm of the second, a norm of 0 counting as the smallest step of f32.
fn relative(found: &ArrayD<f32>, wanted: &ArrayD<f32>) -> f64 {
    assert_eq!(found.shape(), wanted.shape());
    let steps = |x: f64| x / f64::from(f32::from_bits(1));
    let sum = |values: &mut dyn Iterator<Item = f64>| {
        let values: Vec<f64> = values.collect();
        let largest = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let scaled = values
            .iter()
            .map(|v| (v / largest.max(f64::MIN_POSITIVE)).powi(2));
        largest * scaled.sum::<f64>().sqrt()
    };
    let difference = sum(&mut found
        .iter()
        .zip(wanted)
        .map(|(a, b)| steps(f64::from(*a) - f64::from(*b))));
    let norm = sum(&mut wanted.iter().map(|b| steps(f64::from(*b))));
    difference / norm.max(1.0)
}

/// What was found of one array, so that a run names all that is wrong.
struct Found<'a> {
    label: String,
    a: ArrayD<f32>,
    problems: &'a mut Vec<String>,
}

impl Found<'_> {
    fn expect(&mut self, holds: bool, what: &str) {
        if !holds {
            self.problems.push(format!("{}: {what}", self.label));
        }
    }

    /// Finite, and within what is allowed or as many of `f32`'s smallest steps as there are entries.
    fn near(&mut self, found: &ArrayD<f32>, epsilon: f64, what: &str) {
        let finite = found.iter().all(|v| v.is_finite());
        self.expect(finite, &format!("{what} is not finite"));
        let error = relative(found, &self.a);
        let norm = relative(&self.a, &ArrayD::zeros(self.a.raw_dim()));
        let allowed = 1.001 * epsilon + self.a.len() as f64 / norm.max(1.0);
        self.expect(error <= allowed, &format!("{what} is off by {error}"));
    }
}

/// All decompositions of an array, and of them all ways to quantize. Gives the largest rank of the train.
fn check(
    problems: &mut Vec<String>,
    label: &str,
    shape: &[usize],
    value_at: impl Fn(usize) -> f64,
) -> usize {
    let a = array(shape, value_at);
    let mut found = Found {
        label: format!("{label} {shape:?}"),
        a: a.clone(),
        problems,
    };
    let truncation = Truncation::RelativeError(EPSILON);
    let (train, certificate) = TensorTrain::decompose(a.view(), &truncation).unwrap();
    found.expect(certificate.relative_error() <= EPSILON, "certificate");
    found.near(&train.to_dense(), EPSILON, "train");
    let (tucker, certificate) = Tucker::decompose(a.view(), &truncation).unwrap();
    found.expect(certificate.relative_error() <= EPSILON, "its certificate");
    found.near(&tucker.to_dense(), EPSILON, "tucker");
    for gauge in [Gauge::Left, Gauge::Right, Gauge::Symmetric] {
        let other = train.gauge(gauge).unwrap();
        found.near(&other.to_dense(), EPSILON, &format!("{gauge:?}"));
    }
    let rounded = train.round(&Truncation::MaxRank(2)).unwrap().0.to_dense();
    found.expect(rounded.iter().all(|v| v.is_finite()), "rounded");
    for scheme in [
        QuantScheme::symmetric(Bits::B8),
        QuantScheme::affine(Bits::B8).with_granularity(Granularity::per_axis(0)),
    ] {
        // Eight bits: each core is off by at most a percent or two of itself, unless its scale would be a denormal.
        let cores = (train.order() + 1) as f64;
        let tiny = a.iter().all(|v| v.abs() < 127.0 * f32::MIN_POSITIVE);
        let coarse = if tiny { 1.0 } else { 0.1 * cores };
        for strategy in [
            Strategy::Independent,
            Strategy::Gauge(Gauge::Symmetric),
            Strategy::BEST,
        ] {
            let quantizer = TtQuantizer::new(scheme).with_strategy(strategy);
            let (codes, error) = quantizer.quantize_measured(&train).unwrap();
            let what = format!("{:?} {strategy:?}", scheme.mapping());
            found.expect(error.relative.is_finite(), &format!("error of {what}"));
            found.near(&codes.dequantize().to_dense(), coarse, &what);
        }
        let codes = TuckerQuantizer::new(scheme).quantize(&tucker).unwrap();
        let what = format!("tucker {:?}", scheme.mapping());
        found.near(&codes.dequantize().to_dense(), coarse, &what);
    }
    train.ranks().into_iter().max().unwrap_or(0)
}

#[test]
fn every_trap_has_a_result() {
    let problems = &mut Vec::new();
    for shape in [&[6, 5, 4][..], &[24, 18], &[1, 40], &[40, 1], &[1], &[7]] {
        assert_eq!(check(problems, "zeros", shape, |_| 0.0), 1);
        assert_eq!(check(problems, "constant", shape, |_| -0.125), 1);
        check(problems, "noise", shape, noise);
        check(problems, "denormals", shape, |i| 1e-41 * noise(i));
        check(problems, "huge", shape, |i| 1e36 * noise(i));
        let spike = |i| if i == 3 { 1e6 } else { 1e-3 * noise(i) };
        check(problems, "one large entry", shape, spike);
    }
    let rank_one = |i: usize| noise(i / 18) * noise(100 + i % 18);
    assert_eq!(check(problems, "rank one", &[24, 18], rank_one), 1);
    let twice = |i: usize| noise(i % 18 + (i / 18 % 12) * 18);
    assert_eq!(check(problems, "rows twice", &[24, 18], twice), 12);
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn no_numbers_are_refused() {
    let modes = MatrixModes::new(Layout::Interleaved, vec![3, 4], vec![5, 2]).unwrap();
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut w = Array2::from_shape_fn((12, 10), |(i, j)| noise(10 * i + j) as f32);
        w[[7, 3]] = odd;
        for truncation in [Truncation::RelativeError(0.1), Truncation::MaxRank(2)] {
            let a = w.view().into_dyn();
            let results = [
                TensorTrain::decompose(a.view(), &truncation).map(drop),
                Tucker::decompose(a.view(), &truncation).map(drop),
                TtMatrix::decompose(w.view(), &modes, &truncation).map(drop),
            ];
            for result in results {
                assert!(
                    matches!(result, Err(Error::NotFinite { .. })),
                    "{odd} {result:?}"
                );
            }
        }
    }
}

/// The last core of a train, and the core of a Tucker network, hold the norm.
#[test]
fn a_norm_beyond_the_largest_float_is_an_error_or_finite() {
    for shape in [&[6, 5, 4][..], &[24, 18], &[1, 40], &[1]] {
        let a = array(shape, |i| 3e38 * noise(i));
        for truncation in [Truncation::RelativeError(EPSILON), Truncation::MaxRank(2)] {
            if let Ok((train, _)) = TensorTrain::decompose(a.view(), &truncation) {
                let mut cores = train.cores().iter().flat_map(|c| c.as_slice());
                assert!(cores.all(|v| v.is_finite()), "{shape:?} {truncation:?}");
            }
            if let Ok((tucker, _)) = Tucker::decompose(a.view(), &truncation) {
                let finite = tucker.core().iter().all(|v| v.is_finite());
                assert!(finite, "{shape:?} {truncation:?}");
            }
        }
    }
}

#[test]
fn arrays_without_elements_are_refused() {
    let truncation = Truncation::RelativeError(0.1);
    for shape in [&[][..], &[0], &[0, 5], &[5, 0], &[3, 0, 4]] {
        let a = ArrayD::<f32>::zeros(IxDyn(shape));
        let results = [
            TensorTrain::decompose(a.view(), &truncation).map(drop),
            Tucker::decompose(a.view(), &truncation).map(drop),
        ];
        for result in results {
            assert!(
                matches!(result, Err(Error::Empty { .. })),
                "{shape:?} {result:?}"
            );
        }
    }
}

/// `f64` reaches further than the square root of its largest number: what lies beyond is refused, what lies below the root of
/// its smallest counts as zeros.
#[test]
fn doubles_beyond_the_range_of_squares() {
    let truncation = Truncation::RelativeError(EPSILON);
    let of =
        |scale: f64| ArrayD::from_shape_fn(IxDyn(&[6, 5]), |ix| scale * noise(ix[0] * 5 + ix[1]));
    let (huge, tiny) = (of(1e200), of(1e-200));
    assert!(matches!(
        TensorTrain::decompose(huge.view(), &truncation),
        Err(Error::NotFinite { .. })
    ));
    assert!(matches!(
        Tucker::decompose(huge.view(), &truncation),
        Err(Error::NotFinite { .. })
    ));
    let (train, certificate) = TensorTrain::decompose(tiny.view(), &truncation).unwrap();
    assert!(certificate.relative_error().is_finite());
    assert!(train.to_dense().iter().all(|v| v.abs() <= 1e-199));
}
