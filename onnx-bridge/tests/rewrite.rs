//! Rewritten models against the dense reconstruction of the same codes, both run in tract.

#![cfg(feature = "tract")]

mod common;

use common::{float, gemm, int, matmul, node, proto, value};
use onnx_bridge::{
    CoreGranularity, Format, FormatRule, Job, MappingChoice, Model, Outcome, Quantization,
    SkipReason, Spec, compress, dense_reference, verify_synthesized,
};
use quant_core::Bits;
use tn_formats::{Layout, Truncation};

/// What every rewritten model must keep: it encodes and decodes, agrees with the dense reference of its own codes, and
/// a second run gives the same bytes.
fn check(label: &str, model: &Model, spec: &Spec) {
    let job = Job::new(spec.clone());
    let (rewritten, report) = compress(model, &job).unwrap();
    for entry in &report.weights {
        assert!(
            matches!(entry.outcome, Outcome::Rewritten(_)),
            "{label}: {:?}",
            entry.outcome
        );
    }
    let bytes = rewritten.encode().unwrap();
    assert_eq!(bytes.len() as u64, report.bytes_after, "{label}");
    assert_eq!(Model::decode(bytes.clone()).unwrap(), rewritten, "{label}");
    assert_eq!(
        compress(model, &job).unwrap().0.encode().unwrap(),
        bytes,
        "{label}: a second run"
    );
    let reference = dense_reference(model, &report).unwrap();
    let found = verify_synthesized(&reference, &rewritten, 7, 1).unwrap();
    assert!(found.relative_l2 < 1e-5, "{label}: {found:?}");
    assert!(found.cosine > 0.999_999, "{label}: {found:?}");
}

fn spec(format: Format, bits: u8, mapping: MappingChoice, granularity: CoreGranularity) -> Spec {
    let quantization = Quantization {
        bits: Bits::new(bits).unwrap(),
        mapping,
        granularity,
    };
    Spec {
        quantization,
        truncation: Some(Truncation::MaxRank(6)),
        ..Spec::of(format)
    }
}

fn granularities() -> [CoreGranularity; 3] {
    let block = CoreGranularity::Block(std::num::NonZeroUsize::new(5).unwrap());
    [CoreGranularity::Core, CoreGranularity::Axis, block]
}

#[test]
fn every_format_width_and_scale() {
    for format in Format::ALL {
        for bits in 2..=8 {
            for mapping in [MappingChoice::Symmetric, MappingChoice::Affine] {
                for granularity in granularities() {
                    let label = format!("{} {bits} {mapping:?} {granularity:?}", format.name());
                    let transposed =
                        vec![int("transB", 1), float("alpha", 0.5), float("beta", 2.0)];
                    check(
                        &label,
                        &gemm(60, 72, transposed),
                        &spec(format, bits, mapping, granularity),
                    );
                }
            }
        }
    }
}

#[test]
fn every_layout_and_order() {
    let modes: [(Layout, &[usize], &[usize]); 7] = [
        (Layout::Interleaved, &[72], &[60]),
        (Layout::Interleaved, &[8, 9], &[6, 10]),
        (Layout::Interleaved, &[9, 8], &[10, 6]),
        (Layout::Interleaved, &[2, 9, 4], &[5, 3, 4]),
        (Layout::Interleaved, &[4, 1, 3, 6], &[2, 15, 1, 2]),
        (Layout::Split, &[72], &[6, 10]),
        (Layout::Split, &[2, 6, 6], &[5, 4, 3]),
    ];
    for (layout, rows, cols) in modes {
        for model in [matmul(60, 72), gemm(60, 72, vec![])] {
            let base = spec(
                Format::Tt,
                8,
                MappingChoice::Symmetric,
                CoreGranularity::Core,
            );
            let spec = Spec {
                layout: Some(layout),
                modes: Some((rows.to_vec(), cols.to_vec())),
                ..base
            };
            check(&format!("{layout:?} {rows:?} {cols:?}"), &model, &spec);
        }
    }
}

