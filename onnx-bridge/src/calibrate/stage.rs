//! A graph cut into stages: between two of them stand all weights that see the same depth of rewritten weights.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::target::{Target, TargetKind};
use crate::proto::is_standard_domain;
use crate::view::{GraphView, Use};
use crate::weight::stored_bytes;

/// Operators whose results differ from run to run.
const RANDOM: [&str; 6] = [
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
];

/// One operator of a weight: the weight, and which of its uses.
pub(crate) type Nth = (usize, usize);

/// A cut graph. Stage `s` holds the weights that follow after `s` others on the longest way from an input; segment `s`
/// what runs before them: the operators of the weights of stage `s - 1`, then the other nodes of depth `s`.
#[derive(Debug)]
pub(crate) struct Stages {
    stages: Vec<Vec<usize>>,
    segments: Vec<Vec<usize>>,
    uses: Vec<Vec<Nth>>,
    statics: Vec<bool>,
    inputs: Vec<Vec<String>>,
    last_use: BTreeMap<String, usize>,
    residuals: HashMap<usize, String>,
}

impl Stages {
    /// Cuts a graph at the given weights.
    pub(crate) fn new(view: &GraphView<'_>, targets: &[Target]) -> Self {
        let graph = view.graph();
        let mut owner: HashMap<usize, usize> = HashMap::new();
        for (t, target) in targets.iter().enumerate() {
            owner.extend(target.nodes().into_iter().map(|n| (n, t)));
        }
        let inputs = node_inputs(view);
        // Which nodes depend on no input, and the depth of every value.
        let mut statics = vec![false; graph.node.len()];
        let mut depths: HashMap<&str, usize> = HashMap::new();
        let mut node_depth = vec![0; graph.node.len()];
        for (n, node) in graph.node.iter().enumerate() {
            statics[n] = !owner.contains_key(&n) && is_static(view, &inputs, &statics, n);
            node_depth[n] = inputs[n]
                .iter()
                .filter_map(|v| depths.get(v.as_str()))
                .copied()
                .max()
                .unwrap_or(0);
            let after = node_depth[n] + usize::from(owner.contains_key(&n));
            for output in &node.output {
                depths.insert(output, after);
            }
        }
        let count = node_depth
            .iter()
            .zip(0..)
            .filter(|(_, n)| owner.contains_key(n))
            .map(|(d, _)| d + 1)
            .max()
            .unwrap_or(0);
        let mut stages = vec![BTreeSet::new(); count];
        // A weight with several uses is solved at the first of them.
        for (t, target) in targets.iter().enumerate() {
            if let Some(first) = target.nodes().iter().map(|&n| node_depth[n]).min() {
                stages[first].insert(t);
            }
        }
        let deepest = node_depth.iter().copied().max().unwrap_or(0).max(count);
        let mut segments = vec![Vec::new(); deepest + 1];
        let mut uses = vec![Vec::new(); deepest + 1];
        for n in 0..graph.node.len() {
            if !statics[n] && !owner.contains_key(&n) {
                segments[node_depth[n]].push(n);
            }
        }
        for (t, target) in targets.iter().enumerate() {
            for (nth, &n) in target.nodes().iter().enumerate() {
                uses[node_depth[n] + 1].push(((t, nth), n));
            }
        }
        let mut cut = Self {
            stages: stages
                .into_iter()
                .map(|s| s.into_iter().collect())
                .collect(),
            ..Self::assemble(view, segments, uses, statics, inputs)
        };
        for (t, target) in targets.iter().enumerate() {
            if let Some(value) = cut.find_residual(view, target, &node_depth, &depths) {
                cut.residuals.insert(t, value);
            }
        }
        cut
    }

    /// Cuts a graph, in the order of its nodes, into segments whose constants take at most `most` bytes, or are those of one
    /// node. There are no stages.
    pub(crate) fn by_bytes(view: &GraphView<'_>, most: u64) -> Self {
        let inputs = node_inputs(view);
        let mut statics = vec![false; inputs.len()];
        for n in 0..inputs.len() {
            statics[n] = is_static(view, &inputs, &statics, n);
        }
        let mut segments = vec![Vec::new()];
        let (mut taken, mut bytes) = (HashSet::new(), 0);
        for n in (0..inputs.len()).filter(|&n| !statics[n]) {
            let mut own = BTreeMap::new();
            constants(view, &inputs, &statics, n, &mut own);
            let added = |taken: &HashSet<_>| -> u64 {
                let new = own.iter().filter(|(name, _)| !taken.contains(*name));
                new.map(|(_, bytes)| bytes).sum()
            };
            if bytes > 0 && bytes + added(&taken) > most {
                segments.push(Vec::new());
                taken.clear();
                bytes = 0;
            }
            bytes += added(&taken);
            taken.extend(own.into_keys());
            if let Some(last) = segments.last_mut() {
                last.push(n);
            }
        }
        Self::assemble(view, segments, Vec::new(), statics, inputs)
    }

