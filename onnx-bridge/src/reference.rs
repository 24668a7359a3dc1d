//! The rewritten layers as dense matrices again: what the emitted chains must agree with.

use crate::dense_layer::DenseLayer;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::patch::GraphPatch;
use crate::proto::{self, DataType, int_attribute};
use crate::rewrite::RewriteReport;
use crate::tensor;
use crate::view::GraphView;
use crate::weight::Weight;

/// The original model with every rewritten weight replaced by the dense `f32` matrix that the same codes stand for: the
/// rewritten model computes the same up to rounding, to the element type of the layer where that is not `f32`.
///
/// # Errors
/// [`Error::UndefinedValue`] when the report is not one of this model.
pub fn dense_reference(model: &Model, report: &RewriteReport) -> Result<Model> {
    let view = GraphView::new(model);
    let weights = Weight::all(&view);
    let mut patch = GraphPatch::new();
    for (name, rewritten) in report.rewritten() {
        let layers = weights
            .iter()
            .find(|w| w.name() == name)
            .and_then(|w| w.layers().ok());
        let Some((first, layers)) = layers.and_then(|layers| layers.first().zip(Some(layers)))
        else {
            let value = name.to_string();
            return Err(Error::UndefinedValue {
                place: "report".to_string(),
                field: "weights",
                value,
            });
        };
        let dense = rewritten.network.to_dense();
        let (operand, shape) = first.operand(dense.as_slice().unwrap_or_default());
        let value = format!("{name}/reference");
        patch.add_initializer(tensor::from_f32(&value, &shape, &operand));
        for layer in layers {
            replace_weight(&view, layer, &value, &mut patch);
        }
        if view.initializer(name).is_some() {
            patch.remove_initializer(name);
        }
    }
    if patch.is_empty() {
        Ok(model.clone())
    } else {
        patch.apply(model)
    }
}

fn replace_weight(view: &GraphView<'_>, layer: &DenseLayer, value: &str, patch: &mut GraphPatch) {
    let mut node = view.node(layer.node()).clone();
    if layer.element() == DataType::Float {
        node.input[1] = value.to_string();
    } else {
        let cast = format!("{value}/cast/{}", layer.node());
        let to = int_attribute("to", i64::from(layer.element() as i32));
        patch.insert_before(
            layer.node(),
            [proto::node("Cast", &cast, &[value], &cast, vec![to])],
        );
        node.input[1] = cast;
    }
    patch.insert_before(layer.node(), [node]);
    patch.remove_node(layer.node());
    layer
        .weight_nodes()
        .iter()
        .for_each(|&n| patch.remove_node(n));
}
