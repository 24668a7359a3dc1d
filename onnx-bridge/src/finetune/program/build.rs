//! A graph sorted by when its nodes run.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::ops;
use super::super::value::Value;
use super::{Program, Step};
use crate::error::{Error, Result, node_place};
use crate::model::Model;
use crate::proto::{GraphProto, NodeProto};

/// When a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Once, when the program is made.
    Constant,
    /// Once per batch, without a tape.
    Batch,
    /// On every pass, with a tape.
    Hot,
}

/// What is asked of a graph.
pub(crate) struct Request<'a> {
    /// The graph, its nodes in order.
    pub(crate) graph: &'a GraphProto,
    /// The version of its operator set.
    pub(crate) opset: i64,
    /// Values that are given on every pass in place of what the graph computes for them.
    pub(crate) trained: &'a [String],
    /// Values that are given for every batch once it is prepared.
    pub(crate) given: &'a [String],
    /// Values that are read once a batch is prepared; no trained value reaches them.
    pub(crate) seen: &'a [String],
    /// Values to give back.
    pub(crate) wanted: &'a [String],
}

impl<'a> Request<'a> {
    /// Some values of a model as it is, nothing trained.
    pub(crate) fn outputs(model: &'a Model, wanted: &'a [String]) -> Self {
        Self {
            graph: model.graph(),
            opset: model.opset(),
            trained: &[],
            given: &[],
            seen: &[],
            wanted,
        }
    }
}

/// The operators of a graph that the interpreter lacks, with how many nodes use each; only nodes that `wanted` needs count.
fn missing(nodes: &[&NodeProto]) -> Vec<String> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes
        .iter()
        .filter(|n| ops::lookup(n.domain(), n.op_type()).is_none())
    {
        let name = match node.domain() {
            "" => node.op_type().to_string(),
            domain => format!("{domain}::{}", node.op_type()),
        };
        *count.entry(name).or_default() += 1;
    }
    count
        .into_iter()
        .map(|(name, n)| {
            if n == 1 {
                name
            } else {
                format!("{name} ({n} nodes)")
            }
        })
        .collect()
}

/// The operators that a model's outputs need and the interpreter lacks, by name and with how many nodes use each.
pub fn missing_operators(model: &Model) -> Vec<String> {
    let wanted: Vec<String> = model
        .graph()
        .output
        .iter()
        .map(|o| o.name().to_string())
        .collect();
    missing(&needed(&Request::outputs(model, &wanted)))
}

/// The nodes that the wanted values need, in order, stopping at values that are given.
fn needed<'a>(request: &Request<'a>) -> Vec<&'a NodeProto> {
    let given = request.trained.iter().chain(request.given);
    let given: HashSet<&str> = given.map(String::as_str).collect();
    let open = request.wanted.iter().chain(request.seen);
    let mut open: HashSet<&str> = open.map(String::as_str).collect();
    open.extend(&given);
    let mut kept: Vec<&NodeProto> = Vec::new();
    for node in request.graph.node.iter().rev() {
        if node
            .output
            .iter()
            .any(|o| !o.is_empty() && open.contains(o.as_str()) && !given.contains(o.as_str()))
        {
            open.extend(node.input.iter().map(String::as_str));
            kept.push(node);
        }
    }
    kept.reverse();
    kept
}