    fn assemble(
        view: &GraphView<'_>,
        segments: Vec<Vec<usize>>,
        uses: Vec<Vec<(Nth, usize)>>,
        statics: Vec<bool>,
        inputs: Vec<Vec<String>>,
    ) -> Self {
        let mut last_use = BTreeMap::new();
        for (s, nodes) in segments.iter().enumerate() {
            let own = uses.get(s).into_iter().flatten().map(|&(_, n)| n);
            for n in nodes.iter().copied().chain(own) {
                inputs[n].iter().for_each(|v| {
                    last_use.insert(v.clone(), s);
                });
            }
        }
        view.graph().output.iter().for_each(|o| {
            last_use.insert(o.name().to_string(), usize::MAX);
        });
        Self {
            stages: Vec::new(),
            segments,
            uses: uses
                .into_iter()
                .map(|u| u.into_iter().map(|(nth, _)| nth).collect())
                .collect(),
            statics,
            inputs,
            last_use,
            residuals: HashMap::new(),
        }
    }

    /// The weights of each stage, by index.
    pub(crate) fn stages(&self) -> &[Vec<usize>] {
        &self.stages
    }

    /// The operators of weights that run first in a segment.
    pub(crate) fn uses(&self, segment: usize) -> &[Nth] {
        self.uses.get(segment).map_or(&[], Vec::as_slice)
    }

    /// The other nodes of each segment; one segment more than stages, or as many.
    pub(crate) fn segments(&self) -> &[Vec<usize>] {
        &self.segments
    }

    /// What a node reads, captured values of its subgraphs too.
    pub(crate) fn inputs(&self, node: usize) -> &[String] {
        &self.inputs[node]
    }

    /// Whether a node depends on no input.
    pub(crate) fn is_static(&self, node: usize) -> bool {
        self.statics[node]
    }

    /// Whether a value is read after segment `s`.
    pub(crate) fn is_needed_after(&self, value: &str, s: usize) -> bool {
        self.last_use.get(value).is_some_and(|&last| last > s)
    }

    /// The value that is added to what a dense layer makes, and is there before the layer runs.
    pub(crate) fn residual(&self, target: usize) -> Option<&str> {
        self.residuals.get(&target).map(String::as_str)
    }

    fn find_residual(
        &self,
        view: &GraphView<'_>,
        target: &Target,
        node_depth: &[usize],
        depths: &HashMap<&str, usize>,
    ) -> Option<String> {
        let TargetKind::Dense(layers) = target.kind() else {
            return None;
        };
        let [layer] = layers.as_slice() else {
            return None;
        };
        let result = match layer.bias().and_then(|b| b.add_node()) {
            Some(add) => view.node(add).output.first()?.as_str(),
            None => layer.output(),
        };
        let &[Use { node, input }] = view.consumers(result) else {
            return None;
        };
        let add = view.node(node);
        if add.op_type() != "Add"
            || !is_standard_domain(add.domain())
            || input > 1
            || view.is_output(result)
        {
            return None;
        }
        let other = add.input.get(1 - input)?;
        let computed = view.producer(other).is_none_or(|p| !self.statics[p])
            && view.initializer(other).is_none();
        let early = depths.get(other.as_str()).copied().unwrap_or(0) <= node_depth[layer.node()];
        (computed && early).then(|| other.clone())
    }
}

/// Whether a node reads nothing but constants, going by the nodes before it.
fn is_static(view: &GraphView<'_>, inputs: &[Vec<String>], statics: &[bool], n: usize) -> bool {
    let known = |v: &String| {
        view.initializer(v).is_some() && !view.is_overridable(v)
            || view.producer(v).is_some_and(|p| statics[p])
    };
    let node = view.node(n);
    inputs[n].iter().all(known)
        && !(RANDOM.contains(&node.op_type()) && is_standard_domain(node.domain()))
}

/// The stored tensors that a node reads, also through nodes that depend on no input, with their bytes.
fn constants(
    view: &GraphView<'_>,
    inputs: &[Vec<String>],
    statics: &[bool],
    n: usize,
    found: &mut BTreeMap<String, u64>,
) {
    let mut waiting = vec![n];
    let mut seen = HashSet::from([n]);
    while let Some(n) = waiting.pop() {
        for value in &inputs[n] {
            if let Some(tensor) = view.initializer(value) {
                found.insert(value.clone(), stored_bytes(tensor) as u64);
            } else if let Some(p) = view.producer(value).filter(|&p| statics[p])
                && seen.insert(p)
            {
                waiting.push(p);
            }
        }
    }
}

/// What every node reads by name, in its subgraphs too.
fn node_inputs(view: &GraphView<'_>) -> Vec<Vec<String>> {
    let graph = view.graph();
    let mut inputs: Vec<Vec<String>> = graph
        .node
        .iter()
        .map(|n| n.input.iter().filter(|i| !i.is_empty()).cloned().collect())
        .collect();
    let made = graph
        .node
        .iter()
        .flat_map(|n| &n.output)
        .map(String::as_str);
    let given = graph
        .input
        .iter()
        .map(|i| i.name())
        .chain(graph.initializer.iter().map(|t| t.name()));
    for value in made.chain(given) {
        for at in view
            .consumers(value)
            .iter()
            .filter(|u| u.input == Use::CAPTURED)
        {
            if !inputs[at.node].iter().any(|v| v == value) {
                inputs[at.node].push(value.to_string());
            }
        }
    }
    inputs
}
