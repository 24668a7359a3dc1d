//! Finds parts of a graph that run as one operator.
//!
//! The last node of a part is replaced by one node over what the part reads; the nodes before it stay for others to read, and are
//! left out of a program that nothing else needs them in.

mod attention;
mod gelu;
mod linear;

use std::collections::HashMap;

use crate::proto::{GraphProto, NodeProto};
use crate::tensor;

/// Has every part that is known run as one operator.
pub(super) fn fuse(graph: &mut GraphProto) {
    let finder = Finder::new(graph);
    let found = [
        gelu::find(&finder),
        linear::find(&finder),
        attention::find(&finder),
    ]
    .concat();
    for (at, node) in found {
        graph.node[at] = node;
    }
}

/// Who makes and who reads the values of a graph.
struct Finder<'a> {
    graph: &'a GraphProto,
    readers: HashMap<&'a str, Vec<usize>>,
    producers: HashMap<&'a str, &'a NodeProto>,
    /// Constants of one element.
    scalars: HashMap<&'a str, f32>,
}

impl<'a> Finder<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut scalars = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for input in &node.input {
                readers.entry(input).or_default().push(at);
            }
            let constant = node.attribute.iter().find_map(|a| a.t.as_ref());
            if let ("Constant", Some(t), Some(name)) =
                (node.op_type(), constant, node.output.first())
                && let Some([v]) = tensor::to_f32(t).as_deref()
            {
                scalars.insert(name.as_str(), *v);
            }
        }
        for t in &graph.initializer {
            if t.dims.iter().product::<i64>() == 1
                && let Some([v]) = tensor::to_f32(t).as_deref()
            {
                scalars.insert(t.name(), *v);
            }
        }
        let outputs = graph
            .node
            .iter()
            .flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)));
        Self {
            readers,
            producers: outputs.collect(),
            scalars,
            graph,
        }
    }

    /// The nodes of an operator.
    fn nodes(&self, op: &str) -> impl Iterator<Item = &'a NodeProto> {
        self.graph.node.iter().filter(move |n| n.op_type() == op)
    }

    /// The node that makes a value, where it is of an operator.
    fn producer(&self, value: &str, op: &str) -> Option<&'a NodeProto> {
        let node = *self.producers.get(value)?;
        (node.op_type() == op).then_some(node)
    }

    /// The only node that reads a value, where it is of an operator, and its place.
    fn reader(&self, value: &str, op: &str) -> Option<(usize, &'a NodeProto)> {
        let &[at] = self.readers.get(value)?.as_slice() else {
            return None;
        };
        let node = &self.graph.node[at];
        (node.op_type() == op).then_some((at, node))
    }

    /// The operand of a node beside a constant number, and the number.
    fn scaled(&self, node: &'a NodeProto) -> Option<(&'a str, f32)> {
        let [a, b] = node.input.as_slice() else {
            return None;
        };
        let number = |v: &str| self.scalars.get(v).copied();
        match (number(a), number(b)) {
            (_, Some(v)) => Some((a, v)),
            (Some(v), _) => Some((b, v)),
            _ => None,
        }
    }

    /// The other operand of a node, where one operand is about this number.
    fn beside(&self, node: &'a NodeProto, number: f32) -> Option<&'a str> {
        let (other, found) = self.scaled(node)?;
        ((found - number).abs() < 1e-6 * number).then_some(other)
    }
}
