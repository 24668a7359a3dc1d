//! Schemes, parameters and tensors: what can be built, and what it then says of itself.

use quant_core::{
    Bits, Granularity, QuantError, QuantParams, QuantScheme, QuantizedTensor, Signedness,
    SymmetricRange, dequantize, fake_quantize, quantize, scale_shape,
};

fn ramp(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0)
        .collect()
}

fn schemes(granularity: Granularity) -> Vec<QuantScheme> {
    let mut all = Vec::new();
    for bits in Bits::ALL {
        for signedness in [Signedness::Signed, Signedness::Unsigned] {
            let symmetric = QuantScheme::symmetric(bits).with_signedness(signedness);
            let affine = QuantScheme::affine(bits).with_signedness(signedness);
            all.extend([
                symmetric,
                symmetric.with_range(SymmetricRange::Full),
                affine,
            ]);
        }
    }
    all.into_iter()
        .map(|s| s.with_granularity(granularity))
        .collect()
}

fn granularities() -> Vec<Granularity> {
    let mut all = vec![Granularity::PerTensor];
    for axis in 0..3 {
        all.push(Granularity::per_axis(axis));
        for block in [1, 2, 3, 64] {
            all.push(Granularity::per_block(axis, block).unwrap());
        }
    }
    all
}

#[test]
fn every_scheme_round_trips_within_half_a_step() {
    let shape = [3, 5, 7];
    let data = ramp(105);
    for granularity in granularities() {
        for scheme in schemes(granularity) {
            let q = QuantizedTensor::quantize(&data, &shape, &scheme).unwrap();
            let scales: usize = scale_shape(&shape, granularity).unwrap().iter().product();
            assert_eq!(q.params().scales().len(), scales, "{scheme:?}");
            let back = q.dequantize();
            let largest = q.params().scales().iter().fold(0f32, |a, &b| a.max(b));
            // The full range cuts at most one step; a rounded zero point shifts a range by half a step.
            let steps = if scheme == scheme.with_range(SymmetricRange::Full) {
                1.0
            } else {
                0.5
            };
            let steps = if scheme.has_zero_points() { 1.0 } else { steps };
            for (x, y) in data.iter().zip(&back) {
                assert!(
                    (x - y).abs() <= steps * largest * 1.0001,
                    "{scheme:?}: {x} became {y}"
                );
            }
            assert_eq!(q.codes(), quantize(&data, &shape, q.params()).unwrap());
            assert_eq!(back, dequantize(&q.codes(), &shape, q.params()).unwrap());
            assert_eq!(back, fake_quantize(&data, &shape, q.params()).unwrap());
            let again =
                QuantizedTensor::from_codes(&shape, q.params().clone(), &q.codes()).unwrap();
            assert_eq!(again, q);
            let packed = q.packed_bytes().to_vec();
            assert_eq!(
                packed.len(),
                (105 * usize::from(scheme.bits().get())).div_ceil(8)
            );
            assert_eq!(
                QuantizedTensor::from_packed(&shape, q.params().clone(), packed).unwrap(),
                q
            );
        }
    }
}

#[test]
fn groups_are_the_ones_onnx_means() {
    let data = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
    let check = |granularity, expected: &[f32]| {
        let scheme = QuantScheme::symmetric(Bits::B2).with_granularity(granularity);
        let params = QuantParams::min_max(&data, &[2, 3], &scheme).unwrap();
        assert_eq!(params.scales(), expected, "{granularity:?}");
    };
    check(Granularity::PerTensor, &[32.0]);
    check(Granularity::per_axis(0), &[4.0, 32.0]);
    check(Granularity::per_axis(1), &[8.0, 16.0, 32.0]);
    check(
        Granularity::per_block(1, 2).unwrap(),
        &[2.0, 4.0, 16.0, 32.0],
    );
    check(Granularity::per_block(0, 2).unwrap(), &[8.0, 16.0, 32.0]);
    check(Granularity::per_block(0, 1).unwrap(), &data);
}

#[test]
fn the_two_symmetric_ranges_differ_in_step() {
    let check = |range, signedness, expected: [i32; 4]| {
        let scheme = QuantScheme::symmetric(Bits::B4)
            .with_range(range)
            .with_signedness(signedness);
        let q = QuantizedTensor::quantize(&[-56.0, 56.0, 0.0, 8.0], &[4], &scheme).unwrap();
        assert_eq!(q.codes(), expected, "{scheme:?}");
    };
    check(
        SymmetricRange::Restricted,
        Signedness::Signed,
        [-7, 7, 0, 1],
    );
    check(SymmetricRange::Full, Signedness::Signed, [-8, 7, 0, 1]);
    check(
        SymmetricRange::Restricted,
        Signedness::Unsigned,
        [1, 15, 8, 9],
    );
    check(SymmetricRange::Full, Signedness::Unsigned, [0, 15, 8, 9]);
}

#[test]
fn bytes_are_counted_honestly() {
    let data = ramp(96);
    let check = |scheme: QuantScheme, expected: usize| {
        let q = QuantizedTensor::quantize(&data, &[3, 32], &scheme).unwrap();
        assert_eq!(q.byte_len(), expected, "{scheme:?}");
    };
    check(QuantScheme::symmetric(Bits::B8), 96 + 4);
    check(QuantScheme::symmetric(Bits::B3), 36 + 4);
    check(QuantScheme::affine(Bits::B8), 96 + 4 + 1);
    let rows = Granularity::per_axis(0);
    check(
        QuantScheme::affine(Bits::B4).with_granularity(rows),
        48 + 12 + 2,
    );
    let blocks = Granularity::per_block(1, 16).unwrap();
    check(
        QuantScheme::symmetric(Bits::B4).with_granularity(blocks),
        48 + 24,
    );
    check(
        QuantScheme::affine(Bits::B2).with_granularity(blocks),
        24 + 24 + 2,
    );
}

