//! Attention of many heads, `softmax(scale q kᵀ + mask) v`.

use super::Finder;
use crate::finetune::ops::attention_node;
use crate::proto::{self, NodeProto};

/// Positions before heads, `[B, L, H, D]`, to heads before positions.
const HEADS_FIRST: [usize; 4] = [0, 2, 1, 3];
/// The same for keys, each a column: `[B, H, D, S]`.
const COLUMNS: [usize; 4] = [0, 2, 3, 1];

/// The node that moves positions before heads again behind every attention, as one node over queries, keys and values before their
/// heads were moved.
///
/// The scale may stand at the queries, at the keys, at the scores, or be shared out among them.
pub(super) fn find(finder: &Finder<'_>) -> Vec<(usize, NodeProto)> {
    let found = finder.nodes("Softmax").map(|node| attention(finder, node));
    found.flatten().collect()
}

/// A value that another one is made of by moving axes and multiplying.
struct Source<'a> {
    value: &'a str,
    /// Axis `k` of the other value is axis `order[k]` of this one.
    order: [usize; 4],
    scale: f32,
}

/// How a node moves four axes; nothing where it names other ones.
fn perm(node: &NodeProto) -> Option<[usize; 4]> {
    let perm = proto::attribute(node, "perm")?.ints.iter();
    let perm = perm.map(|&k| usize::try_from(k).ok().filter(|&k| k < 4));
    perm.collect::<Option<Vec<_>>>()?.try_into().ok()
}

fn source<'a>(finder: &Finder<'a>, value: &'a str) -> Source<'a> {
    let mut of = Source {
        value,
        order: [0, 1, 2, 3],
        scale: 1.0,
    };
    // As many steps as there are nodes: a graph that is not sorted may go in a circle.
    for _ in &finder.graph.node {
        let Some(node) = finder.producers.get(of.value) else {
            break;
        };
        let before = match node.op_type() {
            "Transpose" => perm(node).zip(node.input.first()).map(|(perm, input)| {
                of.order = of.order.map(|k| perm[k]);
                input.as_str()
            }),
            "Mul" => finder.scaled(node).map(|(input, by)| {
                of.scale *= by;
                input
            }),
            "Div" => divided(finder, node).map(|(input, by)| {
                of.scale /= by;
                input
            }),
            _ => None,
        };
        match before {
            Some(before) => of.value = before,
            None => break,
        }
    }
    of
}

/// The dividend of a node and its divisor, where that is a number.
fn divided<'a>(finder: &Finder<'a>, node: &'a NodeProto) -> Option<(&'a str, f32)> {
    let [a, b] = node.input.as_slice() else {
        return None;
    };
    Some((a, *finder.scalars.get(b.as_str())?))
}

fn attention<'a>(finder: &Finder<'a>, softmax: &'a NodeProto) -> Option<(usize, NodeProto)> {
    let axis = proto::attribute(softmax, "axis")?;
    [-1, 3].contains(&axis.i()).then_some(())?;
    let logits = softmax.input.first()?.as_str();
    let scores = |value: &'a str| {
        let of = source(finder, value);
        let product = finder.producer(of.value, "MatMul")?;
        (of.order == [0, 1, 2, 3]).then_some((product, of.scale))
    };
    let (product, scale, mask) = match finder.producer(logits, "Add") {
        None => scores(logits).map(|(p, s)| (p, s, None))?,
        Some(add) => {
            let [a, b] = add.input.as_slice() else {
                return None;
            };
            let either = [(a, b), (b, a)].into_iter();
            let mut found = either.filter_map(|(a, b)| {
                let (product, scale) = scores(a)?;
                Some((product, scale, Some(b.as_str())))
            });
            found.next()?
        }
    };
    let moved = |value: &'a str, order: [usize; 4]| {
        let of = source(finder, value);
        (of.order == order).then_some((of.value, of.scale))
    };
    let [q, k] = product.input.as_slice() else {
        return None;
    };
    let (queries, q_scale) = moved(q, HEADS_FIRST)?;
    let (keys, k_scale) = moved(k, COLUMNS)?;
    let probabilities = softmax.output.first()?;
    let (_, product) = finder.reader(probabilities, "MatMul")?;
    let [left, v] = product.input.as_slice() else {
        return None;
    };
    (left == probabilities).then_some(())?;
    let (values, v_scale) = moved(v, HEADS_FIRST)?;
    let (at, last) = finder.reader(product.output.first()?, "Transpose")?;
    (v_scale == 1.0 && perm(last)? == HEADS_FIRST).then_some(())?;
    let inputs: Vec<&str> = [queries, keys, values].into_iter().chain(mask).collect();
    let scale = scale * q_scale * k_scale;
    let output = last.output.first()?;
    Some((at, attention_node(last.name(), &inputs, scale, output)))
}

