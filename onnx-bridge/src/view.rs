//! A borrowed index of a graph: who makes a value, who uses it.

use std::collections::{HashMap, HashSet};

use crate::model::Model;
use crate::proto::{
    FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto,
    type_proto,
};
use crate::walk;

/// One use of a value: an input of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The node's index in the graph.
    pub node: usize,
    /// Which of its inputs; [`Use::CAPTURED`] where a subgraph of the node refers to the value by name.
    pub input: usize,
}

impl Use {
    /// The `input` of a use from inside a subgraph.
    pub const CAPTURED: usize = usize::MAX;
}

/// An index of a model's main graph. Building it takes one pass over nodes and names; no data is copied.
#[derive(Debug)]
pub struct GraphView<'a> {
    graph: &'a GraphProto,
    functions: &'a [FunctionProto],
    opset: i64,
    ir_version: i64,
    producers: HashMap<&'a str, usize>,
    consumers: HashMap<&'a str, Vec<Use>>,
    initializers: HashMap<&'a str, usize>,
    inputs: HashSet<&'a str>,
    outputs: HashSet<&'a str>,
    types: HashMap<&'a str, &'a ValueInfoProto>,
}

impl<'a> GraphView<'a> {
    /// Indexes the main graph of a model.
    pub fn new(model: &'a Model) -> Self {
        let graph = model.graph();
        let mut view = Self {
            graph,
            functions: &model.proto().functions,
            opset: model.opset(),
            ir_version: model.ir_version(),
            producers: HashMap::new(),
            consumers: HashMap::new(),
            initializers: graph
                .initializer
                .iter()
                .enumerate()
                .map(|(i, t)| (t.name(), i))
                .collect(),
            inputs: graph.input.iter().map(ValueInfoProto::name).collect(),
            outputs: graph.output.iter().map(ValueInfoProto::name).collect(),
            types: HashMap::new(),
        };
        for info in graph
            .value_info
            .iter()
            .chain(&graph.input)
            .chain(&graph.output)
        {
            view.types.insert(info.name(), info);
        }
        for (index, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                view.producers.insert(output, index);
            }
            for (input, name) in node.input.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
                view.consumers
                    .entry(name)
                    .or_default()
                    .push(Use { node: index, input });
            }
            let mut captured = Vec::new();
            walk::subgraphs(node).for_each(|g| captures(g, &mut captured));
            captured.sort_unstable();
            captured.dedup();
            for name in captured {
                view.consumers.entry(name).or_default().push(Use {
                    node: index,
                    input: Use::CAPTURED,
                });
            }
        }
        view
    }

    /// The graph itself.
    pub fn graph(&self) -> &'a GraphProto {
        self.graph
    }

    /// The model's own functions.
    pub(crate) fn functions(&self) -> &'a [FunctionProto] {
        self.functions
    }

    /// The version of the file format.
    pub(crate) fn ir_version(&self) -> i64 {
        self.ir_version
    }

    /// The version of the standard operators.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The node at an index of the graph.
    ///
    /// # Panics
    /// When the graph has no such node; indices come from this view.
    pub fn node(&self, index: usize) -> &'a NodeProto {
        &self.graph.node[index]
    }

    /// The node that makes a value, if one does.
    pub fn producer(&self, value: &str) -> Option<usize> {
        self.producers.get(value).copied()
    }

    /// Every use of a value, in the order of the nodes.
    pub fn consumers(&self, value: &str) -> &[Use] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// The initializer of that name.
    pub fn initializer(&self, value: &str) -> Option<&'a TensorProto> {
        self.initializers
            .get(value)
            .map(|&i| &self.graph.initializer[i])
    }

    /// Whether a caller can replace an initializer: from IR 4 on, one that is also a graph input is only a default.
    pub fn is_overridable(&self, initializer: &str) -> bool {
        self.ir_version >= 4 && self.inputs.contains(initializer)
    }

    /// Whether a value is an output of the graph.
    pub fn is_output(&self, value: &str) -> bool {
        self.outputs.contains(value)
    }

    /// Whether any value, input or initializer of the graph has this name.
    pub fn defines(&self, value: &str) -> bool {
        self.producers.contains_key(value)
            || self.initializers.contains_key(value)
            || self.inputs.contains(value)
    }

    /// The rank of a value, where the file states it: `None` where it does not.
    pub fn rank(&self, value: &str) -> Option<usize> {
        if let Some(initializer) = self.initializer(value) {
            return Some(initializer.dims.len());
        }
        self.shape_info(value).map(<[_]>::len)
    }

    fn shape_info(&self, value: &str) -> Option<&'a [tensor_shape_proto::Dimension]> {
        match self.types.get(value)?.r#type.as_ref()?.value.as_ref()? {
            type_proto::Value::TensorType(tensor) => Some(&tensor.shape.as_ref()?.dim),
            _ => None,
        }
    }
}

/// The names that a subgraph takes from around it.
pub(crate) fn captures<'a>(graph: &'a GraphProto, found: &mut Vec<&'a str>) {
    let inputs = graph.input.iter().map(ValueInfoProto::name);
    let own: HashSet<&str> = inputs
        .chain(graph.initializer.iter().map(TensorProto::name))
        .chain(
            graph
                .node
                .iter()
                .flat_map(|n| &n.output)
                .map(String::as_str),
        )
        .collect();
    let mut inner = Vec::new();
    for node in &graph.node {
        inner.extend(
            node.input
                .iter()
                .map(String::as_str)
                .filter(|n| !n.is_empty()),
        );
        walk::subgraphs(node).for_each(|g| captures(g, &mut inner));
    }
    inner.extend(graph.output.iter().map(ValueInfoProto::name));
    found.extend(inner.into_iter().filter(|name| !own.contains(name)));
}
