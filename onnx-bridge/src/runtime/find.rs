//! Finds rewritten layers in a plain graph and puts fused nodes in their place.

use std::collections::{HashMap, HashSet};

use quant_core::{Activation, Groups, LowBitMatrix, LowBitParts, PanelMatrix};

use super::Activations;
use super::layer::{Factor, Kind, Layer, Table};
use super::op::OP;
use crate::blocks::scale_of;
use crate::proto::{self, GraphProto, NodeProto, TensorProto};
use crate::recognise::{StoredArray, StoredBlocks, stored_arrays, stored_blocks};
use crate::tensor;

/// Scales that change along k more often than this make a matrix that is kept as `f32`.
const SHORTEST_BLOCK: usize = 8;

struct Finder<'a> {
    graph: &'a GraphProto,
    producers: HashMap<&'a str, usize>,
    consumers: HashMap<&'a str, Vec<usize>>,
    initializers: HashMap<&'a str, &'a TensorProto>,
    outputs: HashSet<&'a str>,
    arrays: HashMap<String, StoredArray>,
    blocks: HashMap<String, StoredBlocks>,
}

/// A chain of nodes that one layer takes the place of; `last` makes its result.
struct Chain {
    input: String,
    last: usize,
    kind: Kind,
}

/// The graph with fused nodes, and their layers.
pub(super) fn fuse(graph: &GraphProto, activations: Activations) -> (GraphProto, Vec<Layer>) {
    let finder = Finder::new(graph);
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
        let layer = Layer::new(name.clone(), chain.kind, activations);
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
    fn new(graph: &'a GraphProto) -> Self {
        let mut consumers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, node) in graph.node.iter().enumerate() {
            for input in &node.input {
                consumers.entry(input).or_default().push(i);
            }
        }
        let producers = graph.node.iter().enumerate();
        Self {
            graph,
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

    fn made_by(&self, value: &str, op: &str) -> Option<&'a NodeProto> {
        let node = &self.graph.node[*self.producers.get(value)?];
        (node.op_type() == op).then_some(node)
    }

    /// The one node that reads a value that is no output.
    fn only_consumer(&self, value: &str) -> Option<usize> {
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

    /// A value as the right operand `[K, N]` of a MatMul.
    fn factor(&self, value: &str) -> Option<Factor> {
        let (inner, shape) = match self.made_by(value, "Reshape") {
            Some(reshape) => {
                let dims = tensor::to_i64(self.initializers.get(reshape.input.get(1)?.as_str())?)?;
                let dims: Option<Vec<usize>> =
                    dims.iter().map(|d| usize::try_from(*d).ok()).collect();
                (reshape.input.first()?.as_str(), dims?)
            }
            None => (value, self.arrays.get(value)?.shape().to_vec()),
        };
        let &[k, n] = shape.as_slice() else {
            return None;
        };
        if let Some(blocks) = self.blocks.get(inner).filter(|b| b.lookups().is_empty()) {
            return block_factor(blocks, [k, n]);
        }
        array_factor(self.arrays.get(inner)?, [k, n])
    }

    /// A MatMul by a stored matrix, and what follows it.
    fn product(&self, first: usize) -> Option<(Chain, Vec<usize>)> {
        let node = &self.graph.node[first];
        let input = node.input.first()?.clone();
        let mut factors = vec![self.multiplied(node)?];
        let mut nodes = vec![first];
        let mut last = first;
        while let Some(next) = self.only_consumer(&self.graph.node[last].output[0]) {
            let node = &self.graph.node[next];
            let follows = node.input.first() == self.graph.node[last].output.first();
            let Some(factor) = follows.then(|| self.multiplied(node)).flatten() else {
                break;
            };
            factors.push(factor);
            nodes.push(next);
            last = next;
        }
        if factors.windows(2).any(|w| w[0].n() != w[1].k()) {
            return None;
        }
        let width = factors.last()?.n();
        let (mut bias, mut activation) = (Vec::new(), Activation::None);
        if let Some((add, values)) = self.bias(last, width) {
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
            factors,
            bias,
            activation,
        };
        Some((Chain { input, last, kind }, nodes))
    }

    fn multiplied(&self, node: &NodeProto) -> Option<Factor> {
        (node.op_type() == "MatMul")
            .then(|| self.factor(node.input.get(1)?))
            .flatten()
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
                right = match self.factor(node.input.get(1)?)? {
                    Factor::Dense(w) => Some(w),
                    Factor::LowBit(w) => {
                        Some(PanelMatrix::new(&w.dequantize(), [w.n(), w.k()]).ok()?)
                    }
                };
                last = self.only_consumer(&node.output[0])?;
            }
        }
        let end = &self.graph.node[last];
        let shape = self.made_by(end.input.get(1)?, "Concat")?;
        let leading = self.made_by(shape.input.first()?, "Shape")?;
        if end.op_type() != "Reshape" || leading.input.first()? != &input {
            return None;
        }
        let (values, levels) = (blocks.values(), blocks.levels());
        let words = values.codes.chunks((per_row * block).max(1));
        let table = Table {
            levels,
            shape: [count, per_row, block],
            words: words.flat_map(|row| levels.pack(row)).collect(),
            scales: values
                .steps
                .iter()
                .map(|&s| scale_of(s, values.unit))
                .collect(),
            right,
        };
        Some(Chain {
            input,
            last,
            kind: Kind::Table(table),
        })
    }
}

