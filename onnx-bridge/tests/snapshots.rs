//! The structure of rewritten graphs.

mod common;

use common::{gemm, matmul};
use onnx_bridge::proto::{DataType, type_proto};
use onnx_bridge::{
    CoreGranularity, Format, Growth, Job, MappingChoice, Quantization, Spec, compress, graph_text,
};
use quant_core::Bits;
use tn_formats::{Layout, Truncation};

fn text(model: &onnx_bridge::Model, spec: Spec) -> String {
    let spec = Spec {
        truncation: Some(Truncation::MaxRank(4)),
        ..spec
    };
    graph_text(
        &compress(model, &Job::new(spec).with_growth(Growth::Allowed))
            .unwrap()
            .0,
    )
}

fn bits(bits: u8, mapping: MappingChoice, granularity: CoreGranularity) -> Quantization {
    Quantization {
        bits: Bits::new(bits).unwrap(),
        mapping,
        granularity,
    }
}

#[test]
fn interleaved_train_of_a_matmul() {
    let modes = Some((vec![3, 4], vec![5, 6]));
    insta::assert_snapshot!(text(
        &matmul(30, 12),
        Spec {
            modes,
            ..Spec::of(Format::Tt)
        }
    ));
}

#[test]
fn split_train_merges_when_loaded() {
    let (modes, layout) = (Some((vec![6, 6], vec![5, 6])), Some(Layout::Split));
    insta::assert_snapshot!(text(
        &matmul(30, 36),
        Spec {
            modes,
            layout,
            ..Spec::of(Format::Tt)
        }
    ));
}

#[test]
fn low_rank_of_a_gemm_in_three_bits() {
    let quantization = bits(3, MappingChoice::Symmetric, CoreGranularity::Axis);
    insta::assert_snapshot!(text(
        &gemm(30, 12, vec![]),
        Spec {
            quantization,
            ..Spec::of(Format::LowRank)
        }
    ));
}

#[test]
fn tucker_of_a_gemm() {
    insta::assert_snapshot!(text(&gemm(30, 24, vec![]), Spec::of(Format::Tucker)));
}

#[test]
fn dense_affine_blocks() {
    let block = CoreGranularity::Block(std::num::NonZeroUsize::new(8).unwrap());
    let quantization = bits(4, MappingChoice::Affine, block);
    insta::assert_snapshot!(text(
        &matmul(30, 12),
        Spec {
            quantization,
            ..Spec::of(Format::Dense)
        }
    ));
}

/// A padded, strided convolution of 12 channels into 16.
fn conv() -> onnx_bridge::Model {
    use common::{floats, ints, node, noise, proto, value};
    let attributes = vec![
        ints("dilations", &[1, 2]),
        ints("kernel_shape", &[3, 5]),
        ints("pads", &[1, 2, 1, 2]),
        ints("strides", &[2, 1]),
    ];
    let initializer = vec![
        floats("w", &[16, 12, 3, 5], |i| noise(1, i)),
        floats("b", &[16], |i| noise(2, i)),
    ];
    let nodes = vec![node("Conv", &["x", "w", "b"], "y", attributes)];
    let (x, y) = (value("x", &[0, 12, 0, 0]), value("y", &[0, 16, 0, 0]));
    onnx_bridge::Model::from_proto(proto(13, initializer, nodes, x, y)).unwrap()
}

#[test]
fn tucker_of_a_conv() {
    insta::assert_snapshot!(text(&conv(), Spec::of(Format::Tucker)));
}

#[test]
fn train_of_a_conv() {
    insta::assert_snapshot!(text(&conv(), Spec::of(Format::Tt)));
}

#[test]
fn low_rank_of_a_conv_in_four_bits_per_axis() {
    let quantization = bits(4, MappingChoice::Symmetric, CoreGranularity::Axis);
    insta::assert_snapshot!(text(
        &conv(),
        Spec {
            quantization,
            ..Spec::of(Format::LowRank)
        }
    ));
}

#[test]
fn dense_codes_of_a_conv_per_axis() {
    let quantization = bits(8, MappingChoice::Symmetric, CoreGranularity::Axis);
    insta::assert_snapshot!(text(
        &conv(),
        Spec {
            quantization,
            ..Spec::of(Format::Dense)
        }
    ));
}

/// Twenty-three rows by `ids [batch, positions]`.
fn table() -> onnx_bridge::Model {
    let table = common::floats("table", &[23, 12], |i| common::noise(1, i));
    let look_up = common::node("Gather", &["table", "ids"], "y", vec![]);
    let mut ids = common::value("ids", &[0, 0]);
    if let Some(type_proto::Value::TensorType(t)) =
        ids.r#type.as_mut().and_then(|t| t.value.as_mut())
    {
        t.elem_type = Some(DataType::Int64 as i32);
    }
    let y = common::value("y", &[0, 0, 12]);
    onnx_bridge::Model::from_proto(common::proto(13, vec![table], vec![look_up], ids, y)).unwrap()
}

#[test]
fn interleaved_train_of_a_table_with_a_padded_row() {
    let modes = Some((vec![4, 3, 2], vec![2, 3, 2]));
    let quantization = bits(4, MappingChoice::Symmetric, CoreGranularity::Axis);
    insta::assert_snapshot!(text(
        &table(),
        Spec {
            modes,
            quantization,
            ..Spec::of(Format::Tt)
        }
    ));
}

#[test]
fn split_train_of_a_table() {
    let (modes, layout) = (Some((vec![6, 4], vec![12])), Some(Layout::Split));
    insta::assert_snapshot!(text(
        &table(),
        Spec {
            modes,
            layout,
            ..Spec::of(Format::Tt)
        }
    ));
}
