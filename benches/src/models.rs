//! Models made in memory.

use onnx_bridge::Model;
use onnx_bridge::proto::{
    AttributeProto, AttributeType, DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

/// Weights of a block of `MatMulNBits`: the only size that tract keeps packed.
const BLOCK: usize = 32;

fn value(name: &str, dims: &[&str]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = dims.iter().map(|text| {
        let value = text
            .parse()
            .map_or_else(|_| Value::DimParam(text.to_string()), Value::DimValue);
        Dimension {
            denotation: None,
            value: Some(value),
        }
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let tensor = type_proto::Tensor {
        elem_type: Some(DataType::Float as i32),
        shape,
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

fn tensor(name: &str, dims: &[usize], data_type: DataType, data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.iter().map(|&n| n as i64).collect(),
        data_type: Some(data_type as i32),
        raw_data: Some(data.into()),
        ..Default::default()
    }
}

fn floats(name: &str, dims: &[usize], of: impl Fn(usize) -> f32) -> TensorProto {
    let count: usize = dims.iter().product();
    let data = (0..count).flat_map(|i| of(i).to_le_bytes()).collect();
    tensor(name, dims, DataType::Float, data)
}

/// Nodes from `x0` to `y`, rows of `inputs` numbers to rows of `outputs`.
fn model(
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    [inputs, outputs]: [usize; 2],
) -> Model {
    let graph = GraphProto {
        name: Some("products".into()),
        node,
        initializer,
        input: vec![value("x0", &["batch", &inputs.to_string()])],
        output: vec![value("y", &["batch", &outputs.to_string()])],
        ..Default::default()
    };
    let opset = |domain: Option<&str>, version| OperatorSetIdProto {
        domain: domain.map(str::to_string),
        version: Some(version),
    };
    let proto = ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset(None, 17), opset(Some("com.microsoft"), 1)],
        graph: Some(graph),
        ..Default::default()
    };
    Model::from_proto(proto).expect("a valid model")
}

/// Products one after the other, the k-th from `sizes[k]` numbers to `sizes[k + 1]`.
///
/// # Panics
/// For fewer than two sizes.
pub fn products(sizes: &[usize]) -> Model {
    let layers = sizes.len() - 1;
    let name = |k: usize| {
        if k == layers {
            "y".to_string()
        } else {
            format!("x{k}")
        }
    };
    let weight = |k: usize| {
        let n = sizes[k + 1];
        floats(&format!("w{k}"), &sizes[k..=k + 1], move |i| {
            ((i / n + 1) as f32 * 0.01).sin() * ((i % n + k) as f32 * 0.02).cos()
                + (i % 17) as f32 * 0.01
        })
    };
    let node = |k: usize| NodeProto {
        op_type: Some("MatMul".into()),
        input: vec![name(k), format!("w{k}")],
        output: vec![name(k + 1)],
        ..Default::default()
    };
    model(
        (0..layers).map(node).collect(),
        (0..layers).map(weight).collect(),
        [sizes[0], sizes[layers]],
    )
}

/// One `MatMulNBits` of 4 bits in blocks of 32, ONNX Runtime's weight-only operator.
///
/// # Panics
/// Where blocks do not divide the inputs.
pub fn nbits(inputs: usize, outputs: usize) -> Model {
    assert_eq!(inputs % BLOCK, 0, "blocks of {BLOCK} in {inputs}");
    let blocks = inputs / BLOCK;
    let codes = (0..outputs * inputs / 2).map(|i| (i * 89 % 251) as u8);
    let int = |name: &str, value: usize| AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value as i64),
        ..Default::default()
    };
    let node = NodeProto {
        op_type: Some("MatMulNBits".into()),
        domain: Some("com.microsoft".into()),
        input: ["x0", "b", "s"].map(str::to_string).to_vec(),
        output: vec!["y".into()],
        attribute: vec![
            int("K", inputs),
            int("N", outputs),
            int("bits", 4),
            int("block_size", BLOCK),
        ],
        ..Default::default()
    };
    let initializers = vec![
        tensor(
            "b",
            &[outputs, blocks, BLOCK / 2],
            DataType::Uint8,
            codes.collect(),
        ),
        floats("s", &[outputs * blocks], |i| 0.01 + (i % 7) as f32 * 0.001),
    ];
    model(vec![node], initializers, [inputs, outputs])
}
