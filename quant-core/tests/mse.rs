//! The MSE-optimal parameters against a grid of 10,000 scales, on random tensors and on tensors of trained models.

use quant_core::{Bits, QuantScheme, SymmetricRange, mse_optimal, mse_optimal_weighted};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// The sum of squared errors, in f64.
fn error(values: &[f32], scale: f64, zero_point: i32, scheme: &QuantScheme) -> f64 {
    let (lo, hi) = (
        scheme.min_code() - zero_point,
        scheme.max_code() - zero_point,
    );
    let one = |&x: &f32| {
        let x = f64::from(x);
        let q = (x / scale)
            .round_ties_even()
            .clamp(f64::from(lo), f64::from(hi));
        (x - q * scale).powi(2)
    };
    values.iter().map(one).sum()
}

/// Never worse than the best of `grid` scales up to that which no larger can beat.
fn check(values: &[f32], scheme: &QuantScheme, grid: usize) {
    let best = mse_optimal(values, scheme).unwrap();
    let own = error(values, f64::from(best.scale), best.zero_point, scheme);
    assert!(
        (own - best.squared_error).abs() <= 1e-9 * own.max(1e-30),
        "{own} {best:?}"
    );
    let largest = f64::from(values.iter().fold(0f32, |a, x| a.max(x.abs())));
    let zero_points = match scheme.symmetric_zero_point() {
        Some(fixed) => fixed..=fixed,
        None => scheme.min_code()..=scheme.max_code(),
    };
    for zero_point in zero_points {
        let top = 2.2 * largest / f64::from((scheme.max_code() - zero_point).max(1));
        for i in 1..=grid {
            let scale = f64::from((top * i as f64 / grid as f64) as f32);
            if scale > 0.0 {
                let other = error(values, scale, zero_point, scheme);
                assert!(
                    own <= other,
                    "{scheme:?}: {best:?} has {own}, but {scale} has {other}"
                );
            }
        }
    }
}

/// Normal, uniform, heavy-tailed, few-valued, lopsided.
fn random_values(rng: &mut Pcg64, len: usize, kind: usize) -> Vec<f32> {
    let mut uniform = || rng.random::<f32>() - 0.5;
    let mut one = || match kind % 5 {
        0 => (0..6).map(|_| uniform()).sum(),
        1 => uniform(),
        2 => uniform() / (0.02 + uniform().abs()),
        3 => (uniform() * 9.0).round(),
        _ => uniform().powi(2) * 4.0 - 0.1,
    };
    (0..len).map(|_| one()).collect()
}

#[test]
fn never_worse_than_ten_thousand_grid_points() {
    let mut rng = Pcg64::seed_from_u64(7);
    for i in 0..1000 {
        let bits = Bits::ALL[i % 7];
        let mut scheme = QuantScheme::symmetric(bits);
        if i % 2 == 1 {
            scheme = scheme.with_range(SymmetricRange::Full);
        }
        let len = 1 + (rng.next_u32() as usize) % 48;
        check(&random_values(&mut rng, len, i / 7), &scheme, 10_000);
    }
}

#[test]
fn never_worse_than_a_grid_of_scales_and_zero_points() {
    let mut rng = Pcg64::seed_from_u64(8);
    for i in 0..60 {
        let scheme = QuantScheme::affine(Bits::ALL[i % 3]);
        check(&random_values(&mut rng, 24, i / 3), &scheme, 10_000);
    }
    for kind in 0..5 {
        check(
            &random_values(&mut rng, 40, kind),
            &QuantScheme::affine(Bits::B8),
            300,
        );
    }
}

/// The next field of a protobuf message: its number, its bytes if it has a length, and the rest.
fn field(message: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let varint = |bytes: &[u8]| -> Option<(u64, usize)> {
        let end = bytes.iter().position(|b| b & 0x80 == 0)?;
        let value = bytes[..=end]
            .iter()
            .rev()
            .fold(0, |v, b| v << 7 | u64::from(b & 0x7f));
        Some((value, end + 1))
    };
    let (key, start) = varint(message)?;
    let rest = &message[start..];
    let (skip, len) = match key & 7 {
        0 => (0, varint(rest)?.1),
        1 => (0, 8),
        2 => varint(rest).map(|(len, skip)| (skip, len as usize))?,
        5 => (0, 4),
        _ => return None,
    };
    Some((
        key >> 3,
        rest.get(skip..skip + len)?,
        rest.get(skip + len..)?,
    ))
}

/// All payloads of the fields `number` of a message.
fn fields(mut message: &[u8], number: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((n, payload, rest)) = field(message) {
        if n == number {
            found.push(payload);
        }
        message = rest;
    }
    found
}

#[test]
#[allow(clippy::print_stderr, reason = "says that it is skipped")]
fn never_worse_than_a_grid_on_trained_weights() {
    for model in ["mnist-mlp.onnx", "minilm-l6.onnx"] {
        let path = format!("{}/../../shared/models/{model}", env!("CARGO_MANIFEST_DIR"));
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!("skipped: {path} is absent");
            continue;
        };
        // ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
        let graph = fields(&bytes, 7)[0];
        let mut checked = 0;
        for raw in fields(graph, 5)
            .into_iter()
            .flat_map(|tensor| fields(tensor, 9))
        {
            if raw.len() < 16_384 {
                continue;
            }
            // A stretch of 192 values from each third of the tensor.
            for third in 0..3 {
                let start = raw.len() / 3 * third / 4 * 4;
                let part = raw[start..][..768].as_chunks::<4>().0;
                let values: Vec<f32> = part.iter().map(|b| f32::from_le_bytes(*b)).collect();
                if values.iter().all(|x| x.is_finite()) {
                    check(
                        &values,
                        &QuantScheme::symmetric(Bits::ALL[checked % 7]),
                        10_000,
                    );
                    checked += 1;
                }
            }
        }
        assert!(
            checked >= 6,
            "{model} has only {checked} stretches of weights"
        );
    }
}

#[test]
fn weights_count_values() {
    let values = [0.1, -0.9, 0.4, 2.0];
    let repeated = [0.1, 0.1, 0.1, -0.9, 0.4, 0.4, 2.0];
    for bits in Bits::ALL {
        let scheme = QuantScheme::affine(bits);
        let weighted = mse_optimal_weighted(&values, &[3.0, 1.0, 2.0, 1.0], &scheme).unwrap();
        let plain = mse_optimal(&repeated, &scheme).unwrap();
        let close = (weighted.squared_error - plain.squared_error).abs();
        assert!(close <= 1e-12, "{weighted:?} {plain:?}");
    }
}

#[test]
fn odd_values_are_handled() {
    let scheme = QuantScheme::symmetric(Bits::B4);
    assert_eq!(mse_optimal(&[], &scheme).unwrap().scale, 1.0);
    assert_eq!(mse_optimal(&[0.0; 5], &scheme).unwrap().squared_error, 0.0);
    assert!(mse_optimal(&[f32::NAN], &scheme).is_err());
    assert!(mse_optimal_weighted(&[1.0], &[-1.0], &scheme).is_err());
    let one = mse_optimal(&[3.0], &scheme).unwrap();
    assert!(one.squared_error < 1e-12, "{one:?}");
    let tiny = mse_optimal(&[1e-38, -1e-40], &scheme).unwrap();
    assert!(tiny.scale > 0.0);
    assert!(
        mse_optimal(&[f32::MAX, 1.0], &scheme)
            .unwrap()
            .scale
            .is_finite()
    );
}
