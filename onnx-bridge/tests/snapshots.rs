//! The structure of rewritten graphs.

mod common;

use common::{gemm, matmul};
use onnx_bridge::{
    CoreGranularity, Format, Job, MappingChoice, Quantization, Spec, compress, graph_text,
};
use quant_core::Bits;
use tn_formats::{Layout, Truncation};

fn text(model: &onnx_bridge::Model, spec: Spec) -> String {
    let spec = Spec {
        truncation: Some(Truncation::MaxRank(4)),
        ..spec
    };
    graph_text(&compress(model, &Job::new(spec)).unwrap().0)
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
