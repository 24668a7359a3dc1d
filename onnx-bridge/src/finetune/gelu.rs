//! Finds GELU as exporters write it before opset 20, to run it as one operator.

use std::collections::HashMap;

use crate::proto::{self, GraphProto, NodeProto};
use crate::tensor;

struct Finder<'a> {
    readers: HashMap<&'a str, Vec<usize>>,
    producers: HashMap<&'a str, &'a NodeProto>,
    scalars: HashMap<&'a str, f32>,
    graph: &'a GraphProto,
}

/// Replaces the last node of every `x * (1 + erf(x / sqrt 2)) / 2` by `Gelu`; what stood in between stays for others to read.
pub(super) fn fuse(graph: &mut GraphProto) {
    let finder = Finder::new(graph);
    let found: Vec<(usize, NodeProto)> = (0..graph.node.len())
        .filter(|&at| graph.node[at].op_type() == "Erf")
        .filter_map(|at| finder.gelu(at))
        .collect();
    for (at, node) in found {
        graph.node[at] = node;
    }
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

    /// The only node that reads a value.
    fn reader(&self, value: &str) -> Option<usize> {
        match self.readers.get(value)?.as_slice() {
            [at] => Some(*at),
            _ => None,
        }
    }

    /// The other operand of a node, where one operand is about this number.
    fn beside(&self, node: &'a NodeProto, number: f32) -> Option<&'a str> {
        let [a, b] = node.input.as_slice() else {
            return None;
        };
        let is = |v: &str| {
            let found = self.scalars.get(v);
            found.is_some_and(|f| (f - number).abs() < 1e-6 * number)
        };
        match (is(a), is(b)) {
            (_, true) => Some(a),
            (true, _) => Some(b),
            _ => None,
        }
    }

    fn gelu(&self, erf: usize) -> Option<(usize, NodeProto)> {
        let erf = &self.graph.node[erf];
        let scaled = self.producers.get(erf.input.first()?.as_str())?;
        let x = match scaled.op_type() {
            "Div" if self.scalars.contains_key(scaled.input.get(1)?.as_str()) => {
                self.beside(scaled, std::f32::consts::SQRT_2)?
            }
            "Mul" => self.beside(scaled, std::f32::consts::FRAC_1_SQRT_2)?,
            _ => return None,
        };
        let node = |at: usize, op: &str| {
            let n = &self.graph.node[at];
            (n.op_type() == op).then_some(n)
        };
        let sum = node(self.reader(erf.output.first()?)?, "Add")?;
        self.beside(sum, 1.0)?;
        let sum = sum.output.first()?;
        // x * sum * 0.5 in either order of the products.
        let product = node(self.reader(sum)?, "Mul")?;
        let last = match product.input.iter().any(|i| i == x) {
            true => {
                let at = self.reader(product.output.first()?)?;
                self.beside(node(at, "Mul")?, 0.5)?;
                at
            }
            false => {
                let other = product.input.iter().find(|i| *i != sum)?;
                let half = self.producers.get(other.as_str())?;
                (half.op_type() == "Mul" && self.beside(half, 0.5)? == x).then_some(())?;
                self.reader(sum)?
            }
        };
        let whole = &self.graph.node[last];
        let output = whole.output.first()?;
        let fused = proto::node("Gelu", whole.name(), &[x], output, Vec::new());
        Some((last, fused))
    }
}
