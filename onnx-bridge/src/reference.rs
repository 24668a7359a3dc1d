//! The rewritten layers as dense matrices again: what the emitted chains must agree with.

use crate::error::{Error, Result};
use crate::model::Model;
use crate::patch::GraphPatch;
use crate::proto::{self, DataType, int_attribute};
use crate::rewrite::RewriteReport;
use crate::tensor;
use crate::view::GraphView;
use crate::weight::{Role, Weight};

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
        let weight = weights.iter().find(|w| w.name() == name);
        let Some(role) = weight.and_then(|w| w.role().ok()) else {
            let value = name.to_string();
            return Err(Error::UndefinedValue {
                place: "report".to_string(),
                field: "weights",
                value,
            });
        };
        let dense = rewritten.network.to_dense();
        let dense = dense.as_slice().unwrap_or_default();
        let (operand, shape, element) = match role {
            Role::Dense(layers) => {
                let (operand, shape) = layers[0].operand(dense);
                (operand, shape.to_vec(), layers[0].element())
            }
            Role::Conv(layers) => {
                let (operand, shape) = layers[0].operand(dense);
                (operand, shape, layers[0].element())
            }
            Role::Table(layers) => (dense.to_vec(), layers[0].shape().to_vec(), DataType::Float),
        };
        let input = usize::from(!matches!(role, Role::Table(_)));
        let value = format!("{name}/reference");
        patch.add_initializer(tensor::from_f32(&value, &shape, &operand));
        for node in role.nodes() {
            replace_weight(&view, [node, input], element, &value, &mut patch);
        }
        for node in role.weight_nodes() {
            patch.remove_node(node);
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

/// The same node with another value as its weight, which is its input of that number, cast to the element type of its layer.
fn replace_weight(
    view: &GraphView<'_>,
    [at, input]: [usize; 2],
    element: DataType,
    value: &str,
    patch: &mut GraphPatch,
) {
    let mut node = view.node(at).clone();
    node.input[input] = value.to_string();
    if element != DataType::Float {
        let cast = format!("{value}/cast/{at}");
        let to = int_attribute("to", i64::from(element as i32));
        let made = proto::node("Cast", &cast, &[value], &cast, vec![to]);
        patch.insert_before(at, [made]);
        node.input[input] = cast;
    }
    patch.insert_before(at, [node]);
    patch.remove_node(at);
}
