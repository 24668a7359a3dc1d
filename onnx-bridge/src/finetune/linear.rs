//! Finds products with a bias, to run each as one operator.

use std::collections::HashMap;

use super::ops::linear_node;
use crate::proto::{GraphProto, NodeProto};

/// Replaces every `Add` of a stored vector to a product by one node over the product's operands.
///
/// The product stays for others to read. A vector that is not as long as the product's rows is added as it was.
pub(super) fn fuse(graph: &mut GraphProto) {
    let vectors = graph.initializer.iter().filter(|t| t.dims.len() == 1);
    let vectors: Vec<&str> = vectors.map(|t| t.name()).collect();
    let products = graph.node.iter().filter(|n| n.op_type() == "MatMul");
    let products: HashMap<&str, &NodeProto> = products
        .filter_map(|n| Some((n.output.first()?.as_str(), n)))
        .collect();
    let fused = |node: &NodeProto| -> Option<NodeProto> {
        let ("Add", [a, b]) = (node.op_type(), node.input.as_slice()) else {
            return None;
        };
        let pair = [(a, b), (b, a)].into_iter().find_map(|(product, bias)| {
            let product = products.get(product.as_str())?;
            vectors.contains(&bias.as_str()).then_some((product, bias))
        });
        let (product, bias) = pair?;
        let [x, w] = product.input.as_slice() else {
            return None;
        };
        Some(linear_node(node.name(), [x, w, bias], node.output.first()?))
    };
    let found: Vec<(usize, NodeProto)> = graph
        .node
        .iter()
        .enumerate()
        .filter_map(|(at, n)| Some((at, fused(n)?)))
        .collect();
    for (at, node) in found {
        graph.node[at] = node;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{TensorProto, node};

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
