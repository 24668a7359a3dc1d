//! Products with a bias.

use std::collections::HashSet;

use super::Finder;
use crate::finetune::ops::linear_node;
use crate::proto::NodeProto;

/// Every `Add` of a stored vector to a product, as one node over the product's operands.
///
/// A vector that is not as long as the product's rows is added as it was.
pub(super) fn find(finder: &Finder<'_>) -> Vec<(usize, NodeProto)> {
    let vectors = finder.graph.initializer.iter();
    let vectors: HashSet<&str> = vectors
        .filter(|t| t.dims.len() == 1)
        .map(|t| t.name())
        .collect();
    let fused = |node: &NodeProto| -> Option<NodeProto> {
        let ("Add", [a, b]) = (node.op_type(), node.input.as_slice()) else {
            return None;
        };
        let pair = [(a, b), (b, a)].into_iter().find_map(|(product, bias)| {
            let product = finder.producer(product, "MatMul")?;
            vectors.contains(bias.as_str()).then_some((product, bias))
        });
        let (product, bias) = pair?;
        let [x, w] = product.input.as_slice() else {
            return None;
        };
        Some(linear_node(node.name(), [x, w, bias], node.output.first()?))
    };
    let nodes = finder.graph.node.iter().enumerate();
    nodes.filter_map(|(at, n)| Some((at, fused(n)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fuse;
    use crate::proto::{GraphProto, TensorProto, node};

    #[test]
    fn a_bias_is_taken_into_the_product_and_nothing_else_is() {
        let stored = |name: &str, dims: &[i64]| TensorProto {
            name: Some(name.into()),
            dims: dims.to_vec(),
            ..TensorProto::default()
        };
        let mut graph = GraphProto {
            node: vec![
                node("MatMul", "a", &["x", "w"], "y", Vec::new()),
                node("Add", "b", &["bias", "y"], "z", Vec::new()),
                node("Add", "c", &["z", "bias"], "t", Vec::new()),
                node("MatMul", "d", &["t", "w"], "u", Vec::new()),
                node("Add", "e", &["u", "t"], "v", Vec::new()),
            ],
            initializer: vec![stored("w", &[4, 4]), stored("bias", &[4])],
            ..GraphProto::default()
        };
        fuse(&mut graph);
        let kinds: Vec<&str> = graph.node.iter().map(|n| n.op_type()).collect();
        assert_eq!(kinds, ["MatMul", "Linear", "Add", "MatMul", "Add"]);
        assert_eq!(graph.node[1].input, ["x", "w", "bias"]);
        assert_eq!(graph.node[1].output, ["z"]);
    }
}