#[test]
fn matmul_keeps_open_axes_in_every_format() {
    for format in Format::ALL {
        for granularity in granularities() {
            let label = format!("{} {granularity:?}", format.name());
            check(
                &label,
                &matmul(60, 72),
                &spec(format, 4, MappingChoice::Symmetric, granularity),
            );
        }
    }
}

#[test]
fn a_transposed_input_is_transposed_first() {
    let initializer = vec![common::floats("w", &[60, 72], |i| common::noise(3, i))];
    let nodes = vec![
        node(
            "Transpose",
            &["x"],
            "xt",
            vec![common::ints("perm", &[1, 0])],
        ),
        node("Gemm", &["xt", "w"], "y", vec![int("transA", 1)]),
    ];
    let model = Model::from_proto(proto(
        13,
        initializer,
        nodes,
        value("x", &[0, 60]),
        value("y", &[0, 72]),
    ))
    .unwrap();
    for format in Format::ALL {
        check(
            format.name(),
            &model,
            &spec(format, 8, MappingChoice::Symmetric, CoreGranularity::Core),
        );
    }
}

#[test]
fn a_shared_weight_is_stored_once() {
    let initializer = vec![common::floats("w", &[64, 64], |i| common::noise(3, i))];
    let nodes = vec![
        node("MatMul", &["x", "w"], "h", vec![]),
        node("Relu", &["h"], "r", vec![]),
        node("MatMul", &["r", "w"], "y", vec![]),
    ];
    let model = Model::from_proto(proto(
        17,
        initializer,
        nodes,
        value("x", &[0, 64]),
        value("y", &[0, 64]),
    ))
    .unwrap();
    for format in Format::ALL {
        check(
            format.name(),
            &model,
            &spec(format, 8, MappingChoice::Symmetric, CoreGranularity::Core),
        );
    }
    let job = Job::new(spec(
        Format::Dense,
        8,
        MappingChoice::Symmetric,
        CoreGranularity::Core,
    ));
    let (rewritten, _) = compress(&model, &job).unwrap();
    let large = rewritten
        .graph()
        .initializer
        .iter()
        .filter(|t| t.dims == [64, 64]);
    assert_eq!(large.count(), 1);
}

#[test]
fn no_emitted_array_is_too_large_to_fold() {
    let model = matmul(1100, 1200);
    let dense = spec(
        Format::Dense,
        8,
        MappingChoice::Symmetric,
        CoreGranularity::Axis,
    );
    check("dense 1100x1200", &model, &dense);
    let (rewritten, _) = compress(&model, &Job::new(dense)).unwrap();
    for tensor in &rewritten.graph().initializer {
        assert!(
            tensor.dims.iter().product::<i64>() <= onnx_bridge::FOLDED_ELEMENTS as i64,
            "{:?}",
            tensor.dims
        );
    }
}

#[test]
fn reasons_are_data() {
    let model = gemm(60, 72, vec![]);
    let reason = |spec: Spec| {
        let (same, report) = compress(&model, &Job::new(spec)).unwrap();
        assert_eq!(same, model);
        match report.weights[0].outcome.clone() {
            Outcome::Skipped(reason) => reason,
            Outcome::Rewritten(r) => panic!("expected a reason, found {r:?}"),
        }
    };
    assert!(matches!(reason(Spec::keep()), SkipReason::Kept { .. }));
    let modes = Spec {
        modes: Some((vec![7, 7], vec![6, 10])),
        ..Spec::of(Format::Tt)
    };
    assert!(matches!(reason(modes), SkipReason::Misfit { .. }));
}

