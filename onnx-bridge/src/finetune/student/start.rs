//! What a student starts from: finer codes of the same layers, and one size for all arrays of a product.

use std::collections::{BTreeMap, HashMap};

use super::{Source, Trainable};
use crate::error::Result;
use crate::model::Model;
use crate::recognise::{stored_arrays, stored_blocks};
use crate::tensor;

/// Takes over what a model has of the same name and shape: its floats, the weights of its arrays, and where those have the same
/// grid their steps too; else steps are set anew.
pub(super) fn warm_start(trainables: &mut [Trainable], warm: &Model) -> Result<()> {
    let others = stored_arrays(warm.graph())
        .into_iter()
        .map(Trainable::array)
        .chain(
            stored_blocks(warm.graph())
                .into_iter()
                .map(Trainable::blocks),
        )
        .collect::<Result<Vec<_>>>()?;
    let others: HashMap<&str, &Trainable> = others.iter().map(|t| (t.value.as_str(), t)).collect();
    for trainable in trainables {
        if let Source::Float = trainable.source {
            let stored = &warm.graph().initializer;
            let stored = stored.iter().find(|t| t.name() == trainable.value);
            if let Some(values) = stored.and_then(tensor::to_f32)
                && values.len() == trainable.parameters[0].values().len()
            {
                trainable.parameters[0]
                    .values_mut()
                    .copy_from_slice(&values);
            }
            continue;
        }
        let Some(other) = others.get(trainable.value.as_str()) else {
            continue;
        };
        if trainable.has_grid_of(other) {
            for (own, other) in trainable.parameters.iter_mut().zip(&other.parameters) {
                own.values_mut().copy_from_slice(other.values());
            }
        } else if other.parameters[0].shape() == trainable.parameters[0].shape()
            && trainable.parameters.len() == 2
        {
            let values = other.parameters[0].values();
            trainable.parameters[0].values_mut().copy_from_slice(values);
            trainable.observe()?;
        }
    }
    Ok(())
}

/// Brings the arrays of every product to one Frobenius norm, which leaves the product as it is: one learning rate then
/// suits all. Arrays of one product stand under one name, numbered: `w/tt/core0`, `w/tt/core1`, or `factor0`, `core`, `factor1`.
pub(super) fn balance(trainables: &mut [Trainable]) {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, trainable) in trainables.iter().enumerate() {
        let mut parts = trainable.value.rsplitn(3, '/').skip(1);
        if let (Source::Array(..), Some(part), Some(prefix)) =
            (&trainable.source, parts.next(), parts.next())
            && (part.starts_with("core") || part.starts_with("factor"))
        {
            groups.entry(prefix.to_string()).or_default().push(index);
        }
    }
    for members in groups.values() {
        let norm = |t: &Trainable| {
            t.parameters[0]
                .values()
                .iter()
                .map(|&v| f64::from(v).powi(2))
                .sum::<f64>()
                .sqrt()
                .ln()
        };
        let norms: Vec<f64> = members.iter().map(|&i| norm(&trainables[i])).collect();
        let mean = norms.iter().sum::<f64>() / norms.len() as f64;
        if !mean.is_finite() {
            continue;
        }
        for (&index, norm) in members.iter().zip(norms) {
            let factor = (mean - norm).exp() as f32;
            for parameter in &mut trainables[index].parameters[..2] {
                parameter.values_mut().iter_mut().for_each(|v| *v *= factor);
            }
        }
    }
}
