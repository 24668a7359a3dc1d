//! Finds rewritten layers in a plain graph and puts fused nodes in their place.

use std::collections::{HashMap, HashSet};

use quant_core::Activation;

use super::RuntimeOptions;
use super::form::Form;
use super::layer::{Kind, Layer};
use super::network::Network;
use super::op::OP;
use super::table::Table;
use crate::proto::{self, GraphProto, NodeProto, TensorProto};
use crate::recognise::{StoredArray, StoredBlocks, stored_arrays, stored_blocks};
use crate::tensor;

/// A graph, indexed by what is looked for.
pub(super) struct Finder<'a> {
    pub(super) graph: &'a GraphProto,
    pub(super) options: RuntimeOptions,
    producers: HashMap<&'a str, usize>,
    consumers: HashMap<&'a str, Vec<usize>>,
    pub(super) initializers: HashMap<&'a str, &'a TensorProto>,
    outputs: HashSet<&'a str>,
    pub(super) arrays: HashMap<String, StoredArray>,
    pub(super) blocks: HashMap<String, StoredBlocks>,
}

/// A value times a matrix, which may stand in pieces.
pub(super) struct Multiplied<'a> {
    /// The pieces of the right operand.
    pub(super) values: Vec<&'a str>,
    /// The node that makes the product.
    pub(super) last: usize,
    /// All its nodes.
    pub(super) nodes: Vec<usize>,
}

/// A chain of nodes that one layer takes the place of; `last` makes its result.
struct Chain {
    input: String,
    last: usize,
    kind: Kind,
}

/// The graph with fused nodes, and their layers.
pub(super) fn fuse(graph: &GraphProto, options: RuntimeOptions) -> (GraphProto, Vec<Layer>) {
    let finder = Finder::new(graph, options);
    let mut chains = finder.tables();
    let mut inside: HashSet<usize> = HashSet::new();
    for node in 0..graph.node.len() {
        if let Some((chain, nodes)) = (!inside.contains(&node))
            .then(|| finder.product(node))
            .flatten()
        {
            inside.extend(nodes);
            chains.push(chain);
        }
    }
    let mut fused = graph.clone();
    let mut layers = Vec::new();
    for chain in chains {
        let last = &graph.node[chain.last];
        let name = last.output[0].clone();
        let is_table = matches!(chain.kind, Kind::Table(_));
        let layer = Layer::new(name.clone(), chain.kind, options.activations);
        let attributes = vec![
            proto::int_attribute("layer", layers.len() as i64),
            proto::int_attribute("width", layer.width() as i64),
            proto::int_attribute("table", i64::from(is_table)),
        ];
        fused.node[chain.last] = proto::node(OP, last.name(), &[&chain.input], &name, attributes);
        layers.push(layer);
    }
    remove_unused(&mut fused);
    (fused, layers)
}

/// Takes out nodes and initializers that nothing needs any more. Graphs with subgraphs keep all: those see every name.
fn remove_unused(graph: &mut GraphProto) {
    if graph
        .node
        .iter()
        .any(|n| crate::walk::subgraphs(n).next().is_some())
    {
        return;
    }
    let mut needed: HashSet<String> = graph.output.iter().map(|o| o.name().to_string()).collect();
    let mut open: Vec<String> = needed.iter().cloned().collect();
    let producers: HashMap<&str, &NodeProto> = graph
        .node
        .iter()
        .flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)))
        .collect();
    while let Some(value) = open.pop() {
        for input in producers
            .get(value.as_str())
            .into_iter()
            .flat_map(|n| &n.input)
        {
            if needed.insert(input.clone()) {
                open.push(input.clone());
            }
        }
    }
    graph
        .node
        .retain(|n| n.output.iter().any(|o| needed.contains(o)));
    graph.initializer.retain(|t| needed.contains(t.name()));
}

