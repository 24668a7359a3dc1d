use proptest::prelude::*;
use quant_core::{Bits, Granularity, QuantScheme, Signedness, SymmetricRange, fake_quantize};

use super::*;

fn schemes() -> Vec<QuantScheme> {
    let block = Granularity::per_block(1, 3).unwrap();
    let middle = Granularity::per_block(0, 2).unwrap();
    let granularities = [
        Granularity::PerTensor,
        Granularity::per_axis(0),
        Granularity::per_axis(1),
        Granularity::per_axis(2),
        block,
        middle,
    ];
    let mut all = Vec::new();
    for bits in Bits::ALL {
        for granularity in granularities {
            let symmetric = QuantScheme::symmetric(bits).with_granularity(granularity);
            all.push(symmetric);
            all.push(symmetric.with_range(SymmetricRange::Full));
            all.push(symmetric.with_signedness(Signedness::Unsigned));
            all.push(QuantScheme::affine(bits).with_granularity(granularity));
            all.push(
                QuantScheme::affine(bits)
                    .with_granularity(granularity)
                    .with_signedness(Signedness::Signed),
            );
        }
    }
    all
}

proptest! {
    #[test]
    fn forward_equals_quant_core_bit_for_bit(w in prop::collection::vec(-9.0f32..9.0, 30), seed in 0usize..1000) {
        let shape = [2, 5, 3];
        for scheme in schemes() {
            let fq = FakeQuant::new(scheme, &shape).unwrap();
            for init in [StepInit::MinMax, StepInit::MeanMagnitude, StepInit::Mse] {
                let (mut steps, zero_points) = fq.initial_steps(&w, init).unwrap();
                steps.iter_mut().enumerate().for_each(|(i, s)| *s *= 0.5 + ((i + seed) % 7) as f32 / 10.0);
                let mut out = vec![0.0; 30];
                fq.forward(&w, &steps, zero_points.as_deref(), &mut out).unwrap();
                let params = fq.params(&steps, zero_points.as_deref()).unwrap();
                prop_assert_eq!(&out, &fake_quantize(&w, &shape, &params).unwrap());
                prop_assert_eq!(&out, &fq.quantize(&w, &steps, zero_points.as_deref()).unwrap().dequantize());
            }
        }
    }

    #[test]
    fn mse_start_is_never_worse_than_min_max(w in prop::collection::vec(-3.0f64..3.0, 24)) {
        for scheme in schemes().into_iter().filter(|s| s.granularity() == Granularity::PerTensor) {
            let fq = FakeQuant::new(scheme, &[24]).unwrap();
            let error = |init| {
                let (steps, z) = fq.initial_steps(&w, init).unwrap();
                let mut out = vec![0.0; 24];
                fq.forward(&w, &steps, z.as_deref(), &mut out).unwrap();
                out.iter().zip(&w).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
            };
            prop_assert!(error(StepInit::Mse) <= error(StepInit::MinMax) * (1.0 + 1e-9));
        }
    }
}

/// With all codes fixed, outside the clip range the output is linear in step and zero point: there the surrogate gradient
/// is the true one.
#[test]
fn clipped_gradients_equal_central_differences() {
    let scheme = QuantScheme::affine(Bits::B2);
    let fq = FakeQuant::new(scheme, &[4]).unwrap();
    let w = [-5.0f64, 7.0, 9.0, -3.0];
    let (steps, z) = ([0.5], [1.0]);
    let mut g = [0.3, -0.2, 0.5, 0.7];
    let value = |s: f64, z: f64| -> f64 {
        // The zero point as a real number: (code - z) s with the code fixed at its end.
        let ends = [0.0, 3.0, 3.0, 0.0];
        ends.iter()
            .zip([0.3, -0.2, 0.5, 0.7])
            .map(|(q, g)| g * (q - z) * s)
            .sum()
    };
    let (mut ds, mut dz) = ([0.0], [0.0]);
    fq.backward(&w, &steps, Some(&z), &mut g, &mut ds, Some(&mut dz))
        .unwrap();
    let factor = fq.gradient_factor();
    let h = 1e-6;
    let by_step = (value(0.5 + h, 1.0) - value(0.5 - h, 1.0)) / (2.0 * h) * factor;
    let by_zero = (value(0.5, 1.0 + h) - value(0.5, 1.0 - h)) / (2.0 * h) * factor;
    assert!((ds[0] - by_step).abs() < 1e-9 && (dz[0] - by_zero).abs() < 1e-9);
    assert_eq!(g, [0.0; 4]);
}

#[test]
fn wrong_lengths_and_axes_are_errors() {
    let fq = FakeQuant::new(QuantScheme::affine(Bits::B4), &[2, 2]).unwrap();
    let mut out = [0.0f32; 4];
    let text = |r: Result<()>| r.unwrap_err().to_string();
    assert_eq!(
        text(fq.forward(&[0.0; 3], &[1.0], Some(&[0.0]), &mut out)),
        "elements of a fake-quantized tensor: expected 4 entries, found 3"
    );
    assert_eq!(
        text(fq.forward(&[0.0; 4], &[1.0], None, &mut out)),
        "zero points: expected 1 entries, found 0"
    );
    assert_eq!(
        FakeQuant::new(
            QuantScheme::symmetric(Bits::B4).with_granularity(Granularity::per_axis(2)),
            &[2, 2]
        )
        .unwrap_err()
        .to_string(),
        "quantization: axis 2 does not exist in a shape of rank 2"
    );
}

#[test]
fn a_step_that_an_optimizer_broke_is_floored() {
    let fq = FakeQuant::new(QuantScheme::symmetric(Bits::B4), &[2]).unwrap();
    for step in [0.0f32, -1.0, f32::NAN] {
        let mut out = [0.0; 2];
        fq.forward(&[1.0, -1.0], &[step], None, &mut out).unwrap();
        assert!(out.iter().all(|x| x.is_finite()));
        assert_eq!(
            fq.quantize(&[1.0, -1.0], &[step], None)
                .unwrap()
                .dequantize(),
            out
        );
    }
}
