//! The fused operators against stock tract on the same file.

mod common;

use common::{gemm, matmul, noise};
use ndarray::ArrayD;
use onnx_bridge::runtime::{Activations, Runtime, RuntimeOptions};
use onnx_bridge::{
    CoreGranularity, Engine, Format, Growth, Job, MappingChoice, Model, Quantization, Spec,
    compress,
};
use quant_core::Bits;
use tn_formats::Truncation;
use tn_formats::npy::NpyArray;

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let square = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let error = square(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (error / square(&mut expected.iter().copied())).sqrt()
}

fn check(model: &Model, what: &str) {
    let stock = Engine::load(model).unwrap();
    let dims: Vec<usize> = stock.inputs()[0]
        .dims
        .iter()
        .map(|d| d.unwrap_or(3))
        .collect();
    let x = ArrayD::from_shape_fn(dims.as_slice(), |i| noise(3, i[0] * 1000 + i[1]));
    let input = [NpyArray::F32(x)];
    let expected = stock.run(&input).unwrap();
    for (activations, tolerance) in [(Activations::F32, 1e-5), (Activations::Int8, 0.02)] {
        let mut options = RuntimeOptions::default();
        options.activations = activations;
        let runtime = Runtime::load(model, &options).unwrap();
        assert_eq!(runtime.layers().len(), 1, "{what}");
        let found = runtime.run(&input).unwrap();
        let (found, expected) = (found[0].to_f32(), expected[0].to_f32());
        assert_eq!(found.shape(), expected.shape(), "{what}");
        let error = relative(found.as_slice().unwrap(), expected.as_slice().unwrap());
        assert!(error < tolerance, "{what} {activations:?}: {error}");
    }
}

#[test]
fn products_agree_with_the_chain() {
    let block = CoreGranularity::Block(std::num::NonZeroUsize::new(16).unwrap());
    for format in [Format::Dense, Format::LowRank, Format::Tucker] {
        for bits in [2, 3, 4, 8] {
            for mapping in [MappingChoice::Symmetric, MappingChoice::Affine] {
                for granularity in [CoreGranularity::Core, CoreGranularity::Axis, block] {
                    let spec = Spec {
                        quantization: Quantization {
                            bits: Bits::new(bits).unwrap(),
                            mapping,
                            granularity,
                        },
                        truncation: Some(Truncation::MaxRank(6)),
                        ..Spec::of(format)
                    };
                    let what = format!("{format:?} {bits} {mapping:?} {granularity:?}");
                    for model in [matmul(48, 37), gemm(32, 33, Vec::new())] {
                        let (small, _) =
                            compress(&model, &Job::new(spec.clone()).with_growth(Growth::Allowed))
                                .unwrap();
                        check(&small, &what);
                    }
                }
            }
        }
    }
}
