//! Where a rewritten layer hands over to the rest of the graph, which floats belong to it, and which states are matched.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Source, Trainable};
use crate::finetune::config::Train;
use crate::model::Model;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::tensor;

/// Operators whose outputs are states that later layers read, all of one size.
const NORMS: [&str; 4] = [
    "LayerNormalization",
    "RMSNormalization",
    "GroupNormalization",
    "InstanceNormalization",
];

/// The nodes of the student that make a value of the teacher's graph in another way than the teacher.
fn rewritten<'a>(student: &'a GraphProto, teacher: &GraphProto) -> Vec<&'a NodeProto> {
    let known: HashMap<&str, &NodeProto> = teacher
        .node
        .iter()
        .flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)))
        .collect();
    let differs = |n: &&NodeProto| {
        n.output.iter().any(|o| {
            known
                .get(o.as_str())
                .is_some_and(|t| t.op_type() != n.op_type() || t.input != n.input)
        })
    };
    student.node.iter().filter(differs).collect()
}

/// The node that adds a stored vector to a value that nothing else reads.
fn bias_add<'a>(
    graph: &'a GraphProto,
    value: &str,
    vectors: &HashSet<&str>,
) -> Option<&'a NodeProto> {
    let mut readers = graph
        .node
        .iter()
        .filter(|n| n.input.iter().any(|i| i == value));
    let (first, second) = (readers.next()?, readers.next());
    let adds = first.op_type() == "Add" && first.input.iter().any(|i| vectors.contains(i.as_str()));
    (adds && second.is_none()).then_some(first)
}

/// Stored floats with one axis longer than 1.
fn vectors(graph: &GraphProto) -> HashSet<&str> {
    graph
        .initializer
        .iter()
        .filter(|t| tensor::is_float(t) && t.dims.iter().filter(|&&d| d != 1).count() == 1)
        .map(|t| t.name())
        .collect()
}

/// The float initializers that `train` asks for beside the arrays, in the order of the graph.
pub(super) fn floats(
    student: &GraphProto,
    teacher: &GraphProto,
    trainables: &[Trainable],
    train: Train,
) -> Vec<String> {
    let mut taken: HashSet<&str> = HashSet::new();
    for trainable in trainables {
        match &trainable.source {
            Source::Array(stored, _) => taken.extend(stored.initializers()),
            Source::Blocks(_, stored) => taken.extend(stored.initializers()),
            Source::Float => {}
        }
    }
    let floats: HashMap<&str, &TensorProto> = student
        .initializer
        .iter()
        .filter(|t| {
            tensor::is_float(t) && !taken.contains(t.name()) && !t.name().starts_with("tnq/")
        })
        .map(|t| (t.name(), t))
        .collect();
    let vectors = vectors(student);
    let stored = |n: &NodeProto| -> Vec<String> {
        let inputs = n.input.iter();
        inputs
            .filter(|i| vectors.contains(i.as_str()) && floats.contains_key(i.as_str()))
            .cloned()
            .collect()
    };
    let mut names = BTreeSet::new();
    for node in rewritten(student, teacher) {
        // A convolution has its bias as an input of its own.
        if matches!(node.op_type(), "Add" | "Conv" | "ConvTranspose") {
            names.extend(stored(node));
        }
        for output in &node.output {
            names.extend(
                bias_add(student, output, &vectors)
                    .into_iter()
                    .flat_map(stored),
            );
        }
    }
    if train != Train::Cores {
        for node in student.node.iter().filter(|n| NORMS.contains(&n.op_type())) {
            names.extend(
                node.input
                    .iter()
                    .skip(1)
                    .filter(|i| floats.contains_key(i.as_str()))
                    .cloned(),
            );
        }
    }
    if train == Train::All {
        let wide = floats
            .iter()
            .filter(|(_, t)| t.dims.iter().product::<i64>() > 1);
        names.extend(wide.map(|(n, _)| n.to_string()));
    }
    student
        .initializer
        .iter()
        .map(|t| t.name().to_string())
        .filter(|n| names.contains(n))
        .collect()
}

/// The values that student and teacher are compared at beside their outputs: what normalizations make, where there are
/// some; else what rewritten layers make, their bias added.
pub(crate) fn states(student: &Model, teacher: &Model) -> Vec<String> {
    let (student, teacher) = (student.graph(), teacher.graph());
    let known: HashSet<&str> = teacher
        .node
        .iter()
        .flat_map(|n| n.output.iter().map(String::as_str))
        .collect();
    let norms: Vec<String> = student
        .node
        .iter()
        .filter(|n| NORMS.contains(&n.op_type()))
        .filter_map(|n| n.output.first())
        .filter(|o| known.contains(o.as_str()))
        .cloned()
        .collect();
    if !norms.is_empty() {
        return norms;
    }
    let vectors = vectors(student);
    rewritten(student, teacher)
        .into_iter()
        .flat_map(|n| &n.output)
        .map(|o| {
            bias_add(student, o, &vectors)
                .and_then(|n| n.output.first())
                .unwrap_or(o)
        })
        .filter(|o| known.contains(o.as_str()))
        .cloned()
        .collect()
}
