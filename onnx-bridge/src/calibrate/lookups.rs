//! How often each row of a table is looked up.

use ndarray::{ArrayView1, ArrayView2};
use tn_formats::npy::NpyArray;

use super::batches::mask;
use crate::axes::place;
use crate::dataset::Dataset;
use crate::engine::Engine;
use crate::error::Result;
use crate::model::Model;
use crate::stack::tapped;
use crate::table_layer::TableLayer;
use crate::view::GraphView;
use crate::weight::{Role, Weight};

/// What of a table's importance falls on all rows alike: what no sample looks up still comes up in use, such as words that are not
/// among a few sentences, or the places of longer ones.
///
/// With a half the mean error of all rows is at most the sum of what that and the error of the rows looked up would be if all
/// counted the same. The chance that a lookup in use finds a row that no sample did is about the part of the samples' lookups
/// that stand alone (I. J. Good 1953, <https://doi.org/10.1093/biomet/40.3-4.237>): 0.22 for the words of 512 sentences.
const ALIKE: f64 = 0.5;

/// How much every row of every table counts, in the mean 1, by the name of the table: half by how often the samples look it up,
/// half as all others. Positions that a mask input switches off do not count. A table whose rows are the same for all samples is
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
            let asked: Vec<usize> = integers(&indices)
                .unwrap_or_default()
                .into_iter()
                .map(|index| place(index, counts.len()).unwrap_or(usize::MAX))
                .collect();
            tally(
                &mut counts,
                &asked,
                indices.shape(),
                mask.as_ref().map(|m| m.view()),
            );
        }
        if moving {
            found.push((weight.name().to_string(), importance(counts)));
        }
    }
    Ok(found)
}

/// The values of an array of the element types that indices may have.
pub(crate) fn integers(indices: &NpyArray) -> Option<Vec<i64>> {
    match indices {
        NpyArray::I64(a) => Some(a.iter().copied().collect()),
        NpyArray::I32(a) => Some(a.iter().map(|&i| i.into()).collect()),
        _ => None,
    }
}

/// Adds lookups in an array of such a shape to the counts of their rows: once for every sample that they are made for and whose
/// mask does not switch them off. Rows that there are not do not count.
pub(crate) fn tally(
    counts: &mut [f64],
    rows: &[usize],
    shape: &[usize],
    mask: Option<ArrayView2<'_, bool>>,
) {
    let on = |column: ArrayView1<'_, bool>| column.iter().filter(|m| **m).count() as f64;
    let times: Vec<f64> = match mask {
        Some(mask) if mask.shape() == shape => {
            mask.iter().map(|&m| f64::from(u8::from(m))).collect()
        }
        // The same for all samples, as the places of words are.
        Some(mask) if shape == [1, mask.ncols()] || shape == [mask.ncols()] => {
            mask.columns().into_iter().map(on).collect()
        }
        _ => vec![1.0; rows.len()],
    };
    for (row, times) in rows.iter().zip(times) {
        if let Some(count) = counts.get_mut(*row) {
            *count += times;
        }
    }
}

/// Counts of lookups as an importance of rows, in the mean 1.
pub(crate) fn importance(mut counts: Vec<f64>) -> Vec<f64> {
    let mean = counts.iter().sum::<f64>() / counts.len().max(1) as f64;
    for count in &mut counts {
        let looked_up = if mean > 0.0 { *count / mean } else { 1.0 };
        *count = ALIKE + (1.0 - ALIKE) * looked_up;
    }
    counts
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

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    #[test]
    fn lookups_count_for_every_sample_whose_mask_is_on() {
        let mask = arr2(&[[true, true, false], [true, false, false]]);
        let cases: [(&[usize], &[usize], [f64; 4]); 4] = [
            (&[2, 1, 3, 2, 0, 0], &[2, 3], [0.0, 1.0, 2.0, 0.0]),
            (&[0, 1, 2], &[1, 3], [2.0, 1.0, 0.0, 0.0]),
            (&[3, 3, 3], &[3], [0.0, 0.0, 0.0, 3.0]),
            (&[1, 9], &[2, 1], [0.0, 1.0, 0.0, 0.0]),
        ];
        for (rows, shape, expected) in cases {
            let mut counts = vec![0.0; 4];
            tally(&mut counts, rows, shape, Some(mask.view()));
            assert_eq!(counts, expected, "{rows:?} {shape:?}");
        }
        let mut counts = vec![0.0; 2];
        tally(&mut counts, &[1, 1], &[2], None);
        assert_eq!(importance(counts), [0.5, 1.5]);
        assert_eq!(importance(vec![0.0; 3]), [1.0; 3]);
    }
}
