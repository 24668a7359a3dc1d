//! Running one segment of a graph: a small model of its own, for one batch.

use std::collections::{BTreeMap, BTreeSet};

use tn_formats::npy::NpyArray;

use super::batches::Values;
use super::stage::Stages;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::{self, GraphProto, TensorProto, ValueInfoProto, raw_tensor};
use crate::proto::{DataType, TensorShapeProto, TypeProto, tensor_shape_proto, type_proto};
use crate::view::GraphView;

/// Integer values of at most so many elements are given to the engine as constants: shapes are computed from them.
const SHAPE_ELEMENTS: usize = 64;

/// Values that replace what the graph computes from its own weights.
pub(crate) type Overrides = BTreeMap<String, TensorProto>;

/// Runs the given nodes on the values of one batch and puts in what later segments read, or what `wanted` asks for.
pub(crate) fn run(
    model: &Model,
    view: &GraphView<'_>,
    stages: &Stages,
    s: usize,
    overrides: &Overrides,
    values: &mut Values,
) -> Result<()> {
    let nodes = &stages.segments()[s];
    let mut outputs = Vec::new();
    for &n in nodes {
        let made = view
            .node(n)
            .output
            .iter()
            .filter(|v| !v.is_empty() && stages.is_needed_after(v, s));
        outputs.extend(made.cloned());
    }
    if !outputs.is_empty() {
        let (engine, fed) = load(model, view, stages, nodes, overrides, values, &outputs)?;
        let inputs: Vec<NpyArray> = fed.iter().map(|v| values[v].clone()).collect();
        let results = engine.run(&inputs)?;
        values.extend(outputs.into_iter().zip(results));
    }
    values.retain(|name, _| stages.is_needed_after(name, s));
    Ok(())
}

/// A model of the given nodes that makes the outputs from values; and the values that it is fed, in order.
pub(crate) fn load(
    model: &Model,
    view: &GraphView<'_>,
    stages: &Stages,
    nodes: &[usize],
    overrides: &Overrides,
    values: &Values,
    outputs: &[String],
) -> Result<(Engine, Vec<String>)> {
    let mut kept: BTreeSet<usize> = nodes.iter().copied().collect();
    let mut constants: BTreeMap<String, TensorProto> = BTreeMap::new();
    let mut fed = BTreeSet::new();
    let mut waiting: Vec<String> = nodes
        .iter()
        .flat_map(|&n| stages.inputs(n))
        .cloned()
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(value) = waiting.pop() {
        if !seen.insert(value.clone()) {
            continue;
        }
        if let Some(tensor) = overrides.get(&value) {
            constants.insert(
                value.clone(),
                TensorProto {
                    name: Some(value.clone()),
                    ..tensor.clone()
                },
            );
        } else if let Some(array) = values.get(&value) {
            match as_shape(&value, array) {
                Some(tensor) => drop(constants.insert(value, tensor)),
                None => drop(fed.insert(value)),
            }
        } else if let Some(tensor) = view.initializer(&value) {
            constants.insert(value, tensor.clone());
        } else if let Some(n) = view.producer(&value).filter(|&n| stages.is_static(n)) {
            kept.insert(n);
            waiting.extend(stages.inputs(n).iter().cloned());
        }
    }
    // A static node whose value is overridden has no place beside it.
    let graph = view.graph();
    let made = |n: &usize| {
        !graph.node[*n]
            .output
            .iter()
            .any(|o| constants.contains_key(o))
    };
    let fed: Vec<String> = fed.into_iter().collect();
    let graph = GraphProto {
        name: Some("segment".into()),
        node: kept
            .iter()
            .filter(|n| made(n))
            .map(|&n| graph.node[n].clone())
            .collect(),
        initializer: constants.into_values().collect(),
        input: fed.iter().map(|v| typed(v, &values[v])).collect(),
        output: outputs
            .iter()
            .map(|v| ValueInfoProto {
                name: Some(v.clone()),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let proto = proto::ModelProto {
        ir_version: model.proto().ir_version,
        opset_import: model.proto().opset_import.clone(),
        functions: model.proto().functions.clone(),
        graph: Some(graph),
        ..Default::default()
    };
    Ok((Engine::load(&Model::from_proto(proto)?)?, fed))
}

fn as_shape(name: &str, array: &NpyArray) -> Option<TensorProto> {
    let NpyArray::I64(a) = array else { return None };
    let shape: Vec<usize> = a.shape().to_vec();
    let data: Vec<u8> = a.iter().flat_map(|v| v.to_le_bytes()).collect();
    (a.len() <= SHAPE_ELEMENTS && a.ndim() <= 1)
        .then(|| raw_tensor(name, DataType::Int64, &shape, data))
}

/// A graph input of just the type and shape that an array has.
pub(crate) fn typed(name: &str, array: &NpyArray) -> ValueInfoProto {
    let element = match array {
        NpyArray::F16(_) => DataType::Float16,
        NpyArray::F64(_) => DataType::Double,
        NpyArray::I64(_) => DataType::Int64,
        NpyArray::I32(_) => DataType::Int32,
        NpyArray::I8(_) => DataType::Int8,
        NpyArray::U8(_) => DataType::Uint8,
        NpyArray::Bool(_) => DataType::Bool,
        _ => DataType::Float,
    };
    let dim = |&n: &usize| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(n as i64)),
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(element as i32),
        shape: Some(TensorShapeProto {
            dim: array.shape().iter().map(dim).collect(),
        }),
    };
    ValueInfoProto {
        name: Some(name.to_string()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The `f32` values of a name, or an error that says who lacks them.
pub(crate) fn floats(values: &Values, name: &str) -> Result<ndarray::ArrayD<f32>> {
    let found = values.get(name).ok_or_else(|| Error::UndefinedValue {
        place: "calibration".into(),
        field: "value",
        value: name.to_string(),
    })?;
    Ok(found.to_f32())
}
