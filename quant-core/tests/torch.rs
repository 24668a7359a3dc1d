//! `fake_quantize` against PyTorch's, on the fixture that `fixtures/torch_fake_quantize.py` writes.

use quant_core::{
    Bits, Division, Granularity, QuantParams, QuantScheme, Signedness, fake_quantize,
    fake_quantize_with,
};
use serde_json::Value;

struct Case {
    shape: Vec<usize>,
    params: QuantParams,
    inputs: Vec<f32>,
    outputs: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let text = include_str!("fixtures/torch_fake_quantize.json");
    let blob = include_bytes!("fixtures/torch_fake_quantize.bin");
    let mut floats = blob
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b));
    let fixture: Value = serde_json::from_str(text).unwrap();
    let read = |case: &Value| {
        let list = |key: &str| case[key].as_array().unwrap().clone();
        let shape: Vec<usize> = list("shape")
            .iter()
            .map(|d| d.as_u64().unwrap() as usize)
            .collect();
        let scales = list("scales")
            .iter()
            .map(|s| s.as_f64().unwrap() as f32)
            .collect();
        let zero_points = list("zero_points")
            .iter()
            .map(|z| z.as_i64().unwrap() as i32)
            .collect();
        let signedness = match case["signed"].as_bool().unwrap() {
            true => Signedness::Signed,
            false => Signedness::Unsigned,
        };
        let granularity = match case["axis"].as_u64() {
            Some(axis) => Granularity::per_axis(axis as usize),
            None => Granularity::PerTensor,
        };
        let scheme = QuantScheme::affine(Bits::new(case["bits"].as_u64().unwrap() as u8).unwrap())
            .with_signedness(signedness)
            .with_granularity(granularity);
        let len = shape.iter().product();
        let inputs = floats.by_ref().take(len).collect();
        let outputs = floats.by_ref().take(len).collect();
        Case {
            shape,
            params: QuantParams::new(scheme, scales, zero_points).unwrap(),
            inputs,
            outputs,
        }
    };
    fixture["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(read)
        .collect()
}

#[test]
fn by_the_reciprocal_every_bit_is_pytorchs() {
    let mut values = 0;
    for case in cases() {
        let (x, shape, params) = (&case.inputs, &case.shape, &case.params);
        let got = fake_quantize_with(x, shape, params, Division::Reciprocal).unwrap();
        for ((x, got), want) in case.inputs.iter().zip(&got).zip(&case.outputs) {
            assert_eq!(
                got.to_bits(),
                want.to_bits(),
                "{x}: {got} for {want}, {params:?}"
            );
        }
        values += got.len();
    }
    assert!(values >= 10_000, "{values}");
}

#[test]
fn by_division_only_values_next_to_a_half_step_differ() {
    for case in cases() {
        let got = fake_quantize(&case.inputs, &case.shape, &case.params).unwrap();
        let scales = case.params.scales();
        for (i, ((x, got), want)) in case.inputs.iter().zip(&got).zip(&case.outputs).enumerate() {
            if got.to_bits() == want.to_bits() {
                continue;
            }
            let group = match case.params.scheme().granularity() {
                Granularity::PerAxis { axis } => {
                    i / case.shape[axis + 1..].iter().product::<usize>() % case.shape[axis]
                }
                _ => 0,
            };
            let steps = f64::from(*x) / f64::from(scales[group]);
            let from_half = (steps - steps.floor() - 0.5).abs();
            assert!(
                from_half <= steps.abs() * 1.3e-7,
                "{x} is {steps} steps: {got} for {want}"
            );
            // A power of two has an exact reciprocal.
            assert_ne!(
                scales[group].to_bits() & 0x7f_ffff,
                0,
                "{x}: {got} for {want}"
            );
        }
    }
}
