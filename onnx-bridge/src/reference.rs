//! The rewritten layers as dense matrices again: what the emitted chains must agree with.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::in_place::{InPlace, Way};
use crate::model::Model;
use crate::nested::{Names, each_graph};
use crate::patch::GraphPatch;
use crate::proto::{self, DataType, int_attribute};
use crate::rewrite::{RewriteReport, Rewritten};
use crate::tensor;
use crate::view::GraphView;
use crate::weight::{Role, Weight};

/// The original model with every rewritten weight replaced by the dense `f32` matrix that the same codes stand for: the
/// rewritten model computes the same up to rounding, to the element type of the layer where that is not `f32`.
///
/// # Errors
/// [`Error::UndefinedValue`] when the report is not one of this model.
pub fn dense_reference(model: &Model, report: &RewriteReport) -> Result<Model> {
    let mut names = Names::default();
    let mut open: BTreeMap<&str, &Rewritten> = report.rewritten().collect();
    let changed = each_graph(model, &mut |graph, place| {
        let view = GraphView::new(graph);
        let mut patch = GraphPatch::new();
        for weight in &Weight::all(&view) {
            let name = names.of(place, weight.name());
            let Some(rewritten) = open.remove(name.as_str()) else {
                continue;
            };
            // Row-major whatever the layout: that of a product with an empty rank is another.
            let dense: Vec<f32> = rewritten.network.to_dense().iter().copied().collect();
            match Way::of(&view, weight) {
                Ok(Way::Layers(role)) => replace_layers(&view, weight, role, &dense, &mut patch),
                Ok(Way::InPlace(stored)) => {
                    replace_stored(&view, weight, &stored, &dense, &mut patch);
                }
                Err(_) => return Err(unknown(&name)),
            }
        }
        if patch.is_empty() {
            return Ok(None);
        }
        patch.apply(graph).map(Some)
    })?;
    match open.first_key_value() {
        Some((name, _)) => Err(unknown(name)),
        None => Ok(changed.unwrap_or_else(|| model.clone())),
    }
}

fn unknown(weight: &str) -> Error {
    Error::UndefinedValue {
        place: "report".to_string(),
        field: "weights",
        value: weight.to_string(),
    }
}

fn replace_layers(
    view: &GraphView<'_>,
    weight: &Weight<'_>,
    role: &Role,
    dense: &[f32],
    patch: &mut GraphPatch,
) {
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
    let value = format!("{}/reference", weight.name());
    patch.add_initializer(tensor::from_f32(&value, &shape, &operand));
    for node in role.nodes() {
        replace_weight(view, [node, input], element, &value, patch);
    }
    for node in role.weight_nodes() {
        patch.remove_node(node);
    }
    if view.initializer(weight.name()).is_some() {
        patch.remove_initializer(weight.name());
    }
}

fn replace_stored(
    view: &GraphView<'_>,
    weight: &Weight<'_>,
    stored: &InPlace,
    dense: &[f32],
    patch: &mut GraphPatch,
) {
    let values = stored.stored(dense);
    if view.initializer(weight.name()).is_some() {
        patch.remove_initializer(weight.name());
    }
    stored
        .producer()
        .into_iter()
        .for_each(|node| patch.remove_node(node));
    if stored.element() == DataType::Float {
        patch.add_initializer(tensor::from_f32(weight.name(), stored.shape(), &values));
        return;
    }
    let value = format!("{}/reference", weight.name());
    patch.add_initializer(tensor::from_f32(&value, stored.shape(), &values));
    let to = int_attribute("to", i64::from(stored.element() as i32));
    let cast = proto::node("Cast", &value, &[&value], weight.name(), vec![to]);
    patch.insert_before(stored.first_use(), [cast]);
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
