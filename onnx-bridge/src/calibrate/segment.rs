//! Running one segment of a graph: a small model of its own, for one batch.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{CowArray, IxDyn};
use tn_formats::npy::NpyArray;

use super::batches::Values;
use super::native::{self, Operand};
use super::stage::{Nth, Stages};
use super::target::{Target, TargetKind};
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

/// What stands in the weights' places, by their index.
pub(crate) type Operands<'a> = BTreeMap<usize, Operand<'a>>;

/// A graph cut at its weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut<'a> {
    pub(crate) model: &'a Model,
    pub(crate) view: &'a GraphView<'a>,
    pub(crate) targets: &'a [Target],
    pub(crate) stages: &'a Stages,
}

/// The nodes of one segment loaded for the shapes of one batch.
#[derive(Debug)]
pub(crate) struct Loaded {
    engine: Engine,
    fed: Vec<String>,
    outputs: Vec<String>,
}

impl Cut<'_> {
    /// The weights as they are that segment `s` runs first.
    pub(crate) fn originals(&self, s: usize) -> Result<Operands<'_>> {
        self.originals_of(s, |_| true)
    }

    /// Of [`Cut::originals`] those that make fewer numbers than they read.
    pub(crate) fn narrowing(&self, s: usize) -> Result<Operands<'_>> {
        self.originals_of(s, |target| {
            let [outputs, inputs] = target.shape();
            matches!(target.kind(), TargetKind::Dense(_)) && outputs < inputs
        })
    }

    fn originals_of(&self, s: usize, wanted: impl Fn(&Target) -> bool) -> Result<Operands<'_>> {
        let uses = self.stages.uses(s).iter();
        let own = uses.map(|&(t, _)| (t, &self.targets[t]));
        own.filter(|(_, target)| wanted(target))
            .map(|(t, target)| Ok((t, Operand::original(self.view, target)?)))
            .collect()
    }

    /// Runs segment `s` on the values of one batch; afterwards they hold what later segments read and nothing else.
    pub(crate) fn run(
        &self,
        s: usize,
        operands: &Operands<'_>,
        overrides: &Overrides,
        values: &mut Values,
    ) -> Result<()> {
        self.run_uses(s, operands, overrides, values)?;
        let loaded = self.load(s, overrides, values)?;
        self.run_rest(s, loaded.as_ref(), values)
    }

    /// The operators of weights that segment `s` runs first.
    pub(crate) fn run_uses(
        &self,
        s: usize,
        operands: &Operands<'_>,
        overrides: &Overrides,
        values: &mut Values,
    ) -> Result<()> {
        for &(t, nth) in self.stages.uses(s) {
            self.run_use((t, nth), &operands[&t], overrides, values)?;
        }
        Ok(())
    }

    /// The operators of some of the weights that segment `s` runs first, before it runs: what nothing else reads is let go.
    pub(crate) fn run_ahead(
        &self,
        s: usize,
        some: &Operands<'_>,
        overrides: &Overrides,
        values: &mut Values,
    ) -> Result<()> {
        let mut ran = BTreeSet::new();
        for &(t, nth) in self.stages.uses(s) {
            if let Some(operand) = some.get(&t) {
                self.run_use((t, nth), operand, overrides, values)?;
                ran.insert(self.targets[t].nodes()[nth]);
            }
        }
        let read = |name: &String| {
            let consumers = self.view.consumers(name);
            self.view.is_output(name) || !consumers.iter().all(|at| ran.contains(&at.node))
        };
        values.retain(|name, _| read(name));
        Ok(())
    }

    fn run_use(
        &self,
        (t, nth): Nth,
        operand: &Operand<'_>,
        overrides: &Overrides,
        values: &mut Values,
    ) -> Result<()> {
        let node = self.targets[t].nodes()[nth];
        let output = &self.view.node(node).output[0];
        // What ran ahead is there.
        if !values.contains_key(output) {
            let made = self.made_by((t, nth), operand, overrides, values)?;
            values.insert(output.clone(), made);
        }
        Ok(())
    }

    /// What one operator of a weight makes of the values at hand.
    pub(crate) fn made_by(
        &self,
        (t, nth): Nth,
        operand: &Operand<'_>,
        overrides: &Overrides,
        values: &Values,
    ) -> Result<NpyArray> {
        let target = &self.targets[t];
        match native::run(self.view, target, nth, operand, overrides, values) {
            Some(made) => Ok(NpyArray::F32(made)),
            None => self.run_one(target.nodes()[nth], target, operand, overrides, values),
        }
    }

    /// One operator of a weight, in the engine.
    fn run_one(
        &self,
        node: usize,
        target: &Target,
        operand: &Operand<'_>,
        overrides: &Overrides,
        values: &Values,
    ) -> Result<NpyArray> {
        let output = &self.view.node(node).output[0];
        let mut overrides = overrides.clone();
        overrides.extend(
            operand
                .whole(target)
                .map(|whole| (target.value().to_string(), whole)),
        );
        let outputs = std::slice::from_ref(output);
        let (engine, fed) = load(self, &[node], &overrides, values, outputs)?;
        let inputs: Vec<&NpyArray> = fed.iter().map(|v| &values[v]).collect();
        engine
            .run(&inputs)?
            .pop()
            .ok_or_else(|| Error::UndefinedValue {
                place: "calibration".into(),
                field: "output",
                value: output.clone(),
            })
    }

    /// The other nodes of segment `s`, for values of just these shapes; `None` where nothing of them is read.
    pub(crate) fn load(
        &self,
        s: usize,
        overrides: &Overrides,
        values: &Values,
    ) -> Result<Option<Loaded>> {
        let nodes = &self.stages.segments()[s];
        let made = nodes.iter().flat_map(|&n| &self.view.node(n).output);
        let outputs: Vec<String> = made
            .filter(|v| !v.is_empty() && self.stages.is_needed_after(v, s))
            .cloned()
            .collect();
        if outputs.is_empty() {
            return Ok(None);
        }
        let (engine, fed) = load(self, nodes, overrides, values, &outputs)?;
        Ok(Some(Loaded {
            engine,
            fed,
            outputs,
        }))
    }

    /// What [`Cut::run`] does after [`Cut::run_uses`].
    pub(crate) fn run_rest(
        &self,
        s: usize,
        loaded: Option<&Loaded>,
        values: &mut Values,
    ) -> Result<()> {
        if let Some(loaded) = loaded {
            let inputs: Vec<&NpyArray> = loaded.fed.iter().map(|v| &values[v]).collect();
            let results = loaded.engine.run(&inputs)?;
            values.extend(loaded.outputs.iter().cloned().zip(results));
        }
        values.retain(|name, _| self.stages.is_needed_after(name, s));
        Ok(())
    }
}

/// A model of the given nodes that makes the outputs from values; and the values that it is fed, in order.
fn load(
    cut: &Cut<'_>,
    nodes: &[usize],
    overrides: &Overrides,
    values: &Values,
    outputs: &[String],
) -> Result<(Engine, Vec<String>)> {
    let (model, view, stages) = (cut.model, cut.view, cut.stages);
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
pub(crate) fn floats<'v>(values: &'v Values, name: &str) -> Result<CowArray<'v, f32, IxDyn>> {
    let found = values.get(name).ok_or_else(|| Error::UndefinedValue {
        place: "calibration".into(),
        field: "value",
        value: name.to_string(),
    })?;
    Ok(match found {
        NpyArray::F32(array) => array.view().into(),
        other => other.to_f32().into(),
    })
}
