//! The running side: the nodes that take the place of one MatMul or Gemm.

use super::Emitter;
use super::place::Placed;
use crate::dense_layer::{DenseLayer, DenseOp};
use crate::proto::DataType;
use crate::view::GraphView;

/// Emits the nodes of one layer; the last one makes the layer's own output, so that nothing else in the graph changes.
pub(crate) fn emit_layer(
    e: &mut Emitter,
    view: &GraphView<'_>,
    layer: &DenseLayer,
    prefix: &str,
    placed: &Placed,
) {
    let mut x = layer.input().to_string();
    let element = layer.element();
    if element != DataType::Float {
        x = e.cast(&format!("{prefix}/input/f32"), &x, DataType::Float);
    }
    if layer.is_input_transposed() {
        x = e.transpose(&format!("{prefix}/input"), &x, &[1, 0]);
    }
    let mut y = match placed {
        Placed::Product(factors) => {
            let last = factors.len() - 1;
            factors.iter().enumerate().fold(x, |state, (i, factor)| {
                let name = if i == last {
                    format!("{prefix}/output")
                } else {
                    format!("{prefix}/step{i}")
                };
                factor.multiply(e, &name, &state)
            })
        }
        #[cfg(feature = "tract")]
        Placed::Packed(packed) => packed.multiply(e, prefix, &x),
        Placed::Train(train) => {
            let state = train.run(e, prefix, &x);
            let outputs = layer.outputs() as i64;
            let two_axes = layer.op() == DenseOp::Gemm || view.rank(&x) == Some(2);
            if two_axes {
                e.reshape(&format!("{prefix}/output"), &state, &[-1, outputs])
            } else {
                like_input(e, prefix, &state, &x, outputs)
            }
        }
    };
    if element != DataType::Float {
        y = e.cast(&format!("{prefix}/output/cast"), &y, element);
    }
    if let Some(bias) = layer.bias().filter(|b| b.add_node().is_none()) {
        let mut value = bias.value().to_string();
        if bias.beta() != 1.0 {
            let mut beta = e.scalar(bias.beta());
            if element != DataType::Float {
                beta = e.cast(&format!("{prefix}/beta/cast"), &beta, element);
            }
            value = e.node(
                "Mul",
                &format!("{prefix}/beta"),
                &[&value, &beta],
                Vec::new(),
            );
        }
        y = e.node("Add", &format!("{prefix}/bias"), &[&y, &value], Vec::new());
    }
    debug_assert!(
        e.nodes.last().is_some_and(|n| n.output == [y]),
        "the last node makes the result"
    );
    if let Some(node) = e.nodes.last_mut() {
        node.output = vec![layer.output().to_string()];
    }
}

/// Gives `state` the leading axes of `x`, however many there are, and `outputs` as the last one.
fn like_input(e: &mut Emitter, prefix: &str, state: &str, x: &str, outputs: i64) -> String {
    let shape = e.node("Shape", &format!("{prefix}/shape"), &[x], Vec::new());
    let leading = e.slice(&format!("{prefix}/leading"), &shape, 0, [0, -1]);
    let last = e.shape(&[outputs]);
    let shape = e.concat(&format!("{prefix}/shape/output"), &[leading, last], 0);
    e.reshape_to(&format!("{prefix}/output"), state, &shape)
}
