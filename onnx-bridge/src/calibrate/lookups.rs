//! How often each row of a table is looked up.

use tn_formats::npy::NpyArray;

use super::batches::mask;
use crate::dataset::Dataset;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::Model;
use crate::stack::tapped;
use crate::table_layer::TableLayer;
use crate::view::GraphView;
use crate::weight::{Role, Weight};

/// What a row counts that no sample looks up, in lookups: rows that never come up in a few samples still come up in use.
const UNSEEN: f64 = 0.1;

/// How much every row of every table counts, by the name of the table: how often the samples look it up, and a tenth of a
/// lookup more. Positions that a mask input switches off do not count. A table whose rows are the same for all samples is
/// not listed.
///
/// # Errors
/// Those of [`Engine::load`] and [`Engine::run_all`].
pub fn row_importance(model: &Model, data: &Dataset) -> Result<Vec<(String, Vec<f64>)>> {
    let view = GraphView::new(model);
    let mask = mask(model, data);
    let mut found = Vec::new();
    for weight in &Weight::all(&view) {
        let Ok(Role::Table(layers)) = weight.role() else {
            continue;
        };
        let mut counts = vec![0.0; layers.first().map_or(0, |l| l.shape()[0])];
        let mut moving = false;
        for layer in layers {
            let Some(indices) = indices(&view, model, data, layer)? else {
                continue;
            };
            moving = true;
            let masked = mask
                .as_ref()
                .filter(|m| m.shape() == indices.shape())
                .map(|m| m.iter());
            let rows = counts.len() as f64;
            let mut masked = masked;
            for index in indices.to_f32().iter().map(|&i| f64::from(i)) {
                let counted = masked.as_mut().is_none_or(|m| m.next() == Some(&true));
                let at = if index < 0.0 { index + rows } else { index };
                if let Some(count) = counts.get_mut(at as usize).filter(|_| counted) {
                    *count += 1.0;
                }
            }
        }
        if moving {
            counts.iter_mut().for_each(|c| *c += UNSEEN);
            found.push((weight.name().to_string(), counts));
        }
    }
    Ok(found)
}

/// What a lookup is asked for over all samples; `None` where that depends on no input.
fn indices(
    view: &GraphView<'_>,
    model: &Model,
    data: &Dataset,
    layer: &TableLayer,
) -> Result<Option<NpyArray>> {
    let name = layer.indices();
    if let Some((_, given)) = data.arrays().iter().find(|(input, _)| input == name) {
        return Ok(Some(given.clone()));
    }
    if view.producer(name).is_none() || crate::constant::Constant::find(view, name).is_some() {
        return Ok(None);
    }
    let tapped = tapped(model, name)?;
    if crate::engine::model_inputs(&tapped).is_empty() {
        return Ok(None);
    }
    let mut made = Engine::load(&tapped)?.run_all(data)?;
    Ok(made.pop().map(|(_, array)| array))
}