#[test]
fn auto_takes_low_rank_only_where_it_wins() {
    let low = |i: usize| ((i / 96) as f32 * 0.1).sin() * ((i % 96) as f32 * 0.07).cos();
    for (rank_one, expected) in [(true, Format::LowRank), (false, Format::Dense)] {
        let weight = common::floats("w", &[96, 96], |i| {
            if rank_one {
                low(i)
            } else {
                common::noise(5, i)
            }
        });
        let nodes = vec![node("MatMul", &["x", "w"], "y", vec![])];
        let model = Model::from_proto(proto(
            17,
            vec![weight],
            nodes,
            value("x", &[0, 96]),
            value("y", &[0, 96]),
        ))
        .unwrap();
        let (_, report) = compress(&model, &Job::default()).unwrap();
        let format = report.rewritten().next().map(|(_, r)| r.format);
        assert_eq!(
            format,
            Some(expected),
            "{:?}",
            report.skipped().collect::<Vec<_>>()
        );
        assert_eq!(Job::default().spec("w").format, FormatRule::Auto);
    }
}

#[test]
fn a_copy_that_nobody_reads_keeps_its_value() {
    let mut proto = matmul(60, 72).proto().clone();
    let copy = node("Identity", &["w"], "copy", vec![]);
    proto.graph.as_mut().unwrap().node.insert(0, copy);
    let model = Model::from_proto(proto).unwrap();
    // No network makes the matrix itself, only codes of it do.
    let (same, report) = compress(&model, &Job::new(Spec::of(Format::LowRank))).unwrap();
    assert_eq!(same, model);
    let (_, reason) = report.skipped().next().unwrap();
    assert!(matches!(reason, SkipReason::Misfit { .. }), "{reason}");
    check("a copy", &model, &Spec::of(Format::Dense));
}

#[test]
fn before_ir_4_every_initializer_is_an_input() {
    let mut proto = matmul(60, 72).proto().clone();
    (proto.ir_version, proto.opset_import[0].version) = (Some(3), Some(9));
    let graph = proto.graph.as_mut().unwrap();
    graph
        .input
        .extend([value("w", &[60, 72]), value("b", &[72])]);
    let model = Model::from_proto(proto).unwrap();
    for format in Format::ALL {
        let spec = spec(format, 4, MappingChoice::Symmetric, CoreGranularity::Core);
        check(format.name(), &model, &spec);
        let (rewritten, _) = compress(&model, &Job::new(spec)).unwrap();
        let graph = rewritten.graph();
        let inputs: Vec<&str> = graph.input.iter().map(|i| i.name()).collect();
        assert!(graph.initializer.iter().all(|t| inputs.contains(&t.name())));
        assert_eq!(graph.input.len(), graph.initializer.len() + 1);
    }
}

#[test]
fn outputs_without_a_sample_axis_are_compared_whole() {
    let mut proto = gemm(60, 72, vec![]).proto().clone();
    let graph = proto.graph.as_mut().unwrap();
    let keepdims = int("keepdims", 0);
    graph
        .node
        .push(node("ReduceMean", &["y"], "mean", vec![keepdims]));
    graph.output.push(value("mean", &[]));
    let model = Model::from_proto(proto).unwrap();
    let found = verify_synthesized(&model, &model, 40, 1).unwrap();
    assert_eq!((found.relative_l2, found.samples), (0.0, 40));
}

/// A layer of half precision whose weight is stored as a vector and reshaped.
fn half_layer() -> Model {
    use onnx_bridge::proto::{DataType, TensorProto, type_proto};
    let half = |t: TensorProto| {
        let raw = t.raw_data.clone().unwrap_or_default();
        let values = raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        let bytes: Vec<u8> = values
            .flat_map(|v| half::f16::from_f32(v).to_le_bytes())
            .collect();
        TensorProto {
            data_type: Some(DataType::Float16 as i32),
            raw_data: Some(bytes.into()),
            ..t
        }
    };
    let retyped = |mut info: onnx_bridge::proto::ValueInfoProto| {
        if let Some(type_proto::Value::TensorType(t)) =
            info.r#type.as_mut().and_then(|t| t.value.as_mut())
        {
            t.elem_type = Some(DataType::Float16 as i32);
        }
        info
    };
    let dims: Vec<u8> = [60i64, -1].iter().flat_map(|n| n.to_le_bytes()).collect();
    let shape = TensorProto {
        name: Some("shape".into()),
        dims: vec![2],
        data_type: Some(DataType::Int64 as i32),
        raw_data: Some(dims.into()),
        ..Default::default()
    };
    let initializer = vec![
        half(common::floats("w", &[4, 18, 60], |i| common::noise(1, i))),
        half(common::floats("b", &[72], |i| common::noise(2, i))),
        shape,
    ];
    // Not a Gemm: tract 0.23.9 makes a float32 of one of half precision.
    let nodes = vec![
        node("Reshape", &["w", "shape"], "w2", vec![]),
        node("MatMul", &["x", "w2"], "p", vec![]),
        node("Add", &["p", "b"], "y", vec![]),
    ];
    let (x, y) = (value("x", &[0, 60]), value("y", &[0, 72]));
    Model::from_proto(proto(13, initializer, nodes, retyped(x), retyped(y))).unwrap()
}

