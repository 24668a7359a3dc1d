//! The names that a model uses, which new ones must differ from.

use std::collections::HashSet;

use crate::model::Model;
use crate::proto::{GraphProto, NodeProto};
#[cfg(feature = "tract")]
use crate::view::GraphView;

/// Every name that a graph uses, of values and of nodes, in its subgraphs too.
#[cfg(feature = "tract")]
pub(crate) fn names(view: &GraphView<'_>) -> HashSet<String> {
    let mut found = HashSet::new();
    collect_names(view.graph(), &mut found);
    found
}

fn collect_names(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(graph.input.iter().map(|i| i.name().to_string()));
    names.extend(graph.initializer.iter().map(|t| t.name().to_string()));
    let sparse = graph.sparse_initializer.iter().flat_map(|s| &s.values);
    names.extend(sparse.map(|t| t.name().to_string()));
    collect_node_names(&graph.node, names);
}

fn collect_node_names(nodes: &[NodeProto], names: &mut HashSet<String>) {
    for node in nodes {
        names.extend(node.output.iter().cloned());
        names.insert(node.name().to_string());
        crate::walk::subgraphs(node).for_each(|g| collect_names(g, names));
    }
}

/// The names of all graphs of a model and of its functions.
pub(super) fn all_names(model: &Model) -> HashSet<String> {
    let mut found = HashSet::new();
    collect_names(model.graph(), &mut found);
    for function in &model.proto().functions {
        found.extend(function.input.iter().cloned());
        collect_node_names(&function.node, &mut found);
    }
    found
}
