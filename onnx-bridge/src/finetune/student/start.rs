//! What a student starts from: finer codes of the same layers, and one size for all arrays of a product.

use std::collections::{BTreeMap, HashMap};

use super::{Source, Trainable};
use crate::error::Result;
use crate::model::Model;
use crate::recognise::{StoredArray, StoredBlocks, stored_arrays, stored_blocks};

/// Takes over the weights of a finer quantized model where it has an array of the same name and shape.
pub(super) fn warm_start(trainables: &mut [Trainable], warm: &Model) -> Result<()> {
    let arrays = stored_arrays(warm.graph());
    let blocks = stored_blocks(warm.graph());
    let arrays: HashMap<&str, &StoredArray> = arrays.iter().map(|a| (a.value(), a)).collect();
    let blocks: HashMap<&str, &StoredBlocks> = blocks.iter().map(|b| (b.value(), b)).collect();
    for trainable in trainables {
        let name = trainable.value.as_str();
        let finer = match &trainable.source {
            Source::Array(..) => arrays
                .get(name)
                .map(|a| (a.tensor().shape(), a.tensor().dequantize())),
            Source::Blocks(..) => blocks.get(name).map(|b| (b.shape(), b.dequantize())),
            Source::Float => None,
        };
        let fits = |shape: &[usize]| {
            shape == trainable.parameters[0].shape() && trainable.parameters.len() == 2
        };
        if let Some((shape, values)) = finer
            && fits(shape)
        {
            trainable.parameters[0]
                .values_mut()
                .copy_from_slice(&values);
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
