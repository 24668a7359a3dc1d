//! The messages of ONNX's newest official schema, as prost types, and short constructors for the ones this crate writes.
//!
//! `onnx.rs` is generated (see `onnx-bridge/proto/generate`) and checked in, so that no build needs `protoc`.

mod build;
#[allow(missing_docs, clippy::all, reason = "generated code")]
#[rustfmt::skip]
pub mod onnx;

pub(crate) use build::{
    constant_node, int_attribute, int64_tensor, ints_attribute, node, raw_tensor, value_info,
};
pub use onnx::attribute_proto::AttributeType;
pub use onnx::tensor_proto::{DataLocation, DataType};
pub use onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    SparseTensorProto, StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_shape_proto, type_proto,
};

/// The newest IR version that the schema knows.
pub const NEWEST_IR_VERSION: i64 = onnx::Version::IrVersion as i64;

/// Finds an attribute of a node by its name.
pub fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

/// The integer value of an attribute, or `default` where the node does not have it.
pub fn int_or(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, AttributeProto::i)
}

/// The float value of an attribute, or `default` where the node does not have it.
pub fn float_or(node: &NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name).map_or(default, AttributeProto::f)
}

/// Whether a domain is the one of ONNX's standard operators, which has two spellings.
pub fn is_standard_domain(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}
