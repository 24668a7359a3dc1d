//! The training loop.

use ndarray::{ArrayView2, Axis};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{Network, NetworkState, Objective};
use crate::error::{QatError, Result, check_len};
use crate::fake_quant::{QatPhase, QatSchedule, StepInit};
use crate::layers::generator;
use crate::optim::{AdamW, Optimizer, Schedule, clip_gradients};
use crate::parameter::Gradients;

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

/// Trains a network.
///
/// # Shapes
/// `x` is `[samples, inputs]`; the objective has as many samples.
///
/// # Numerics
/// Deterministic for a seed and a number of threads. When the phase changes to one that quantizes, steps are set from the
/// weights as `step_init` says, and in [`QatPhase::Observe`] at every step. After the last step the quantizers act unless
/// the schedule never let them.
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
    let samples = x.nrows();
    check_len("samples of the objective", samples, objective.samples())?;
    check_len("samples, at least", 1, samples.min(1))?;
    let mut rng = generator(config.seed);
    let mut order: Vec<usize> = (0..samples).collect();
    let mut next = samples;
    let mut rows = Vec::with_capacity(config.batch);
    let mut adam = AdamW::<f32>::new((0.9, 0.999), 1e-8, config.weight_decay)?;
    let (mut state, mut grads) = (NetworkState::default(), network.gradients());
    let mut phase = None;
    let per_point = config.steps.div_ceil(100).max(1);
    let (mut curve, mut sum) = (Vec::new(), 0.0);
    for t in 0..config.steps {
        let now = config.qat.phase(t);
        let starts = phase.is_none_or(|p| p == QatPhase::Float) && now != QatPhase::Float;
        if now == QatPhase::Observe || (starts && config.qat.float > 0) {
            network.observe(config.step_init)?;
        }
        if phase != Some(now) {
            network.set_phase(now);
            phase = Some(now);
        }
        rows.clear();
        while rows.len() < config.batch.clamp(1, samples) {
            if next == samples {
                order.shuffle(&mut rng);
                next = 0;
            }
            rows.push(order[next]);
            next += 1;
        }
        let batch = x.select(Axis(0), &rows);
        let y = network.forward(batch.view(), &mut state)?;
        let (loss, dy) = objective.loss(y.view(), &rows)?;
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
            adam.step(slot, layer.parameters_mut(), grads, rate)?;
        }
        sum += loss;
        if (t + 1) % per_point == 0 {
            curve.push(sum / per_point as f64);
            sum = 0.0;
        }
        progress(t, loss);
    }
    Ok(TrainReport { curve })
}
