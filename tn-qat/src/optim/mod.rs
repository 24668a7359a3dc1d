//! Optimizers, learning-rate schedules, clipping.
//!
//! An optimizer keeps one state per parameter, found by the order in which parameters are given; that order must not
//! change between steps. States are plain numbers behind serde: a run that is saved and restored goes on bit for bit.

mod adam;
mod schedule;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tn_formats::Real;

use crate::error::{QatError, Result, check_len};
use crate::parameter::{Gradients, Parameter, ParameterKind};

pub use adam::{AdamSlot, AdamState, AdamW, Moment};
pub use schedule::Schedule;

/// Multiplies all gradients by one factor so that their common norm is at most `limit`; returns the norm before.
///
/// # Numerics
/// The norm is summed in f64. A norm that is not finite is returned and nothing is changed.
pub fn clip_gradients<T: Real>(gradients: &mut [&mut Gradients<T>], limit: f64) -> f64 {
    let norm = gradients.iter().map(|g| g.norm_sq()).sum::<f64>().sqrt();
    if norm > limit && norm.is_finite() {
        gradients.iter_mut().for_each(|g| g.scale(limit / norm));
    }
    norm
}

/// Moves parameters against their gradients.
///
/// A parameter of kind [`ParameterKind::Step`] is moved in its logarithm: the optimizer sees the gradient `s dL/ds` and
/// multiplies `s` by `exp` of the update, so a step stays positive and moves relative to its size. Updates of a
/// logarithm are limited to ±0.25. Weight decay acts on weights only.
pub trait Optimizer<T: Real> {
    /// One step of the parameters of one group with learning rate `rate`.
    ///
    /// # Shapes
    /// `slot` is the group's number (a layer, say), the same at every step; `gradients` fit `parameters`.
    ///
    /// # Errors
    /// [`QatError::Length`] when gradients or the state of an earlier step do not fit the parameters.
    fn step(
        &mut self,
        slot: usize,
        parameters: &mut [Parameter<T>],
        gradients: &Gradients<T>,
        rate: f64,
    ) -> Result<()>;
}

/// One slot's moments, a vector for each parameter.
type Moments<T> = Vec<Vec<T>>;

/// Makes the moments of a slot that has none yet, and checks that they fit the parameters.
fn fit<T: Real>(moments: &mut Moments<T>, parameters: &[Parameter<T>]) -> Result<()> {
    if moments.is_empty() {
        *moments = parameters
            .iter()
            .map(|p| vec![T::zero(); p.values().len()])
            .collect();
    }
    check_len(
        "parameters of an optimizer's slot",
        moments.len(),
        parameters.len(),
    )?;
    for (m, p) in moments.iter().zip(parameters) {
        check_len(
            "elements of an optimizer's parameter",
            m.len(),
            p.values().len(),
        )?;
    }
    Ok(())
}

/// The largest change of a step's logarithm at once.
const LOG_LIMIT: f64 = 0.25;

/// `x` moved by `-update`, in its logarithm if it is a step.
fn moved<T: Real>(x: T, update: f64, kind: ParameterKind) -> T {
    match kind {
        ParameterKind::Step => T::narrow(x.widen() * (-update.clamp(-LOG_LIMIT, LOG_LIMIT)).exp()),
        _ => T::narrow(x.widen() - update),
    }
}

/// The gradient as the optimizer sees it.
fn seen<T: Real>(x: T, g: T, kind: ParameterKind) -> T {
    if kind == ParameterKind::Step {
        x * g
    } else {
        g
    }
}

/// Stochastic gradient descent with momentum: `v = momentum v + g`, `x -= rate v`.
///
/// # Source
/// Sutskever et al. 2013, in the form PyTorch uses (no dampening). `weight_decay` is decoupled: `x -= rate weight_decay x`.
///
/// ```
/// use tn_qat::{Gradients, Optimizer, Parameter, ParameterKind, Sgd};
/// let mut x = [Parameter::new("x", ParameterKind::Weight, &[1], vec![1.0f64])?];
/// let mut sgd = Sgd::new(0.5, 0.0)?;
/// for _ in 0..100 {
///     let mut g = Gradients::zeros(&x);
///     g.iter_mut().for_each(|g| g[0] = 2.0 * x[0].values()[0]); // of x²
///     sgd.step(0, &mut x, &g, 0.1)?;
/// }
/// assert!(x[0].values()[0].abs() < 1e-6);
/// # Ok::<(), tn_qat::QatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sgd<T = f64> {
    momentum: f64,
    weight_decay: f64,
    velocity: Vec<Moments<T>>,
}

impl<T: Real> Sgd<T> {
    /// With this momentum (0 for none) and decoupled weight decay.
    ///
    /// # Errors
    /// [`QatError::Parameter`] unless `0 <= momentum < 1` and `weight_decay >= 0`.
    pub fn new(momentum: f64, weight_decay: f64) -> Result<Self> {
        check(
            "momentum",
            "0 <= momentum < 1",
            momentum,
            (0.0..1.0).contains(&momentum),
        )?;
        check(
            "weight decay",
            "a number >= 0",
            weight_decay,
            weight_decay >= 0.0,
        )?;
        Ok(Self {
            momentum,
            weight_decay,
            velocity: Vec::new(),
        })
    }
}

fn check(what: &'static str, expected: &'static str, value: f64, holds: bool) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(QatError::Parameter {
            what,
            expected,
            found: value.to_string(),
        })
    }
}

impl<T: Real> Optimizer<T> for Sgd<T> {
    fn step(
        &mut self,
        slot: usize,
        parameters: &mut [Parameter<T>],
        gradients: &Gradients<T>,
        rate: f64,
    ) -> Result<()> {
        gradients.check(parameters)?;
        if self.velocity.len() <= slot {
            self.velocity.resize_with(slot + 1, Vec::new);
        }
        let velocity = &mut self.velocity[slot];
        fit(velocity, parameters)?;
        let momentum = T::narrow(self.momentum);
        for ((p, g), v) in parameters.iter_mut().zip(gradients.iter()).zip(velocity) {
            let kind = p.kind();
            let decay = if kind == ParameterKind::Weight {
                rate * self.weight_decay
            } else {
                0.0
            };
            for ((x, &g), v) in p.values_mut().iter_mut().zip(g).zip(v) {
                *v = momentum * *v + seen(*x, g, kind);
                *x = moved(*x, rate * v.widen() + decay * x.widen(), kind);
            }
        }
        Ok(())
    }
}
