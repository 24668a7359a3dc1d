//! The fused operators against stock tract on the same file.

mod common;

use common::{gemm, matmul, noise};
use ndarray::ArrayD;
use onnx_bridge::plan::{Candidate, Goal, MemoryStore, Session, compress_planned};
use onnx_bridge::runtime::{Activations, Route, Runtime, RuntimeOptions};
use onnx_bridge::{
    CoreGranularity, Dataset, Engine, Format, Growth, Job, MappingChoice, Model, Quantization,
    RunsOn, Spec, compress,
};
use quant_core::Bits;
use tn_formats::npy::NpyArray;
use tn_formats::{Layout, Truncation};

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
    let cases = [
        (Activations::F32, Route::Auto, 1e-5),
        (Activations::F32, Route::Cores, 1e-5),
        (Activations::F32, Route::Merged, 1e-5),
        (Activations::F32, Route::Dense, 1e-5),
        (Activations::Int8, Route::Auto, 0.02),
    ];
    for (activations, route, tolerance) in cases {
        let mut options = RuntimeOptions::default();
        (options.activations, options.route) = (activations, route);
        let runtime = Runtime::load(model, &options).unwrap();
        assert_eq!(runtime.layers().len(), 1, "{what}");
        let found = runtime.run(&input).unwrap();
        let (found, expected) = (found[0].to_f32(), expected[0].to_f32());
        assert_eq!(found.shape(), expected.shape(), "{what}");
        let error = relative(found.as_slice().unwrap(), expected.as_slice().unwrap());
        assert!(
            error < tolerance,
            "{what} {activations:?} {route:?}: {error}"
        );
    }
}

#[test]
fn rows_on_several_threads_agree_with_one() {
    let model = gemm(256, 256, Vec::new());
    let x = ArrayD::from_shape_fn(vec![301, 256], |i| noise(3, i[0] * 1000 + i[1]));
    let input = [NpyArray::F32(x)];
    let several = std::num::NonZeroUsize::new(3).unwrap();
    let stock = Engine::load(&model).unwrap();
    let expected = stock.run(&input).unwrap();
    let threaded = stock.with_threads(several).unwrap();
    assert_eq!(threaded.run(&input).unwrap()[0], expected[0]);
    for (format, layout) in [
        (Format::Dense, None),
        (Format::LowRank, None),
        (Format::Tt, Some(Layout::Interleaved)),
    ] {
        let spec = Spec {
            layout,
            truncation: Some(Truncation::MaxRank(16)),
            ..Spec::of(format)
        };
        let (small, _) = compress(&model, &Job::new(spec)).unwrap();
        for activations in [Activations::F32, Activations::Int8] {
            let run = |threads| {
                let mut options = RuntimeOptions::default();
                (options.activations, options.route) = (activations, Route::Cores);
                options.threads = threads;
                let runtime = Runtime::load(&small, &options).unwrap();
                runtime.run(&input).unwrap()[0].to_f32()
            };
            let (one, three) = (run(std::num::NonZeroUsize::MIN), run(several));
            let error = relative(three.as_slice().unwrap(), one.as_slice().unwrap());
            assert!(error < 1e-6, "{format:?} {activations:?}: {error}");
            if format != Format::Tt && activations == Activations::Int8 {
                assert_eq!(one, three, "{format:?}");
            }
        }
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

#[test]
fn trains_agree_with_the_chain() {
    let layouts: [(Layout, &[usize], &[usize]); 6] = [
        (Layout::Interleaved, &[6, 6], &[8, 6]),
        (Layout::Interleaved, &[3, 4, 3], &[4, 4, 3]),
        (Layout::Interleaved, &[36, 1], &[3, 16]),
        (Layout::Interleaved, &[2, 3, 3, 2], &[2, 2, 4, 3]),
        (Layout::Split, &[6, 6], &[8, 6]),
        (Layout::Split, &[36], &[48]),
    ];
    let block = CoreGranularity::Block(std::num::NonZeroUsize::new(4).unwrap());
    for (layout, rows, cols) in layouts {
        for (bits, granularity) in [
            (8, CoreGranularity::Core),
            (4, CoreGranularity::Axis),
            (3, block),
        ] {
            let spec = Spec {
                layout: Some(layout),
                modes: Some((rows.to_vec(), cols.to_vec())),
                quantization: Quantization {
                    bits: Bits::new(bits).unwrap(),
                    granularity,
                    ..Quantization::default()
                },
                truncation: Some(Truncation::MaxRank(5)),
                ..Spec::of(Format::Tt)
            };
            let what = format!("{layout:?} {rows:?} {cols:?} {bits} {granularity:?}");
            for model in [matmul(48, 36), gemm(48, 36, Vec::new())] {
                let (small, _) =
                    compress(&model, &Job::new(spec.clone()).with_growth(Growth::Allowed)).unwrap();
                check(&small, &what);
            }
        }
    }
}

#[test]
fn a_matrix_in_pieces_is_one_layer() {
    let spec = Spec {
        quantization: Quantization {
            bits: Bits::B4,
            ..Quantization::default()
        },
        ..Spec::of(Format::Dense)
    };
    let (small, _) = compress(&matmul(1000, 1100), &Job::new(spec)).unwrap();
    check(&small, "1000 to 1100");
}

#[test]
fn every_form_that_a_plan_chooses_is_fused() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let data = Dataset::from_npz(std::io::Cursor::new(read("calib.npz"))).unwrap();
    let model = Model::decode(read("model.onnx")).unwrap();
    for format in ["dense", "low-rank", "tucker", "tt", "corrected"] {
        let session = Session {
            data: &data,
            goal: Goal {
                bytes: Some(model.encoded_len() / 8),
                ..Goal::default()
            },
            runs_on: RunsOn::Portable,
            allow: &|_, candidate| candidate.format_name() == format,
            store: &MemoryStore::default(),
            progress: &|_, _, _| {},
        };
        let planned = compress_planned(&model, &session).unwrap();
        let changed = planned.plan.weights.iter();
        let changed = changed.filter(|w| w.choice != Candidate::Keep).count();
        assert!(changed > 0, "{format}");
        let runtime = Runtime::load(&planned.model, &RuntimeOptions::default()).unwrap();
        assert_eq!(runtime.layers().len(), changed, "{format}");
        let stock = Engine::load(&planned.model).unwrap();
        let (_, expected) = &stock.run_all(&data).unwrap()[0];
        let (_, found) = &runtime.run_all(&data).unwrap()[0];
        let (found, expected) = (found.to_f32(), expected.to_f32());
        let error = relative(found.as_slice().unwrap(), expected.as_slice().unwrap());
        assert!(error < 1e-5, "{format}: {error}");
    }
}

#[test]
fn a_model_for_one_shape_refuses_others() {
    let model = gemm(8, 4, Vec::new());
    let options = RuntimeOptions::default();
    let runtime = Runtime::load_shaped(&model, &options, &[vec![3, 8]]).unwrap();
    let batch = |rows: usize| [NpyArray::F32(ArrayD::zeros(vec![rows, 8]))];
    assert_eq!(runtime.run(&batch(3)).unwrap()[0].shape(), [3, 4]);
    for problem in [
        runtime.run(&batch(2)).unwrap_err(),
        Engine::load_shaped(&model, &[vec![3, 9]]).unwrap_err(),
        Engine::load_shaped(&model, &[]).unwrap_err(),
    ] {
        assert!(problem.to_string().contains("expected"), "{problem}");
    }
}
