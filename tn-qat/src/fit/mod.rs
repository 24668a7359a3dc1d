//! Fitting one layer to the outputs of the layer it replaces: closed form first, gradients after.

mod als;
#[cfg(test)]
mod tests;

use std::fmt;

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use crate::chain::Cache;
use crate::error::{Result, check_shape};
use crate::layers::{FixedLinear, Layer, TtLinear};
use crate::train::{Activation, Network, Objective, TrainConfig, TrainReport, train};

/// How to fit a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitConfig {
    /// What follows the layer: the error is measured behind it in the gradient steps.
    pub through: Activation,
    /// Sweeps of alternating least squares over the cores of a train, before gradients.
    pub sweeps: usize,
    /// Weight of the distance to the start in the least squares, relative to the mean square of an input.
    pub ridge: f64,
    /// The gradient steps; 0 steps for none.
    pub train: TrainConfig,
}

impl Default for FitConfig {
    /// Six sweeps, then 1000 steps of 256 samples with a rate of 1e-3.
    fn default() -> Self {
        Self {
            through: Activation::Identity,
            sweeps: 6,
            ridge: 1e-3,
            train: TrainConfig {
                batch: 256,
                rate: 1e-3,
                ..TrainConfig::default()
            },
        }
    }
}

/// What a fit did. Errors are squared, relative to the mean square of the target, over all samples and through the
/// activation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitReport {
    /// The layer as it came.
    pub before: f64,
    /// After the least squares.
    pub solved: f64,
    /// After the gradient steps.
    pub after: f64,
    /// Error of the least squares after each sweep, without activation and quantization.
    pub sweeps: Vec<f64>,
    /// The gradient steps.
    pub train: TrainReport,
}

impl fmt::Display for FitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            before,
            solved,
            after,
            ..
        } = self;
        write!(
            f,
            "relative error {before:.4}, {solved:.4} after least squares, {after:.4} after gradients"
        )
    }
}

/// The squared error of a layer's outputs relative to the target, through an activation.
///
/// # Shapes
/// `x` is `[samples, N]`, `target` is `[samples, M]`.
///
/// # Errors
/// [`crate::QatError::Shape`].
pub fn output_error(
    layer: &dyn Layer<f32>,
    x: ArrayView2<'_, f32>,
    target: ArrayView2<'_, f32>,
    through: Activation,
) -> Result<f64> {
    check_shape(
        "target outputs",
        &[x.nrows(), layer.outputs()],
        target.shape(),
    )?;
    let mut cache = Cache::new();
    let (mut error, mut norm) = (0.0f64, 0.0f64);
    let slices = x.axis_chunks_iter(ndarray::Axis(0), 1024);
    for (x, target) in slices.zip(target.axis_chunks_iter(ndarray::Axis(0), 1024)) {
        let y = layer.forward(x, &mut cache)?;
        for (&y, &t) in y.iter().zip(target) {
            let (y, t) = (f64::from(through.value(y)), f64::from(through.value(t)));
            error += (y - t) * (y - t);
            norm += t * t;
        }
    }
    Ok(error / if norm > 0.0 { norm } else { 1.0 })
}

/// Fits any layer by gradients.
///
/// # Shapes
/// `x` is `[samples, N]`, the inputs the layer will see (those of the compressed network); `target` `[samples, M]` are the
/// outputs of the layer it replaces, before the activation.
///
/// # Numerics
/// As [`train()`]. The layer is left as the last step left it.
///
/// # Errors
/// As [`train()`].
pub fn fit_layer<L: Layer<f32>>(
    layer: &mut L,
    x: ArrayView2<'_, f32>,
    target: ArrayView2<'_, f32>,
    config: &FitConfig,
) -> Result<FitReport> {
    let before = output_error(layer, x, target, config.through)?;
    gradients(layer, x, target, config, before, Vec::new(), before)
}

/// Fits a train: alternating least squares over its cores and bias, then gradients through the activation.
///
/// # Shapes
/// As [`fit_layer`].
///
/// # Numerics
/// The least squares minimise `|| Y - X Wᵀ - b ||² + ridge || W - W_0 ||²` over the cores, whatever quantizers do, in f64 on
/// the second moments of the inputs; each core's system is solved by preconditioned conjugate gradients from where it
/// stands, so no sweep raises the error. A layer without a bias keeps none. Cores with more than 4096 unknowns
/// `r n r'` (the input side of low rank) are left to the gradients. Quantizers get fresh steps after the least squares.
///
/// # Errors
/// As [`train()`].
///
/// # Source
/// Holtz, Rohwedder, Schneider 2012, SIAM J. Sci. Comput. 34(2), for alternating least squares over cores.
pub fn fit_train(
    layer: &mut TtLinear<f32>,
    x: ArrayView2<'_, f32>,
    target: ArrayView2<'_, f32>,
    config: &FitConfig,
) -> Result<FitReport> {
    let before = output_error(layer, x, target, config.through)?;
    let sweeps = als::solve(layer, x, target, config.sweeps, config.ridge)?;
    if config.sweeps > 0 {
        layer.observe(config.train.step_init)?;
    }
    let solved = output_error(layer, x, target, config.through)?;
    gradients(layer, x, target, config, before, sweeps, solved)
}

/// Fits any layer by gradients of the error that the next layer sees: `|| V f(y) - V f(target) ||²` for the next layer's
/// weight V and the activation f between them. What V does not look at need not be right.
///
/// # Shapes
/// As [`fit_layer`]; `next` is `[outputs of the next layer, M]`.
///
/// # Numerics
/// As [`train()`].
///
/// # Errors
/// As [`train()`].
pub fn fit_ahead<L: Layer<f32>>(
    layer: &mut L,
    x: ArrayView2<'_, f32>,
    target: ArrayView2<'_, f32>,
    next: ArrayView2<'_, f32>,
    config: &FitConfig,
) -> Result<TrainReport> {
    check_shape(
        "target outputs",
        &[x.nrows(), layer.outputs()],
        target.shape(),
    )?;
    let after = target.mapv(|t| config.through.value(t));
    let fixed = FixedLinear::new(next.to_owned());
    let seen = fixed.forward(after.view(), &mut Cache::new())?;
    let mut network = Network::new(vec![
        (Box::new(&mut *layer), config.through),
        (Box::new(fixed), Activation::Identity),
    ])?;
    let objective = Objective::Outputs {
        target: seen.view(),
        through: Activation::Identity,
    };
    train(&mut network, x, objective, &config.train, &mut |_, _| {})
}

fn gradients<L: Layer<f32>>(
    layer: &mut L,
    x: ArrayView2<'_, f32>,
    target: ArrayView2<'_, f32>,
    config: &FitConfig,
    before: f64,
    sweeps: Vec<f64>,
    solved: f64,
) -> Result<FitReport> {
    let objective = Objective::Outputs {
        target,
        through: config.through,
    };
    let mut network = Network::new(vec![(Box::new(&mut *layer), Activation::Identity)])?;
    let report = train(&mut network, x, objective, &config.train, &mut |_, _| {})?;
    drop(network);
    let after = output_error(layer, x, target, config.through)?;
    Ok(FitReport {
        before,
        solved,
        after,
        sweeps,
        train: report,
    })
}
