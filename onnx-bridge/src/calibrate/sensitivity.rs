//! How the model's output moves per unit of a weight's error.

use ndarray::{Array2, ArrayD, ArrayView2, Axis};
use rayon::prelude::*;
use tn_formats::npy::NpyArray;

use super::batches::{Batch, Values};
use super::native;
use super::segment::{Cut, Loaded, Overrides};
use super::target::TargetKind;
use super::windows::Windows;
use crate::error::Result;

/// One weight's part in what the model loses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sensitivity {
    /// `||Δ output||² / ||output||²` for an error of the weight's result of mean square 1 per row.
    pub gain: f64,
}

/// The error that rounding makes of a weight, or of the rows of a table that are looked up.
pub(crate) type RoundingError<'a> = dyn Fn(usize, Array2<f32>) -> Result<Array2<f32>> + Sync + 'a;

/// Measures every weight's sensitivity: its result gets the error that rounding the weight makes, all other weights stay.
///
/// The original runs segment by segment; where a weight's operator has run, the rest of the network runs once more from
/// the values with the error added.
///
/// # Numerics
/// The outputs' rows that count are compared; sums in f64.
///
/// # Errors
/// Those of the engine.
pub(crate) fn measure(
    cut: &Cut<'_>,
    batch: &Batch,
    rounding: &RoundingError<'_>,
) -> Result<Vec<Sensitivity>> {
    let none = Overrides::new();
    let count = cut.stages.segments().len();
    let mut loaded: Vec<Option<Loaded>> = Vec::with_capacity(count);
    let mut values = batch.inputs.clone();
    for s in 0..count {
        cut.run_uses(s, &cut.originals(s)?, &none, &mut values)?;
        loaded.push(cut.load(s, &none, &values)?);
        cut.run_rest(s, loaded[s].as_ref(), &mut values)?;
    }
    let still = outputs(cut, &values);
    let rest = |s: usize, mut values: Values| -> Result<f64> {
        cut.run_rest(s, loaded[s].as_ref(), &mut values)?;
        for (s, loaded) in loaded.iter().enumerate().skip(s + 1) {
            cut.run_uses(s, &cut.originals(s)?, &none, &mut values)?;
            cut.run_rest(s, loaded.as_ref(), &mut values)?;
        }
        Ok(relative_loss(batch, &still, &outputs(cut, &values)))
    };
    let mut measured = vec![Sensitivity { gain: 0.0 }; cut.targets.len()];
    let mut values = batch.inputs.clone();
    for (s, engine) in loaded.iter().enumerate() {
        let read = values.clone();
        cut.run_uses(s, &cut.originals(s)?, &none, &mut values)?;
        let firsts: Vec<usize> = cut
            .stages
            .uses(s)
            .iter()
            .filter(|(_, nth)| *nth == 0)
            .map(|&(t, _)| t)
            .collect();
        let gains = firsts.par_iter().map(|&t| {
            let output = &cut.view.node(cut.targets[t].nodes()[0]).output[0];
            let Some(NpyArray::F32(result)) = values.get(output) else {
                return Ok(0.0);
            };
            let Some(noise) = noise(cut, t, &read, rounding)? else {
                return Ok(0.0);
            };
            let flat: Vec<f32> = noise.iter().copied().collect();
            let Ok(noise) = ArrayD::from_shape_vec(result.shape(), flat) else {
                return Ok(0.0);
            };
            let rows = batch.rows(noise.view());
            // A row of a convolution's result is one place of it, whose channels lie apart.
            let count = match cut.targets[t].kind() {
                TargetKind::Conv(_) => noise.len() / cut.targets[t].shape()[0].max(1),
                _ => rows.nrows(),
            };
            let energy =
                rows.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / count.max(1) as f64;
            let mut moved = values.clone();
            moved.insert(output.clone(), NpyArray::F32(result + &noise));
            let loss = rest(s, moved)?;
            Ok(if energy > 0.0 { loss / energy } else { 0.0 })
        });
        let gains: Vec<f64> = gains.collect::<Result<_>>()?;
        for (&t, gain) in firsts.iter().zip(gains) {
            measured[t] = Sensitivity { gain };
        }
        cut.run_rest(s, engine.as_ref(), &mut values)?;
        cut.model.release();
    }
    Ok(measured)
}