/// `[K, N]` of few levels, blocks down the columns; as `f32` where they run along the rows.
fn block_factor(blocks: &StoredBlocks, [k, n]: [usize; 2]) -> Option<Factor> {
    let extent = blocks.extent();
    if extent.elements() != k * n {
        return None;
    }
    if extent.inner != n {
        return dense(&blocks.dequantize(), [k, n]);
    }
    let values = blocks.values();
    let (codes, steps) = (turned(&values.codes, n), turned(&values.steps, n));
    let scales: Vec<f32> = steps.iter().map(|&s| scale_of(s, values.unit)).collect();
    let parts = LowBitParts {
        shape: [n, k],
        codes: &codes,
        levels: usize::from(blocks.levels().count()),
        zero: blocks.levels().zero(),
        block: extent.block,
        scales: &scales,
        offsets: &[],
    };
    LowBitMatrix::new(parts).ok().map(Factor::LowBit)
}

/// `[K, N]` with linear codes; as `f32` where the scales change too often along K.
fn array_factor(array: &StoredArray, [k, n]: [usize; 2]) -> Option<Factor> {
    let tensor = array.tensor();
    let (params, scheme) = (tensor.params(), tensor.scheme());
    if tensor.len() != k * n {
        return None;
    }
    let mut group = vec![0usize; k * n];
    let groups = Groups::new(tensor.shape(), scheme.granularity()).ok()?;
    groups.for_each_element(|element, g| group[element] = g);
    let changes = (1..k).filter(|&i| group[i * n..][..n] != group[(i - 1) * n..][..n]);
    let block = changes.fold(k, gcd);
    if block < SHORTEST_BLOCK.min(k) {
        return dense(&tensor.dequantize(), [k, n]);
    }
    let codes = tensor.codes();
    let lowest = codes.iter().copied().min().unwrap_or(0);
    let levels = codes.iter().copied().max().unwrap_or(0) - lowest + 1;
    let unsigned: Vec<u8> = codes.iter().map(|c| (c - lowest) as u8).collect();
    let zeros = params.zero_points();
    let zero = zeros.first().copied().unwrap_or(0);
    let at = |j: usize, b: usize| group[b * block * n + j];
    let spread = |f: &dyn Fn(usize) -> f32| -> Vec<f32> {
        (0..n)
            .flat_map(|j| (0..k / block).map(move |b| (j, b)))
            .map(|(j, b)| f(at(j, b)))
            .collect()
    };
    let parts = LowBitParts {
        shape: [n, k],
        codes: &turned(&unsigned, n),
        levels: levels as usize,
        zero: (zero - lowest) as f32,
        block,
        scales: &spread(&|g| params.scales()[g]),
        offsets: &spread(&|g| (zeros[g.min(zeros.len() - 1)] - zero) as f32),
    };
    LowBitMatrix::new(parts).ok().map(Factor::LowBit)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn dense(values: &[f32], [k, n]: [usize; 2]) -> Option<Factor> {
    debug_assert_eq!(values.len(), k * n, "a matrix of that shape");
    PanelMatrix::new(&turned(values, n), [n, k])
        .ok()
        .map(Factor::Dense)
}

/// `[rows, cols]` with rows and columns exchanged.
fn turned<T: Copy>(data: &[T], cols: usize) -> Vec<T> {
    (0..cols)
        .flat_map(|c| data.iter().skip(c).step_by(cols).copied())
        .collect()
}