#[cfg(test)]
mod tests {
    use super::super::fuse;
    use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, node};
    use crate::proto::{int_attribute, ints_attribute};

    fn turn(input: &str, output: &str, perm: &[i64]) -> NodeProto {
        node(
            "Transpose",
            output,
            &[input],
            output,
            vec![ints_attribute("perm", perm)],
        )
    }

    fn graph(nodes: Vec<NodeProto>) -> GraphProto {
        let scale = TensorProto {
            name: Some("c".into()),
            data_type: Some(1),
            float_data: vec![0.5],
            ..TensorProto::default()
        };
        GraphProto {
            node: nodes,
            initializer: vec![scale],
            ..GraphProto::default()
        }
    }

    fn ends(softmax: Vec<AttributeProto>) -> Vec<NodeProto> {
        vec![
            node("Softmax", "s", &["masked"], "p", softmax),
            node("MatMul", "o", &["p", "vt"], "o", Vec::new()),
            turn("o", "out", &[0, 2, 1, 3]),
        ]
    }

    fn last() -> Vec<AttributeProto> {
        vec![int_attribute("axis", -1)]
    }

    #[test]
    fn a_scale_at_the_scores_with_a_mask() {
        let mut nodes = vec![
            turn("q", "qt", &[0, 2, 1, 3]),
            turn("k", "kt", &[0, 2, 3, 1]),
            turn("v", "vt", &[0, 2, 1, 3]),
            node("MatMul", "m", &["qt", "kt"], "m", Vec::new()),
            node("Div", "d", &["m", "c"], "d", Vec::new()),
            node("Add", "masked", &["mask", "d"], "masked", Vec::new()),
        ];
        nodes.extend(ends(last()));
        let mut graph = graph(nodes);
        fuse(&mut graph);
        let fused = graph.node.last().unwrap();
        assert_eq!(fused.op_type(), "Attention");
        assert_eq!(fused.input, ["q", "k", "v", "mask"]);
        assert_eq!(fused.output, ["out"]);
        assert_eq!(fused.attribute[0].f(), 2.0);
    }

    #[test]
    fn a_scale_shared_out_and_keys_moved_twice() {
        let mut nodes = vec![
            turn("q", "qt", &[0, 2, 1, 3]),
            node("Mul", "qs", &["qt", "c"], "qs", Vec::new()),
            turn("k", "k1", &[0, 2, 1, 3]),
            turn("k1", "k2", &[0, 1, 3, 2]),
            node("Mul", "ks", &["c", "k2"], "ks", Vec::new()),
            turn("v", "vt", &[0, 2, 1, 3]),
            node("MatMul", "m", &["qs", "ks"], "masked", Vec::new()),
        ];
        nodes.extend(ends(last()));
        let mut graph = graph(nodes);
        fuse(&mut graph);
        let fused = graph.node.last().unwrap();
        assert_eq!(fused.input, ["q", "k", "v"]);
        assert_eq!(fused.attribute[0].f(), 0.25);
    }

    #[test]
    fn what_is_not_attention_stays() {
        let whole = |softmax, order: &[i64], scores: &str| {
            let mut nodes = vec![
                turn("q", "qt", &[0, 2, 1, 3]),
                turn("k", "kt", order),
                turn("v", "vt", &[0, 2, 1, 3]),
                node(scores, "m", &["qt", "kt"], "masked", Vec::new()),
            ];
            nodes.extend(ends(softmax));
            graph(nodes)
        };
        for mut graph in [
            whole(vec![int_attribute("axis", 1)], &[0, 2, 3, 1], "MatMul"),
            whole(Vec::new(), &[0, 2, 3, 1], "MatMul"),
            whole(last(), &[0, 2, 1, 3], "MatMul"),
            whole(last(), &[0, 2, 3, 1], "Add"),
            whole(last(), &[0, 2, 9, 1], "MatMul"),
            whole(last(), &[0, -2, 3, 1], "MatMul"),
        ] {
            let before = graph.clone();
            fuse(&mut graph);
            assert_eq!(graph, before);
        }
    }

    #[test]
    fn a_circle_ends() {
        let mut nodes = vec![
            turn("k2", "k1", &[0, 1, 2, 3]),
            turn("k1", "k2", &[0, 2, 3, 1]),
            node("MatMul", "m", &["k1", "k2"], "masked", Vec::new()),
        ];
        nodes.extend(ends(last()));
        fuse(&mut graph(nodes));
    }
}
