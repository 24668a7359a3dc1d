//! Ways to quantize a train at the same bytes, and the choice between them.

use ndarray::Array2;
use quant_core::{QuantScheme, QuantizedTensor};

use crate::algebra::{step_left, step_right};
use crate::compensate::{Compensation, CoreRounding, Task, restore};
use crate::error::{Error, Result};
use crate::fold::{CoreWeight, InputNorm};
use crate::gauge::{Gauge, Rotation, rotate, symmetric};
use crate::quantizer::quantize_values;
use crate::train::{TensorTrain, TtCore};

/// How the cores of a train are quantized. All strategies give the same bytes and the same run-time cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Strategy {
    /// Each core as it comes, on its own: the source document's quantizer.
    #[default]
    Independent,
    /// The cores in another gauge, each on its own; the given gauge or the cores as they come, whichever is better.
    Gauge(Gauge),
    /// The cores in the rotated symmetric gauge, one after the other, each solved for and rounded against the others; the
    /// best of this, the gauges and the cores as they come.
    Compensated {
        /// Sweeps there and back after the first pass; they end early when the error settles.
        sweeps: u32,
        /// Seed of the rotation.
        seed: u64,
    },
}

impl Strategy {
    /// [`Strategy::Compensated`] with two sweeps.
    pub const BEST: Self = Self::Compensated { sweeps: 2, seed: 0 };
}

/// The error of quantizing a train or a Tucker network, against what it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizationError {
    /// `||X - Y|| / ||X||`, measured.
    pub relative: f64,
    /// The same from the steps alone: each part's rounding as independent noise of variance step²/12, carried through the
    /// others. Close when the steps are small; knows nothing of clipping and compensation.
    pub predicted: f64,
    /// What was used in the end; may be simpler than what was asked for.
    pub used: Strategy,
}

/// The best of what was tried, and the errors of all of it in the order of trying.
pub(crate) struct Outcome {
    pub(crate) cores: Vec<QuantizedTensor>,
    pub(crate) error: QuantizationError,
    pub(crate) tried: Vec<QuantizationError>,
}

/// How [`quantize_cores`] goes about it.
pub(crate) struct Plan<'a> {
    pub(crate) strategy: Strategy,
    pub(crate) rounding: CoreRounding,
    /// What errors are measured in; the Frobenius norm without one.
    pub(crate) norm: Option<&'a InputNorm>,
}

/// Quantizes the cores of `train` to `shapes`, one scheme per core.
pub(crate) fn quantize_cores(
    train: &TensorTrain<f64>,
    shapes: &dyn Fn(&TensorTrain<f64>) -> Vec<Vec<usize>>,
    schemes: &[QuantScheme],
    plan: &Plan<'_>,
) -> Result<Outcome> {
    let strategy = plan.strategy;
    let white: Vec<CoreWeight> = train
        .cores()
        .iter()
        .map(|c| CoreWeight::none(c.mode()))
        .collect();
    let weights = plan.norm.map_or(&white[..], |norm| &norm.weights);
    let norm_sq = train.dot(train)?;
    let relative = |square: f64, of: f64| {
        if of > 0.0 {
            (square.max(0.0) / of).sqrt()
        } else {
            0.0
        }
    };
    // By overlaps: the cancellation leaves a relative floor near 1e-8, far below any rounding to codes.
    let distance = |other: TensorTrain<f64>| -> Result<f64> {
        if let Some(norm) = plan.norm {
            return Ok(norm.relative(other));
        }
        let square = norm_sq - 2.0 * train.dot(&other)? + other.dot(&other)?;
        Ok(relative(square, norm_sq))
    };
    let weighed: Vec<_> = train
        .cores()
        .iter()
        .zip(weights)
        .map(|(core, weight)| weight.weigh(core))
        .collect();
    let weighed_sq = train
        .cores()
        .iter()
        .zip(&weighed)
        .fold(Array2::ones((1, 1)), |overlap, (core, weighed)| {
            step_right(overlap, core, weighed)
        })[[0, 0]];
    let judged = |start: &TensorTrain<f64>, quantized: Vec<QuantizedTensor>, used: Strategy| {
        let error = QuantizationError {
            relative: distance(restored(start, &quantized))?,
            predicted: relative(predicted_sq(start, &quantized, weights), weighed_sq),
            used,
        };
        Ok::<_, Error>((quantized, error))
    };
    let plain = |start: &TensorTrain<f64>, used: Strategy| {
        let shapes = shapes(start);
        let cores = start.cores().iter().zip(&shapes).zip(schemes);
        let quantized = cores
            .map(|((c, shape), s)| quantize_values(c.as_slice(), shape, s))
            .collect::<Result<Vec<_>>>()?;
        judged(start, quantized, used)
    };
    let mut best = plain(train, Strategy::Independent)?;
    let mut tried = vec![best.1];
    let mut offer = |candidate: (Vec<QuantizedTensor>, QuantizationError)| {
        tried.push(candidate.1);
        let bytes = |q: &[QuantizedTensor]| q.iter().map(QuantizedTensor::byte_len).sum::<usize>();
        if candidate.1.relative < best.1.relative && bytes(&candidate.0) <= bytes(&best.0) {
            best = candidate;
        }
    };
    match strategy {
        Strategy::Independent => {}
        Strategy::Gauge(gauge) => offer(plain(&train.gauge(gauge)?, strategy)?),
        Strategy::Compensated { sweeps, seed } => {
            let even = symmetric(train)?;
            offer(plain(&even, Strategy::Gauge(Gauge::Symmetric))?);
            let rotation = Rotation::Hadamard { seed };
            let start = rotate(even, rotation);
            offer(plain(&start, Strategy::Gauge(Gauge::Rotated(rotation)))?);
            let core_shapes = shapes(&start);
            let compensated = |weights: &[CoreWeight]| {
                let task = Task {
                    target: train,
                    shapes: &core_shapes,
                    schemes,
                    weights,
                    rounding: plan.rounding,
                };
                let quantized = Compensation::new(task, start.clone()).run(sweeps)?;
                judged(&start, quantized, strategy)
            };
            offer(compensated(&white)?);
            if plan.norm.is_some() {
                offer(compensated(weights)?);
            }
        }
    }
    let (cores, error) = best;
    Ok(Outcome {
        cores,
        error,
        tried,
    })
}