#[test]
fn a_layer_of_half_precision_computes_in_single() {
    let model = half_layer();
    for format in Format::ALL {
        let spec = spec(format, 4, MappingChoice::Symmetric, CoreGranularity::Axis);
        let (rewritten, report) = compress(&model, &Job::new(spec)).unwrap();
        assert_eq!(report.rewritten().count(), 1, "{:?}", report.weights);
        assert!(
            report.weights[0]
                .weight
                .ops
                .contains(&"MatMul + Add".to_string())
        );
        let reference = dense_reference(&model, &report).unwrap();
        let found = verify_synthesized(&reference, &rewritten, 7, 1).unwrap();
        // One rounding to half precision has a relative error of up to 2^-11.
        assert!(found.relative_l2 < 1e-3, "{}: {found:?}", format.name());
    }
}

#[cfg(feature = "tract")]
#[test]
fn factors_fitted_to_what_layers_are_given_lose_less_of_it() {
    // Most of what comes in lies in the first few inputs.
    let model = common::gemm(96, 80, vec![]);
    let x = ndarray::Array::from_shape_fn((200, 96), |(i, j)| {
        common::noise(11, i * 96 + j) * 0.9f32.powi(j as i32)
    });
    let x = tn_formats::npy::NpyArray::F32(x.into_dyn());
    let data = onnx_bridge::Dataset::new(vec![("x".into(), x)]).unwrap();
    let loss = |job: &Job| {
        let (rewritten, report) = compress(&model, job).unwrap();
        let parameters: usize = report.rewritten().map(|(_, r)| r.parameters).sum();
        let reference = onnx_bridge::dense_reference(&model, &report).unwrap();
        let same = onnx_bridge::verify(&reference, &rewritten, &data).unwrap();
        assert!(same.relative_l2 < 1e-5, "{same:?}");
        let found = onnx_bridge::verify(&model, &rewritten, &data).unwrap();
        (found.relative_l2, parameters)
    };
    let modes = Some((vec![8, 10], vec![12, 8]));
    for (format, modes) in [
        (Format::LowRank, None),
        (Format::Tucker, None),
        (Format::Tt, modes),
    ] {
        let spec = Spec {
            modes,
            truncation: Some(Truncation::MaxRank(8)),
            ..Spec::of(format)
        };
        let plain = Job::new(spec);
        let fitted = onnx_bridge::fit_job(&model, plain.clone(), &data, &|_, _, _| ()).unwrap();
        let ((before, many), (after, few)) = (loss(&plain), loss(&fitted));
        assert!(after < 0.8 * before, "{format:?}: {before} -> {after}");
        assert_eq!(few, many, "{format:?}");
        let (mut again, mut coarser) = (plain.clone(), plain.with_bits(Bits::B4));
        let alone = onnx_bridge::fit_job(&model, coarser.clone(), &data, &|_, _, _| ()).unwrap();
        let mut both = [&mut again, &mut coarser];
        onnx_bridge::fit_jobs(&model, &mut both, &data, &|_, _, _| ()).unwrap();
        assert_eq!(
            (again, coarser),
            (fitted, alone),
            "{format:?}: both at once"
        );
    }
}