/// What the weight's error makes of its first operator's inputs, in the order of the result's elements; `None` where the
/// operator's inputs are not at hand.
fn noise(
    cut: &Cut<'_>,
    t: usize,
    values: &Values,
    rounding: &RoundingError<'_>,
) -> Result<Option<ArrayD<f32>>> {
    let target = &cut.targets[t];
    let original = native::Operand::original(cut.view, target)?;
    let layer = match target.kind() {
        TargetKind::Table(nodes) => {
            let Some((rows, _)) = native::looked_up(cut.view, target, nodes[0], values) else {
                return Ok(None);
            };
            let mut distinct = rows.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let Some(table) = original.rows(&distinct) else {
                return Ok(None);
            };
            let error = rounding(t, table)?;
            let places: Vec<usize> = rows
                .iter()
                .filter_map(|row| distinct.binary_search(row).ok())
                .collect();
            return Ok(Some(error.select(Axis(0), &places).into_dyn()));
        }
        TargetKind::Conv(layers) => {
            let (Some(NpyArray::F32(x)), native::Operand::Matrix(weight)) =
                (values.get(layers[0].input()), original)
            else {
                return Ok(None);
            };
            let error = native::Operand::Matrix(rounding(t, weight.into_owned())?.into());
            let made = Windows::over(cut.view, &layers[0], x.shape())
                .and_then(|w| w.convolve(x.view(), |rows| error.multiply(rows.view())));
            return Ok(made.map(|mut noise| {
                if layers[0].bias().is_some() {
                    let means = channel_means(&noise);
                    native::add_to_channels(&mut noise, &means, -1.0);
                }
                noise
            }));
        }
        TargetKind::Dense(layers) => &layers[0],
    };
    let (Some(NpyArray::F32(x)), native::Operand::Matrix(weight)) =
        (values.get(layer.input()), original)
    else {
        return Ok(None);
    };
    let error = rounding(t, weight.into_owned())?;
    let x = if layer.is_input_transposed() {
        x.t()
    } else {
        x.view()
    };
    let standard = x.as_standard_layout();
    let k = error.ncols().max(1);
    let rows = ArrayView2::from_shape((x.len() / k, k), standard.as_slice().unwrap_or(&[]));
    let Some(mut noise) = rows
        .ok()
        .and_then(|rows| tn_formats::linalg::matmul(rows, error.t()).ok())
    else {
        return Ok(None);
    };
    // The mean of an error is taken up by the layer's bias, so it is no part of what is measured.
    if layer.bias().is_some()
        && let Some(mean) = noise.mean_axis(Axis(0))
    {
        noise -= &mean;
    }
    Ok(Some(noise.into_dyn()))
}

/// The mean of every channel of `[samples, channels, ..]`.
fn channel_means(value: &ArrayD<f32>) -> Vec<f32> {
    let channels = value.shape().get(1).copied().unwrap_or(0);
    let mut sums = vec![0.0f64; channels];
    for sample in value.outer_iter() {
        for (sum, channel) in sums.iter_mut().zip(sample.outer_iter()) {
            *sum += channel.iter().map(|&v| f64::from(v)).sum::<f64>();
        }
    }
    let count = (value.len() / channels.max(1)).max(1) as f64;
    sums.into_iter().map(|s| (s / count) as f32).collect()
}

/// The graph's outputs, in their order.
pub(crate) fn outputs(cut: &Cut<'_>, values: &Values) -> Vec<NpyArray> {
    let names = cut.view.graph().output.iter().map(|o| o.name());
    names.filter_map(|name| values.get(name)).cloned().collect()
}

/// `||a - b||² / ||a||²` over the rows of all floating-point outputs that count.
pub(crate) fn relative_loss(batch: &Batch, a: &[NpyArray], b: &[NpyArray]) -> f64 {
    let [error, norm] = square_sums(batch, a, b);
    if error == 0.0 {
        0.0
    } else {
        error / norm.max(f64::MIN_POSITIVE)
    }
}

/// `||a - b||²` and `||a||²`.
pub(crate) fn square_sums(batch: &Batch, a: &[NpyArray], b: &[NpyArray]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (a, b) in a.iter().zip(b) {
        if !matches!(a, NpyArray::F16(_) | NpyArray::F32(_) | NpyArray::F64(_)) {
            continue;
        }
        let [a, b] = [a, b].map(|output| batch.rows(output.to_f32().view()));
        for (x, y) in a.iter().zip(&b) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            sums[0] += (x - y) * (x - y);
            sums[1] += x * x;
        }
    }
    sums
}