#[test]
fn odd_inputs_have_documented_results() {
    let scheme = QuantScheme::symmetric(Bits::B8);
    let zeros = QuantizedTensor::quantize(&[0.0; 3], &[3], &scheme).unwrap();
    assert_eq!(
        (zeros.params().scales(), zeros.dequantize()),
        (&[1.0][..], vec![0.0; 3])
    );
    let empty = QuantizedTensor::quantize(&[], &[0, 4], &scheme).unwrap();
    assert!(empty.is_empty() && empty.dequantize().is_empty());
    let scalar = QuantizedTensor::quantize(&[3.0], &[], &scheme).unwrap();
    assert_eq!(scalar.codes(), [127]);
    let tiny = QuantizedTensor::quantize(&[1e-45, -1e-45], &[2], &scheme).unwrap();
    assert_eq!(tiny.codes(), [0, 0]);
    let huge = [f32::MAX, f32::MIN];
    let q = QuantizedTensor::quantize(&huge, &[2], &QuantScheme::affine(Bits::B8)).unwrap();
    assert_eq!(q.codes(), [255, 0]);
    let params = QuantParams::new(QuantScheme::affine(Bits::B8), vec![1.0], vec![7]).unwrap();
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -0.0];
    assert_eq!(quantize(&odd, &[5], &params).unwrap(), [7, 255, 0, 7, 7]);
}

#[test]
fn inconsistent_parts_are_refused() {
    let sym = QuantScheme::symmetric(Bits::B4);
    let params = |scales: Vec<f32>| QuantParams::from_scales(sym, scales).unwrap();
    let check = |result: Result<QuantizedTensor, QuantError>, expected: &str| {
        assert_eq!(result.unwrap_err().to_string(), expected);
    };
    let new = QuantizedTensor::from_codes;
    check(
        new(&[2, 2], params(vec![1.0]), &[0; 3]),
        "codes must hold 4 elements, found 3",
    );
    check(
        new(&[1], params(vec![1.0]), &[-8]),
        "code 0 must lie in -7..=7, found -8",
    );
    check(
        new(&[1], params(vec![1.0; 2]), &[0]),
        "scales must hold 1 elements, found 2",
    );
    let packed = QuantizedTensor::from_packed;
    check(
        packed(&[3], params(vec![1.0]), vec![0]),
        "packed bytes must hold 2 elements, found 1",
    );
    check(
        packed(&[1], params(vec![1.0]), vec![0x08]),
        "code 0 must lie in -7..=7, found -8",
    );
    check(
        packed(&[1], params(vec![1.0]), vec![0x10]),
        "the 4 padding bits of the last packed byte must be zero, found byte 0x10",
    );
    let axis = sym.with_granularity(Granularity::per_axis(2));
    let quantized = QuantizedTensor::quantize;
    check(
        quantized(&[0.0; 4], &[2, 2], &axis),
        "axis 2 does not exist in a shape of rank 2",
    );
    check(
        quantized(&[0.0; 4], &[5], &sym),
        "data must hold 5 elements, found 4",
    );
    check(
        quantized(&[0.0, f32::NAN], &[2], &sym),
        "element 1 must be finite, found NaN",
    );
    let huge = [usize::MAX, 2];
    assert!(matches!(
        quantized(&[], &huge, &sym),
        Err(QuantError::ShapeOverflow { .. })
    ));
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let result = QuantParams::from_scales(sym, vec![1.0, scale]);
        assert!(matches!(result, Err(QuantError::Scale { index: 1, .. })));
    }
    let zero_point = QuantParams::new(sym, vec![1.0], vec![1]).unwrap_err();
    assert_eq!(
        zero_point.to_string(),
        "zero point 0 must lie in 0..=0, found 1"
    );
    assert!(QuantParams::new(QuantScheme::affine(Bits::B4), vec![1.0], vec![16]).is_err());
}

#[test]
fn serde_keeps_what_is_valid_and_refuses_the_rest() {
    let scheme =
        QuantScheme::affine(Bits::B3).with_granularity(Granularity::per_block(1, 32).unwrap());
    let text = serde_json::to_string(&scheme).unwrap();
    assert_eq!(
        text,
        r#"{"bits":3,"mapping":"affine","signedness":"unsigned","granularity":{"per_block":{"axis":1,"block_size":32}}}"#
    );
    assert_eq!(serde_json::from_str::<QuantScheme>(&text).unwrap(), scheme);
    for broken in [
        text.replace(":3", ":9"),
        text.replace("32", "0"),
        text.replace("affine", "log"),
    ] {
        assert!(
            serde_json::from_str::<QuantScheme>(&broken).is_err(),
            "{broken}"
        );
    }
    let params = QuantParams::new(scheme, vec![0.5, 2.0], vec![0, 7]).unwrap();
    let text = serde_json::to_string(&params).unwrap();
    assert_eq!(serde_json::from_str::<QuantParams>(&text).unwrap(), params);
    for broken in [
        text.replace("[0.5,2.0]", "[0.5,-2.0]"),
        text.replace("[0,7]", "[0,8]"),
    ] {
        assert!(
            serde_json::from_str::<QuantParams>(&broken).is_err(),
            "{broken}"
        );
    }
}