/// The train of quantized cores, in the ranks of `like`.
fn restored(like: &TensorTrain<f64>, cores: &[QuantizedTensor]) -> TensorTrain<f64> {
    let cores = like.cores().iter().zip(cores).map(|(l, q)| {
        let (r, n, e) = l.view().dim();
        let flat = restore(q, (r, n, e))
            .into_shape_with_order((r * n, e))
            .expect("same number of elements");
        TtCore::from_unfolding(flat, r, n, e)
    });
    TensorTrain::from_parts(cores.collect())
}

/// `||X - Y||²` if every element of core k had independent noise of variance step²/12:
/// `sum_k n_k (mean step_k²) / 12 tr(L_k) tr(R_k)`, with the Gram matrices L and R of what stands left and right of core k.
fn predicted_sq(
    train: &TensorTrain<f64>,
    cores: &[QuantizedTensor],
    weights: &[CoreWeight],
) -> f64 {
    let traces = environments(train, weights)
        .into_iter()
        .map(|(l, r)| l.diag().sum() * r.diag().sum());
    let cores = cores.iter().zip(train.cores()).zip(traces);
    cores
        .map(|((q, core), trace)| {
            // The factors of the weights have mean diagonal 1.
            core.mode() as f64 * trace * noise_variance(q)
        })
        .sum()
}

/// Variance of independent rounding noise, `step²/12`, its mean over the steps.
pub(crate) fn noise_variance(q: &QuantizedTensor) -> f64 {
    let scales = q.params().scales();
    let squares: f64 = scales.iter().map(|&s| f64::from(s).powi(2)).sum();
    squares / scales.len().max(1) as f64 / 12.0
}

/// Gram matrices of what stands left and right of every core, each core weighed.
pub(crate) fn environments(
    train: &TensorTrain<f64>,
    weights: &[CoreWeight],
) -> Vec<(Array2<f64>, Array2<f64>)> {
    let cores = train.cores();
    let weighed: Vec<_> = cores.iter().zip(weights).map(|(c, w)| w.weigh(c)).collect();
    let mut right = vec![Array2::ones((1, 1)); cores.len()];
    for k in (1..cores.len()).rev() {
        right[k - 1] = step_left(right[k].clone(), &cores[k], &weighed[k]);
    }
    let mut left = Array2::ones((1, 1));
    let mut out = Vec::with_capacity(cores.len());
    for ((core, weighed), right) in cores.iter().zip(&weighed).zip(right) {
        let next = step_right(left.clone(), core, weighed);
        out.push((std::mem::replace(&mut left, next), right));
    }
    out
}
