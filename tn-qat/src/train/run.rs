//! The training loop.

use ndarray::{Array2, ArrayView2};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Network, NetworkState, Objective};
use crate::error::{QatError, Result, check_len};
use crate::fake_quant::{QatPhase, QatSchedule, StepInit};
use crate::layers::generator;
use crate::optim::{AdamW, Optimizer, Schedule, clip_gradients};
use crate::parameter::{Gradients, Parameter};

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// Optimizer steps.
    pub steps: u64,
    /// Samples per step.
    pub batch: usize,
    /// Peak learning rate of AdamW.
    pub rate: f64,
    /// The learning rate over time.
    pub schedule: Schedule,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of all gradients together, if limited.
    pub clip: Option<f64>,
    /// When quantizers act and steps move. Has no effect on layers without quantizers.
    pub qat: QatSchedule,
    /// How steps are set when the quantizers start to act.
    pub step_init: StepInit,
    /// Seed of the order of samples.
    pub seed: u64,
}

impl Default for TrainConfig {
    /// 1000 steps of 128 samples, one cycle up to 2e-3, gradients clipped at norm 1, steps learned from the start.
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 128,
            rate: 2e-3,
            schedule: Schedule::ONE_CYCLE,
            weight_decay: 0.0,
            clip: Some(1.0),
            qat: QatSchedule::default(),
            step_init: StepInit::Mse,
            seed: 0,
        }
    }
}

/// What training did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Mean loss of each hundredth of the steps (or of each step when there are fewer).
    pub curve: Vec<f64>,
}

impl TrainReport {
    /// Mean loss of the last part of the curve.
    pub fn last_loss(&self) -> f64 {
        self.curve.last().copied().unwrap_or(f64::NAN)
    }
}

/// A run between two steps: with the same data and configuration, all that the rest of it depends on. It can be written
/// and read with serde.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    steps: u64,
    optimizer: AdamW<f32>,
    parameters: Vec<Vec<Parameter<f32>>>,
    curve: Vec<f64>,
    /// Losses of the point of the curve that is not complete.
    sum: f64,
}

impl TrainState {
    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What training did so far.
    pub fn report(&self) -> TrainReport {
        TrainReport {
            curve: self.curve.clone(),
        }
    }

    /// Puts the parameters back into a network of the same layers.
    fn restore(&self, network: &mut Network<'_>) -> Result<()> {
        check_len(
            "layers of a saved run",
            network.layers().len(),
            self.parameters.len(),
        )?;
        for (layer, saved) in network.layers_mut().zip(&self.parameters) {
            let parameters = layer.parameters_mut();
            check_len("parameters of a saved layer", parameters.len(), saved.len())?;
            for (p, saved) in parameters.iter_mut().zip(saved) {
                check_len(
                    "values of a saved parameter",
                    p.values().len(),
                    saved.values().len(),
                )?;
                p.values_mut().copy_from_slice(saved.values());
            }
        }
        Ok(())
    }
}

/// Trains a network.
///
/// # Shapes
/// `x` is `[samples, inputs]`; the objective has as many samples.
///
/// # Numerics
/// Deterministic for a seed and a number of threads. Every pass over the data has an order of its own, drawn from the seed and
/// the pass's number. When the phase changes to one that quantizes, steps are set from the weights as `step_init` says, and in
/// [`QatPhase::Observe`] at every step. After the last step the quantizers act unless the schedule never let them.
///
/// # Errors
/// [`QatError::Length`] when samples and objective do not fit or there are none, [`QatError::NotFinite`] when the loss
/// leaves the numbers, and those of the layers.
pub fn train(
    network: &mut Network<'_>,
    x: ArrayView2<'_, f32>,
    objective: Objective<'_>,
    config: &TrainConfig,
    progress: &mut dyn FnMut(u64, f64),
) -> Result<TrainReport> {
    let state = train_until(network, x, objective, config, None, config.steps, progress)?;
    Ok(state.report())
}