impl<'a> Finder<'a> {
    fn new(graph: &'a GraphProto, options: RuntimeOptions) -> Self {
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, node) in graph.node.iter().enumerate() {
            for input in &node.input {
                consumers.entry(input).or_default().push(i);
            }
        }
        let producers = graph.node.iter().enumerate();
        Self {
            graph,
            options,
            producers: producers
                .flat_map(|(i, n)| n.output.iter().map(move |o| (o.as_str(), i)))
                .collect(),
            consumers,
            initializers: graph.initializer.iter().map(|t| (t.name(), t)).collect(),
            outputs: graph.output.iter().map(|o| o.name()).collect(),
            arrays: stored_arrays(graph)
                .into_iter()
                .map(|a| (a.value().to_string(), a))
                .collect(),
            blocks: stored_blocks(graph)
                .into_iter()
                .map(|b| (b.value().to_string(), b))
                .collect(),
        }
    }

    pub(super) fn producer(&self, value: &str) -> Option<&'a NodeProto> {
        self.producers.get(value).map(|&n| &self.graph.node[n])
    }

    pub(super) fn made_by(&self, value: &str, op: &str) -> Option<&'a NodeProto> {
        self.producer(value).filter(|node| node.op_type() == op)
    }

    /// Whether a value depends on no input of the graph.
    fn is_constant(&self, value: &str) -> bool {
        let mut open = vec![value];
        let mut seen = HashSet::new();
        while let Some(value) = open.pop() {
            if self.initializers.contains_key(value) || !seen.insert(value) {
                continue;
            }
            match self.producer(value) {
                Some(node) => open.extend(node.input.iter().map(String::as_str)),
                None => return false,
            }
        }
        true
    }

    /// The one node that reads a value that is no output.
    pub(super) fn only_consumer(&self, value: &str) -> Option<usize> {
        match self.consumers.get(value).map(Vec::as_slice) {
            Some(&[only]) if !self.outputs.contains(value) => Some(only),
            _ => None,
        }
    }

    fn floats(&self, value: &str) -> Option<Vec<f32>> {
        tensor::to_f32(self.initializers.get(value)?)
    }

    /// A stored number, in an initializer or a `Constant`.
    fn number(&self, value: &str) -> Option<f32> {
        let numbers = match self.made_by(value, "Constant") {
            Some(node) => tensor::to_f32(proto::attribute(node, "value")?.t.as_ref()?)?,
            None => self.floats(value)?,
        };
        match numbers.as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }

    /// The MatMul, or the MatMuls joined by one Concat, that a value alone goes into.
    pub(super) fn multiplied(&self, value: &str) -> Option<Multiplied<'a>> {
        let consumers = self.consumers.get(value)?;
        let found = self.multiplied_at(*consumers.first()?)?;
        let products = found.nodes.iter().filter(|n| consumers.contains(n));
        (products.count() == consumers.len() && !self.outputs.contains(value)).then_some(found)
    }

    /// The MatMul at a node, with those beside it where a Concat joins them.
    fn multiplied_at(&self, first: usize) -> Option<Multiplied<'a>> {
        let node = &self.graph.node[first];
        let input = node.input.first()?;
        let operand = |node: &'a NodeProto| {
            let fits = node.op_type() == "MatMul" && node.input.first() == Some(input);
            fits.then(|| node.input.get(1).map(String::as_str))?
        };
        let alone = Multiplied {
            values: vec![operand(node)?],
            last: first,
            nodes: vec![first],
        };
        let joined = self.only_consumer(node.output.first()?);
        let Some(joined) = joined.filter(|&j| self.graph.node[j].op_type() == "Concat") else {
            return Some(alone);
        };
        let concat = &self.graph.node[joined];
        let parts = concat.input.iter().map(|part| {
            let at = *self.producers.get(part.as_str())?;
            let only = self.only_consumer(part) == Some(joined);
            only.then_some((operand(&self.graph.node[at])?, at))
        });
        let Some(parts) = parts.collect::<Option<Vec<_>>>() else {
            return Some(alone);
        };
        if proto::int_or(concat, "axis", 0) != -1 || parts.first()?.1 != first {
            return Some(alone);
        }
        let mut nodes: Vec<usize> = parts.iter().map(|(_, at)| *at).collect();
        nodes.push(joined);
        Some(Multiplied {
            values: parts.into_iter().map(|(value, _)| value).collect(),
            last: joined,
            nodes,
        })
    }

    /// A train or a MatMul by a stored matrix, and what follows it.
    fn product(&self, first: usize) -> Option<(Chain, Vec<usize>)> {
        let node = &self.graph.node[first];
        if node.op_type() != "MatMul" || self.is_constant(node.input.first()?) {
            return None;
        }
        let (input, mut last, mut nodes, form) = match self.train(first) {
            Some(found) => (
                found.input,
                found.last,
                found.nodes,
                Form::Train(Box::new(found.train)),
            ),
            None => self.factors(first)?,
        };
        let (mut bias, mut activation) = (Vec::new(), Activation::None);
        if let Some((add, values)) = self.bias(last, form.n()) {
            (bias, last) = (values, add);
            nodes.push(add);
        }
        let output = &self.graph.node[last].output[0];
        if let Some(end) = self.gelu(output) {
            (activation, last) = (Activation::Gelu, end);
        } else if let Some(relu) = self
            .only_consumer(output)
            .filter(|&n| self.graph.node[n].op_type() == "Relu")
        {
            (activation, last) = (Activation::Relu, relu);
        }
        let kind = Kind::Product {
            network: Box::new(Network::new(form, self.options.route)),
            bias,
            activation,
        };
        Some((Chain { input, last, kind }, nodes))
    }

    /// Stored matrices one after the other.
    fn factors(&self, first: usize) -> Option<(String, usize, Vec<usize>, Form)> {
        let input = self.graph.node[first].input.first()?.clone();
        let mut next = self.multiplied_at(first);
        let (mut factors, mut nodes, mut last) = (Vec::new(), Vec::new(), first);
        while let Some(product) = next {
            let Some(factor) = self.factor(&product.values) else {
                break;
            };
            factors.push(factor);
            nodes.extend(product.nodes);
            last = product.last;
            next = self.multiplied(&self.graph.node[last].output[0]);
        }
        Some((input, last, nodes, Form::factors(factors)?))
    }

    /// The Add of a stored vector that follows a node.
    fn bias(&self, last: usize, width: usize) -> Option<(usize, Vec<f32>)> {
        let value = &self.graph.node[last].output[0];
        let next = self.only_consumer(value)?;
        let node = &self.graph.node[next];
        let other = node.input.iter().find(|i| *i != value)?;
        let values = self.floats(other)?;
        let one_axis = self.initializers.get(other.as_str())?.dims == [width as i64];
        (node.op_type() == "Add" && one_axis).then_some((next, values))
    }

    /// `x / sqrt 2`, Erf, `+ 1`, `* x`, `* 1/2`: the node that makes the result.
    fn gelu(&self, x: &str) -> Option<usize> {
        if self.outputs.contains(x) || self.consumers.get(x)?.len() != 2 {
            return None;
        }
        let near =
            |found: Option<f32>, wanted: f32| found.is_some_and(|f| (f - wanted).abs() < 1e-5);
        let step = |value: &str, op: &str, constant: f32| -> Option<usize> {
            let next = self.only_consumer(value)?;
            let node = &self.graph.node[next];
            let other = node.input.iter().find(|i| *i != value)?;
            (node.op_type() == op && near(self.number(other), constant)).then_some(next)
        };
        let output = |n: usize| self.graph.node[n].output[0].as_str();
        let &divide = self
            .consumers
            .get(x)?
            .iter()
            .find(|&&n| self.graph.node[n].op_type() == "Div")?;
        if !near(
            self.number(self.graph.node[divide].input.get(1)?),
            std::f32::consts::SQRT_2,
        ) {
            return None;
        }
        let erf = self.only_consumer(output(divide))?;
        if self.graph.node[erf].op_type() != "Erf" {
            return None;
        }
        let add = step(output(erf), "Add", 1.0)?;
        let product = self.only_consumer(output(add))?;
        let node = &self.graph.node[product];
        if node.op_type() != "Mul" || !node.input.iter().any(|i| i == x) {
            return None;
        }
        step(output(product), "Mul", 0.5)
    }

    /// Every lookup in a table of few levels.
    fn tables(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        let mut tables: Vec<&StoredBlocks> = self
            .blocks
            .values()
            .filter(|b| !b.lookups().is_empty())
            .collect();
        tables.sort_unstable_by_key(|b| b.value());
        for blocks in tables {
            for lookup in blocks.lookups() {
                chains.extend(self.lookup(blocks, &lookup.value, &lookup.indices));
            }
        }
        chains
    }

    fn lookup(&self, blocks: &StoredBlocks, rows: &str, indices: &str) -> Option<Chain> {
        let &[count, per_row, block] = blocks.shape() else {
            return None;
        };
        let input = self.made_by(indices, "Reshape")?.input.first()?.clone();
        let mut last = self.only_consumer(rows)?;
        let mut right = None;
        if let Some(next) = self.only_consumer(&self.graph.node[last].output[0]) {
            let node = &self.graph.node[next];
            if node.op_type() == "MatMul" {
                right = Some(self.factor(&[node.input.get(1)?])?);
                last = self.only_consumer(&node.output[0])?;
            }
        }
        let end = &self.graph.node[last];
        let shape = self.made_by(end.input.get(1)?, "Concat")?;
        let leading = self.made_by(shape.input.first()?, "Shape")?;
        if end.op_type() != "Reshape" || leading.input.first()? != &input {
            return None;
        }
        let table = Table::new(blocks, [count, per_row, block], right)?;
        Some(Chain {
            input,
            last,
            kind: Kind::Table(Box::new(table)),
        })
    }
}
