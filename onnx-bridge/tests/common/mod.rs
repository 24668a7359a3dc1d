//! Small models made in memory.

#![allow(dead_code, reason = "each test file uses a part")]

use onnx_bridge::Model;
use onnx_bridge::proto::{
    AttributeProto, AttributeType, DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

/// A repeatable number in -1..1 for an index.
pub(crate) fn noise(seed: u64, i: usize) -> f32 {
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

pub(crate) fn floats(name: &str, dims: &[usize], value: impl Fn(usize) -> f32) -> TensorProto {
    let count: usize = dims.iter().product();
    let bytes: Vec<u8> = (0..count).flat_map(|i| value(i).to_le_bytes()).collect();
    TensorProto {
        name: Some(name.into()),
        dims: dims.iter().map(|&n| n as i64).collect(),
        data_type: Some(DataType::Float as i32),
        raw_data: Some(bytes.into()),
        ..Default::default()
    }
}

pub(crate) fn node(
    op: &str,
    inputs: &[&str],
    output: &str,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("{op}_{output}")),
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: vec![output.into()],
        attribute,
        ..Default::default()
    }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..Default::default()
    }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(value),
        ..Default::default()
    }
}

/// A value of floats; a size of 0 is the symbol of its place.
pub(crate) fn value(name: &str, dims: &[usize]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = dims.iter().enumerate().map(|(i, &n)| Dimension {
        denotation: None,
        value: Some(if n == 0 {
            Value::DimParam(format!("dim-{i}.0"))
        } else {
            Value::DimValue(n as i64)
        }),
    });
    let shape = TensorShapeProto { dim: dim.collect() };
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float as i32),
        shape: Some(shape),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            denotation: None,
            value: Some(type_proto::Value::TensorType(tensor)),
        }),
        ..Default::default()
    }
}

pub(crate) fn proto(
    opset: i64,
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
    input: ValueInfoProto,
    output: ValueInfoProto,
) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(opset),
        }],
        graph: Some(GraphProto {
            name: Some("main".into()),
            node,
            initializer,
            input: vec![input],
            output: vec![output],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `y = x W (+ b)` over three axes, two of them open: `W [n, m]`.
pub(crate) fn matmul(n: usize, m: usize) -> Model {
    let initializer = vec![
        floats("w", &[n, m], |i| noise(1, i)),
        floats("b", &[m], |i| noise(2, i)),
    ];
    let nodes = vec![
        node("MatMul", &["x", "w"], "p", vec![]),
        node("Add", &["b", "p"], "y", vec![]),
    ];
    Model::from_proto(proto(
        17,
        initializer,
        nodes,
        value("x", &[0, 0, n]),
        value("y", &[0, 0, m]),
    ))
    .unwrap()
}

/// `y = alpha x Wᵀ + beta b` over two axes: `W [m, n]`.
pub(crate) fn gemm(n: usize, m: usize, attributes: Vec<AttributeProto>) -> Model {
    let trans_b = attributes
        .iter()
        .any(|a| a.name() == "transB" && a.i() != 0);
    let dims = if trans_b { [m, n] } else { [n, m] };
    let initializer = vec![
        floats("w", &dims, |i| noise(1, i)),
        floats("b", &[m], |i| noise(2, i)),
    ];
    let nodes = vec![node("Gemm", &["x", "w", "b"], "y", attributes)];
    Model::from_proto(proto(
        13,
        initializer,
        nodes,
        value("x", &[0, n]),
        value("y", &[0, m]),
    ))
    .unwrap()
}
