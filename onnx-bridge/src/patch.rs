//! A change of a graph that happens whole or not at all.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::{self, NodeProto, TensorProto, ValueInfoProto};

/// Nodes and initializers to remove and to add. [`GraphPatch::apply`] checks everything, then makes a new model; the
/// old one is never touched.
#[derive(Debug, Clone, Default)]
pub struct GraphPatch {
    removed_nodes: BTreeSet<usize>,
    inserted: BTreeMap<usize, Vec<NodeProto>>,
    removed_initializers: BTreeSet<String>,
    initializers: Vec<TensorProto>,
    domains: BTreeMap<String, i64>,
}

impl GraphPatch {
    /// A patch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.removed_nodes.is_empty()
            && self.inserted.is_empty()
            && self.removed_initializers.is_empty()
            && self.initializers.is_empty()
    }

    /// Takes out the node at an index of the original graph.
    pub fn remove_node(&mut self, index: usize) {
        self.removed_nodes.insert(index);
    }

    /// Puts nodes before the node at an index of the original graph, after those put there earlier.
    pub fn insert_before(&mut self, index: usize, nodes: impl IntoIterator<Item = NodeProto>) {
        self.inserted.entry(index).or_default().extend(nodes);
    }

    /// Takes out an initializer, and the graph input of the same name that old files have.
    pub fn remove_initializer(&mut self, name: impl Into<String>) {
        self.removed_initializers.insert(name.into());
    }

    /// Adds an initializer.
    pub fn add_initializer(&mut self, tensor: TensorProto) {
        self.initializers.push(tensor);
    }

    /// Says that added nodes come from a domain, in a version of it. A model that knows the domain keeps its own version.
    pub fn require_domain(&mut self, domain: impl Into<String>, version: i64) {
        self.domains.insert(domain.into(), version);
    }

    /// The patched model. Before IR 4 every initializer is a graph input too, so an added one becomes both.
    ///
    /// # Errors
    /// [`Error::UndefinedValue`] for an index or name that the graph does not have, and the errors of
    /// [`Model::from_proto`] where the result would break a rule of ONNX.
    pub fn apply(&self, model: &Model) -> Result<Model> {
        let old = model.graph();
        let place = || format!("patch of graph `{}`", old.name());
        let indices = self.removed_nodes.iter().chain(self.inserted.keys());
        if let Some(index) = indices.copied().find(|&i| i >= old.node.len()) {
            return Err(Error::UndefinedValue {
                place: place(),
                field: "node",
                value: index.to_string(),
            });
        }
        let known: HashSet<&str> = old.initializer.iter().map(TensorProto::name).collect();
        if let Some(name) = self
            .removed_initializers
            .iter()
            .find(|n| !known.contains(n.as_str()))
        {
            return Err(Error::UndefinedValue {
                place: place(),
                field: "initializer",
                value: name.clone(),
            });
        }
        let kept = |name: &str| !self.removed_initializers.contains(name);
        let mut graph = proto::GraphProto {
            name: old.name.clone(),
            doc_string: old.doc_string.clone(),
            metadata_props: old.metadata_props.clone(),
            sparse_initializer: old.sparse_initializer.clone(),
            output: old.output.clone(),
            input: old
                .input
                .iter()
                .filter(|i| kept(i.name()))
                .cloned()
                .chain(self.inputs(model.ir_version()))
                .collect(),
            initializer: old
                .initializer
                .iter()
                .filter(|t| kept(t.name()))
                .chain(&self.initializers)
                .cloned()
                .collect(),
            quantization_annotation: old.quantization_annotation.clone(),
            ..Default::default()
        };
        for (index, node) in old.node.iter().enumerate() {
            graph
                .node
                .extend(self.inserted.get(&index).into_iter().flatten().cloned());
            if !self.removed_nodes.contains(&index) {
                graph.node.push(node.clone());
            }
        }
        let made: HashSet<&str> = graph
            .node
            .iter()
            .flat_map(|n| &n.output)
            .map(String::as_str)
            .collect();
        let removed = self.removed_nodes.iter().flat_map(|&i| &old.node[i].output);
        let gone: HashSet<&str> = removed
            .map(String::as_str)
            .filter(|name| !made.contains(name))
            .collect();
        let stated = |name: &str| kept(name) && !gone.contains(name);
        graph.value_info = old
            .value_info
            .iter()
            .filter(|v| stated(v.name()))
            .cloned()
            .collect();
        model.with_graph(graph, &self.domains)
    }

    /// The graph inputs that the added initializers need in a file of this version.
    fn inputs(&self, ir_version: i64) -> impl Iterator<Item = ValueInfoProto> {
        let added = self.initializers.iter().filter(move |_| ir_version < 4);
        added.map(proto::value_info)
    }
}
