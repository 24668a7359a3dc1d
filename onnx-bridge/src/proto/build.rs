//! Constructors of the messages that emission writes.

use bytes::Bytes;

use super::{
    AttributeProto, AttributeType, DataType, NodeProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_shape_proto, type_proto,
};

/// A node of the standard domain.
pub(crate) fn node(
    op: &str,
    name: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.to_string()],
        name: Some(name.to_string()),
        op_type: Some(op.to_string()),
        attribute,
        ..NodeProto::default()
    }
}

/// A Constant node that makes a tensor under the tensor's own name.
pub(crate) fn constant_node(tensor: &TensorProto) -> NodeProto {
    let value = AttributeProto {
        name: Some("value".to_string()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(tensor.clone()),
        ..AttributeProto::default()
    };
    node("Constant", tensor.name(), &[], tensor.name(), vec![value])
}

/// An attribute holding one integer.
pub(crate) fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_string()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..AttributeProto::default()
    }
}

/// An attribute holding a list of integers.
pub(crate) fn ints_attribute(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_string()),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

/// A tensor whose little-endian bytes are given.
pub(crate) fn raw_tensor(
    name: &str,
    data_type: DataType,
    shape: &[usize],
    bytes: impl Into<Bytes>,
) -> TensorProto {
    TensorProto {
        dims: shape.iter().map(|&n| n as i64).collect(),
        data_type: Some(data_type as i32),
        name: Some(name.to_string()),
        raw_data: Some(bytes.into()),
        ..TensorProto::default()
    }
}

/// A vector of 64-bit integers, such as the shape that a `Reshape` takes.
pub(crate) fn int64_tensor(name: &str, values: &[i64]) -> TensorProto {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    raw_tensor(name, DataType::Int64, &[values.len()], bytes)
}

/// The name, type and shape of a tensor, as a graph input states them.
pub(crate) fn value_info(tensor: &TensorProto) -> ValueInfoProto {
    let dim = tensor.dims.iter().map(|&n| tensor_shape_proto::Dimension {
        denotation: None,
        value: Some(tensor_shape_proto::dimension::Value::DimValue(n)),
    });
    let stated = type_proto::Tensor {
        elem_type: tensor.data_type,
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: tensor.name.clone(),
        r#type: Some(TypeProto {
            denotation: None,
            value: Some(type_proto::Value::TensorType(stated)),
        }),
        ..ValueInfoProto::default()
    }
}
