//! Finds matrix trains that run core by core, to run each as one operator.

use std::collections::HashMap;

use crate::finetune::kernels::{CoreOrder, TrainShape};
use crate::finetune::ops::train_node;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::tensor;

/// What happens to the state between two cores.
#[derive(Debug, Clone, PartialEq)]
enum Move<'a> {
    Reshape(Vec<i64>),
    Transpose(&'a [i64]),
    /// The matrix that the state is multiplied by, and its shape.
    Product(&'a str, [usize; 2]),
}

struct Tracer<'a> {
    producers: HashMap<&'a str, &'a NodeProto>,
    readers: HashMap<&'a str, usize>,
    initializers: HashMap<&'a str, &'a TensorProto>,
    matrices: HashMap<&'a str, [usize; 2]>,
}

/// Replaces the last node of every train's run by one node over its input and cores; what it makes then is `[B, M]`.
///
/// `matrices` are the trained values of two axes. A run that is not of the form that emission writes stays as it is.
pub(super) fn fuse(graph: &mut GraphProto, matrices: &[(String, [usize; 2])]) {
    let mut readers: HashMap<&str, usize> = HashMap::new();
    for node in &graph.node {
        node.input
            .iter()
            .for_each(|i| *readers.entry(i.as_str()).or_default() += 1);
    }
    let tracer = Tracer {
        producers: graph
            .node
            .iter()
            .flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n)))
            .collect(),
        readers,
        initializers: graph.initializer.iter().map(|t| (t.name(), t)).collect(),
        matrices: matrices.iter().map(|(n, s)| (n.as_str(), *s)).collect(),
    };
    // The longest run that ends in a node is the one to replace, and the runs inside it are then not needed.
    let fused: Vec<(usize, NodeProto)> = graph
        .node
        .iter()
        .enumerate()
        .filter(|(_, n)| ["MatMul", "Transpose"].contains(&n.op_type()))
        .filter_map(|(at, n)| Some((at, tracer.run(n)?)))
        .collect();
    for (at, node) in fused {
        graph.node[at] = node;
    }
}

impl<'a> Tracer<'a> {
    /// The run that ends in a node, as one node.
    fn run(&self, last: &'a NodeProto) -> Option<NodeProto> {
        let mut moves = Vec::new();
        let mut node = last;
        let input = loop {
            // A run that is longer than the graph goes in a circle.
            (moves.len() < self.producers.len()).then_some(())?;
            let state = node.input.first()?.as_str();
            match node.op_type() {
                "MatMul" => {
                    let matrix = node.input.get(1)?.as_str();
                    moves.push(Move::Product(matrix, *self.matrices.get(matrix)?));
                }
                "Reshape" => {
                    let shape = self.initializers.get(node.input.get(1)?.as_str())?;
                    moves.push(Move::Reshape(tensor::to_i64(shape)?));
                }
                _ => {
                    let perm = node.attribute.iter().find(|a| a.name() == "perm")?;
                    moves.push(Move::Transpose(&perm.ints));
                }
            }
            let before = self.producers.get(state).filter(|n| {
                self.readers.get(state) == Some(&1)
                    && match n.op_type() {
                        "Reshape" => n
                            .input
                            .get(1)
                            .is_some_and(|i| self.initializers.contains_key(i.as_str())),
                        "Transpose" => true,
                        "MatMul" => n
                            .input
                            .get(1)
                            .is_some_and(|i| self.matrices.contains_key(i.as_str())),
                        _ => false,
                    }
            });
            match before {
                Some(before) => node = before,
                None => break state,
            }
        };
        moves.reverse();
        let (shape, cores) = forward(&moves).or_else(|| backward(&moves))?;
        // One product is what it is.
        (cores.len() > 1).then(|| {
            let output = last.output.first().cloned().unwrap_or_default();
            train_node(last.name(), input, &cores, &output, &shape)
        })
    }
}

type Found<'a> = (TrainShape, Vec<&'a str>);

/// `[B, n, rest, r, last row]`, its axes moved to `[B, rest, last row, r, n]`, rows of which are contracted.
fn forward<'a>(moves: &[Move<'a>]) -> Option<Found<'a>> {
    let (mut cores, mut names): (Vec<[usize; 4]>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut at = moves;
    if let [Move::Reshape(split), Move::Transpose([0, 2, 1]), rest @ ..] = at
        && split.len() == 3
    {
        at = rest;
    }
    let [Move::Reshape(rows), Move::Product(first, [k, _]), rest @ ..] = at else {
        return None;
    };
    (rows.as_slice() == [-1, *k as i64]).then_some(())?;
    names.push(first);
    let mut open = (1, *k);
    let mut last_columns = match at.get(1)? {
        Move::Product(_, [_, c]) => *c,
        _ => return None,
    };
    at = rest;
    while let [
        Move::Reshape(split),
        Move::Transpose([0, 2, 4, 3, 1]),
        Move::Reshape(rows),
        Move::Product(name, [k, columns]),
        rest @ ..,
    ] = at
    {
        let [-1, n, _, r, m] = split.as_slice() else {
            return None;
        };
        let [n, r, m] = [n, r, m].map(|&v| v as usize);
        (rows.as_slice() == [-1, *k as i64] && n * r == *k && r * m == last_columns)
            .then_some(())?;
        cores.push([open.0, m, open.1, r]);
        (open, last_columns) = ((r, n), *columns);
        names.push(name);
        at = rest;
    }
    cores.push([open.0, last_columns, open.1, 1]);
    at.is_empty().then_some((
        TrainShape {
            cores,
            order: CoreOrder::Forward,
        },
        names,
    ))
}

/// Rows `(n, r')` are contracted; what comes out, `[B, rest, m, r]`, has its row mode moved to the front.
fn backward<'a>(moves: &[Move<'a>]) -> Option<Found<'a>> {
    let (mut cores, mut names): (Vec<[usize; 4]>, Vec<&str>) = (Vec::new(), Vec::new());
    let (mut at, mut next) = (moves, 1);
    loop {
        let [
            Move::Reshape(rows),
            Move::Product(name, [k, columns]),
            rest @ ..,
        ] = at
        else {
            return None;
        };
        (rows.as_slice() == [-1, *k as i64] && k % next == 0).then_some(())?;
        let (m, r, rest) = match rest {
            [
                Move::Reshape(split),
                Move::Transpose([0, 2, 1, 3]),
                rest @ ..,
            ] => {
                let [-1, _, m, r] = split.as_slice() else {
                    return None;
                };
                (*m as usize, *r as usize, rest)
            }
            [] => (*columns, 1, rest),
            _ => return None,
        };
        (m * r == *columns).then_some(())?;
        cores.push([r, m, k / next, next]);
        names.push(name);
        (at, next) = (rest, r);
        if at.is_empty() {
            break;
        }
    }
    cores.reverse();
    names.reverse();
    (next == 1).then_some((
        TrainShape {
            cores,
            order: CoreOrder::Backward,
        },
        names,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ints_attribute, node};

    #[test]
    fn a_circle_is_no_train() {
        let turn = |from: &str, to: &str| {
            let perm = vec![ints_attribute("perm", &[1, 0])];
            node("Transpose", to, &[from], to, perm)
        };
        let mut graph = GraphProto {
            node: vec![turn("b", "a"), turn("a", "b")],
            ..GraphProto::default()
        };
        let before = graph.clone();
        fuse(&mut graph, &[]);
        assert_eq!(graph, before);
    }
}