/// Trains a network from its start, or from a saved state of the same run, until `until` steps of `config.steps` are done.
/// Stopped and gone on with, a run ends bit for bit as one that was never stopped.
///
/// # Shapes
/// As [`train()`].
///
/// # Numerics
/// As [`train()`].
///
/// # Errors
/// As [`train()`], and [`QatError::Length`] when the state is of another network.
pub fn train_until(
    network: &mut Network<'_>,
    x: ArrayView2<'_, f32>,
    objective: Objective<'_>,
    config: &TrainConfig,
    from: Option<TrainState>,
    until: u64,
    progress: &mut dyn FnMut(u64, f64),
) -> Result<TrainState> {
    let samples = x.nrows();
    check_len("samples of the objective", samples, objective.samples())?;
    check_len("samples, at least", 1, samples.min(1))?;
    let mut run = match from {
        Some(state) => {
            state.restore(network)?;
            state
        }
        None => TrainState {
            steps: 0,
            optimizer: AdamW::new((0.9, 0.999), 1e-8, config.weight_decay)?,
            parameters: Vec::new(),
            curve: Vec::new(),
            sum: 0.0,
        },
    };
    let mut phase = run.steps.checked_sub(1).map(|t| config.qat.phase(t));
    if let Some(phase) = phase {
        network.set_phase(phase);
    }
    let size = config.batch.clamp(1, samples);
    let mut order = Order::new(samples, config.seed);
    let mut rows = Vec::with_capacity(size);
    let outputs = network.layers().last().map_or(0, |(l, _)| l.outputs());
    let mut batch = Array2::zeros((size, x.ncols()));
    let (mut y, mut dy) = (
        Array2::zeros((size, outputs)),
        Array2::zeros((size, outputs)),
    );
    let (mut state, mut grads) = (NetworkState::default(), network.gradients());
    let per_point = config.steps.div_ceil(100).max(1);
    for t in run.steps..until.min(config.steps) {
        let now = config.qat.phase(t);
        let starts = phase.is_none_or(|p| p == QatPhase::Float) && now != QatPhase::Float;
        if now == QatPhase::Observe || (starts && config.qat.float > 0) {
            network.observe(config.step_init)?;
        }
        if phase != Some(now) {
            network.set_phase(now);
            phase = Some(now);
        }
        order.batch(t, size, &mut rows);
        for (mut to, &row) in batch.rows_mut().into_iter().zip(&rows) {
            to.assign(&x.row(row));
        }
        network.forward_into(batch.view(), &mut state, y.view_mut())?;
        let loss = objective.loss_into(y.view(), &rows, dy.view_mut())?;
        if !loss.is_finite() {
            return Err(QatError::NotFinite {
                what: "loss",
                step: t,
            });
        }
        grads.iter_mut().for_each(Gradients::clear);
        network.backward(batch.view(), &mut state, dy.view(), &mut grads)?;
        if let Some(limit) = config.clip {
            clip_gradients(&mut grads.iter_mut().collect::<Vec<_>>(), limit);
        }
        let rate = config.schedule.rate(config.rate, t, config.steps);
        for (slot, (layer, grads)) in network.layers_mut().zip(&grads).enumerate() {
            let parameters = layer.parameters_mut();
            run.optimizer.step(slot, parameters, grads, rate)?;
        }
        run.sum += loss;
        run.steps = t + 1;
        if run.steps % per_point == 0 {
            run.curve.push(run.sum / per_point as f64);
            run.sum = 0.0;
        }
        progress(t, loss);
    }
    run.parameters = network
        .layers()
        .iter()
        .map(|(layer, _)| layer.parameters().to_vec())
        .collect();
    Ok(run)
}

/// The samples of every step, whichever steps are asked for.
pub(super) struct Order {
    seed: u64,
    pass: Option<u64>,
    order: Vec<usize>,
}

impl Order {
    pub(super) fn new(samples: usize, seed: u64) -> Self {
        Self {
            seed,
            pass: None,
            order: (0..samples).collect(),
        }
    }

    /// The `size` samples of step `t`.
    pub(super) fn batch(&mut self, t: u64, size: usize, rows: &mut Vec<usize>) {
        let samples = self.order.len() as u64;
        rows.clear();
        for i in 0..size as u64 {
            let at = t * size as u64 + i;
            let pass = at / samples;
            if self.pass != Some(pass) {
                self.order.iter_mut().enumerate().for_each(|(i, o)| *o = i);
                // Passes of one seed, and seeds next to each other, draw from generators far apart.
                let seed = self.seed ^ (pass + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                self.order.shuffle(&mut generator(seed));
                self.pass = Some(pass);
            }
            rows.push(self.order[(at % samples) as usize]);
        }
    }
}
