//! Visiting every graph and every tensor of a model, nested ones included.

use crate::error::Result;
use crate::proto::{FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// Calls `visit` for every dense tensor: initializers and attributes, in subgraphs and functions too.
pub(crate) fn tensors_mut(
    model: &mut ModelProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    if let Some(graph) = &mut model.graph {
        graph_tensors_mut(graph, visit)?;
    }
    model
        .functions
        .iter_mut()
        .try_for_each(|f: &mut FunctionProto| node_tensors_mut(&mut f.node, visit))
}

fn graph_tensors_mut(
    graph: &mut GraphProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    node_tensors_mut(&mut graph.node, visit)
}

fn node_tensors_mut(
    nodes: &mut [NodeProto],
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<()>,
) -> Result<()> {
    for attribute in nodes.iter_mut().flat_map(|n| &mut n.attribute) {
        attribute
            .t
            .iter_mut()
            .chain(&mut attribute.tensors)
            .try_for_each(&mut *visit)?;
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            graph_tensors_mut(graph, visit)?;
        }
    }
    Ok(())
}

/// The graphs that a node holds in its attributes.
pub(crate) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute
        .iter()
        .flat_map(|a| a.g.iter().chain(&a.graphs))
}