impl Program {
    /// Sorts the graph and evaluates its constants.
    ///
    /// # Errors
    /// [`Error::MissingOperators`] before anything is computed; [`Error::Evaluate`] where a constant part cannot be.
    pub(crate) fn new(request: &Request<'_>) -> Result<Self> {
        let nodes = needed(request);
        let lacking = missing(&nodes);
        if !lacking.is_empty() {
            return Err(Error::MissingOperators { operators: lacking });
        }
        let graph = request.graph;
        let initializers: HashMap<&str, _> =
            graph.initializer.iter().map(|t| (t.name(), t)).collect();
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut phases: Vec<Phase> = Vec::new();
        let mut constants: Vec<Option<Value>> = Vec::new();
        let mut inputs = Vec::new();
        let mut trained = Vec::new();
        let slot = |phase: Phase, phases: &mut Vec<Phase>, constants: &mut Vec<Option<Value>>| {
            phases.push(phase);
            constants.push(None);
            phases.len() - 1
        };
        for name in request.trained {
            let at = slot(Phase::Hot, &mut phases, &mut constants);
            names.insert(name, at);
            trained.push(at);
        }
        let mut given = Vec::new();
        for name in request.given {
            let at = slot(Phase::Batch, &mut phases, &mut constants);
            names.insert(name, at);
            given.push(at);
        }
        for info in graph
            .input
            .iter()
            .filter(|i| !initializers.contains_key(i.name()))
        {
            let at = slot(Phase::Batch, &mut phases, &mut constants);
            names.entry(info.name()).or_insert(at);
            inputs.push((info.name().to_string(), at));
        }
        let (mut batch, mut hot) = (Vec::new(), Vec::new());
        for node in nodes {
            let op = ops::lookup(node.domain(), node.op_type()).ok_or_else(|| {
                Error::MissingOperators {
                    operators: vec![node.op_type().to_string()],
                }
            })?;
            let mut read = Vec::with_capacity(node.input.len());
            for name in &node.input {
                if name.is_empty() {
                    read.push(None);
                    continue;
                }
                let at = match names.get(name.as_str()) {
                    Some(&at) => at,
                    None => {
                        let tensor = initializers.get(name.as_str()).ok_or_else(|| {
                            Error::UndefinedValue {
                                place: node_place(node),
                                field: "input",
                                value: name.clone(),
                            }
                        })?;
                        let at = slot(Phase::Constant, &mut phases, &mut constants);
                        let value = ops::constant(tensor).map_err(|e| Error::Evaluate {
                            place: format!("initializer `{name}`"),
                            problem: e.to_string(),
                        })?;
                        constants[at] = Some(value);
                        names.insert(name, at);
                        at
                    }
                };
                read.push(Some(at));
            }
            let phase = read
                .iter()
                .flatten()
                .map(|&at| phases[at])
                .max()
                .unwrap_or(Phase::Constant);
            let mut written = Vec::with_capacity(node.output.len());
            for name in &node.output {
                written.push(if name.is_empty() {
                    None
                } else {
                    let at = slot(phase, &mut phases, &mut constants);
                    names.entry(name).or_insert(at);
                    Some(at)
                });
            }
            let step = Step {
                node: node.clone(),
                op,
                back: ops::way_back(node.domain(), node.op_type()),
                inputs: read,
                outputs: written,
                dead: Vec::new(),
            };
            match phase {
                Phase::Constant => step.run(request.opset, &mut constants, None)?,
                Phase::Batch => batch.push(step),
                Phase::Hot => hot.push(step),
            }
        }
        let find = |name: &String| {
            names
                .get(name.as_str())
                .copied()
                .ok_or_else(|| Error::UndefinedValue {
                    place: "graph".into(),
                    field: "output",
                    value: name.clone(),
                })
        };
        let wanted: Vec<usize> = request.wanted.iter().map(find).collect::<Result<_>>()?;
        let seen: Vec<usize> = request.seen.iter().map(find).collect::<Result<_>>()?;
        let mut kept: HashSet<usize> = wanted.iter().copied().collect();
        kept.extend(hot.iter().flat_map(|s| s.inputs.iter().flatten()));
        kept.extend(&seen);
        mark_dead(&mut batch, &kept);
        mark_dead(&mut hot, &wanted.iter().copied().collect());
        let read: HashSet<usize> = batch
            .iter()
            .chain(&hot)
            .flat_map(|s| s.inputs.iter().flatten().copied())
            .chain(wanted.iter().chain(&seen).copied())
            .collect();
        let slots = phases.len();
        let constants = constants
            .into_iter()
            .enumerate()
            .filter_map(|(at, v)| Some((at, v?)))
            .filter(|(at, _)| read.contains(at))
            .collect();
        Ok(Self {
            batch,
            hot,
            opset: request.opset,
            slots,
            constants,
            inputs,
            trained,
            given,
            seen,
            wanted,
            kept,
        })
    }
}

/// Notes for every step the slots that it is the last to read.
fn mark_dead(steps: &mut [Step], kept: &HashSet<usize>) {
    let mut seen: HashSet<usize> = kept.clone();
    for step in steps.iter_mut().rev() {
        let touched: Vec<usize> = step
            .inputs
            .iter()
            .chain(&step.outputs)
            .flatten()
            .copied()
            .collect();
        step.dead = touched.into_iter().filter(|&at| seen.insert(at)).collect();
    }
}
