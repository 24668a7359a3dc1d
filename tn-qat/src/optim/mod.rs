//! Optimizers, learning-rate schedules, clipping.
//!
//! An optimizer keeps one state per parameter, found by the order in which parameters are given; that order must not
//! change between steps. States are plain numbers behind serde: a run that is saved and restored goes on bit for bit.

mod schedule;
#[cfg(test)]
mod tests;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tn_formats::Real;

use crate::error::{QatError, Result, check_len};
use crate::parameter::{Gradients, Parameter, ParameterKind};

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

fn state<'a, T: Real>(
    slots: &'a mut Vec<Moments<T>>,
    slot: usize,
    parameters: &[Parameter<T>],
) -> Result<&'a mut Moments<T>> {
    if slots.len() <= slot {
        slots.resize_with(slot + 1, Vec::new);
    }
    let moments = &mut slots[slot];
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
    Ok(moments)
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
        let velocity = state(&mut self.velocity, slot, parameters)?;
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

/// Adam with decoupled weight decay.
///
/// # Numerics
/// Moments in `T`, the update in f64 rounded once.
///
/// # Source
/// Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2: `x -= rate (m̂ / (sqrt(v̂) + epsilon) + weight_decay x)`.
///
/// ```
/// use tn_qat::{AdamW, Gradients, Optimizer, Parameter, ParameterKind};
/// let mut x = [Parameter::new("x", ParameterKind::Weight, &[1], vec![1.0f64])?];
/// let mut adam = AdamW::default();
/// let mut g = Gradients::zeros(&x);
/// g.iter_mut().for_each(|g| g[0] = 3.0);
/// adam.step(0, &mut x, &g, 0.1)?; // the first step is the sign of the gradient
/// assert!((x[0].values()[0] - 0.9).abs() < 1e-8);
/// // Saved and restored, it goes on from here.
/// let restored: AdamW<f64> = serde_json::from_str(&serde_json::to_string(&adam).unwrap()).unwrap();
/// assert_eq!(restored, adam);
/// # Ok::<(), tn_qat::QatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdamW<T = f64> {
    betas: (f64, f64),
    epsilon: f64,
    weight_decay: f64,
    /// Steps taken, by slot.
    steps: Vec<u64>,
    mean: Vec<Moments<T>>,
    square: Vec<Moments<T>>,
}

impl<T> Default for AdamW<T> {
    /// Betas 0.9 and 0.999, epsilon 1e-8, no weight decay.
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            weight_decay: 0.0,
            steps: Vec::new(),
            mean: Vec::new(),
            square: Vec::new(),
        }
    }
}

impl<T: Real> AdamW<T> {
    /// With these decay rates of the moments, this epsilon and this weight decay.
    ///
    /// # Errors
    /// [`QatError::Parameter`] unless both betas are in `[0, 1)`, `epsilon > 0` and `weight_decay >= 0`.
    pub fn new(betas: (f64, f64), epsilon: f64, weight_decay: f64) -> Result<Self> {
        check(
            "first beta",
            "0 <= beta < 1",
            betas.0,
            (0.0..1.0).contains(&betas.0),
        )?;
        check(
            "second beta",
            "0 <= beta < 1",
            betas.1,
            (0.0..1.0).contains(&betas.1),
        )?;
        check("epsilon", "a number > 0", epsilon, epsilon > 0.0)?;
        check(
            "weight decay",
            "a number >= 0",
            weight_decay,
            weight_decay >= 0.0,
        )?;
        Ok(Self {
            betas,
            epsilon,
            weight_decay,
            ..Self::default()
        })
    }
}

/// What one step of Adam does to every element.
#[derive(Clone, Copy)]
struct AdamStep<T> {
    betas: (T, T),
    rate_hat: f64,
    root_hat: f64,
    epsilon: f64,
    decay: f64,
    kind: ParameterKind,
}

impl<T: Real> AdamStep<T> {
    fn run(self, x: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
        let (b1, b2) = self.betas;
        for (((x, &g), m), v) in x.iter_mut().zip(g).zip(m).zip(v) {
            let g = seen(*x, g, self.kind);
            *m = b1 * *m + (T::one() - b1) * g;
            *v = b2 * *v + (T::one() - b2) * g * g;
            let root = v.widen().sqrt() / self.root_hat;
            let update = self.rate_hat * m.widen() / (root + self.epsilon);
            *x = moved(*x, update + self.decay * x.widen(), self.kind);
        }
    }
}

/// Elements that one task of a parallel step takes.
const GRAIN: usize = 1 << 15;

impl<T: Real> AdamW<T> {
    /// Steps the rows of a table that have a gradient, and leaves the others and their moments as they are: [`Optimizer::step`]
    /// for parameters that all consist of `count` rows, of which `rows` lists some.
    ///
    /// # Numerics
    /// Moments are corrected for their start by the steps of the slot, not of the row.
    ///
    /// # Errors
    /// [`QatError::Length`] when gradients, parameters and rows do not fit each other.
    ///
    /// # Source
    /// The sparse variant of Adam in Paszke et al. 2019, arXiv 1912.01703 (`torch.optim.SparseAdam`).
    ///
    /// ```
    /// use tn_qat::{AdamW, Gradients, Parameter, ParameterKind};
    /// let mut x = [Parameter::new("x", ParameterKind::Weight, &[3, 2], vec![1.0f64; 6])?];
    /// let mut g = Gradients::zeros(&x);
    /// g.iter_mut().for_each(|g| g.fill(-5.0));
    /// AdamW::default().step_rows(0, &mut x, &g, 1.0, (3, &[1]))?;
    /// let rounded: Vec<f64> = x[0].values().iter().map(|v| v.round()).collect();
    /// assert_eq!(rounded, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]);
    /// # Ok::<(), tn_qat::QatError>(())
    /// ```
    pub fn step_rows(
        &mut self,
        slot: usize,
        parameters: &mut [Parameter<T>],
        gradients: &Gradients<T>,
        rate: f64,
        (count, rows): (usize, &[usize]),
    ) -> Result<()> {
        if let Some(&row) = rows.iter().find(|&&r| r >= count) {
            return Err(QatError::Length {
                what: "rows of a table",
                expected: count,
                found: row,
            });
        }
        for p in parameters.iter() {
            let width = p.values().len() / count.max(1);
            check_len("rows of a parameter", width * count, p.values().len())?;
        }
        self.each(slot, parameters, gradients, rate, |step, x, g, m, v| {
            let width = x.len() / count.max(1);
            for &row in rows {
                let at = row * width..(row + 1) * width;
                step.run(
                    &mut x[at.clone()],
                    &g[at.clone()],
                    &mut m[at.clone()],
                    &mut v[at],
                );
            }
        })
    }

    /// Counts a step of the slot and hands out its parameters with gradients and moments.
    fn each(
        &mut self,
        slot: usize,
        parameters: &mut [Parameter<T>],
        gradients: &Gradients<T>,
        rate: f64,
        run: impl Fn(AdamStep<T>, &mut [T], &[T], &mut [T], &mut [T]),
    ) -> Result<()> {
        gradients.check(parameters)?;
        let mean = state(&mut self.mean, slot, parameters)?;
        let square = state(&mut self.square, slot, parameters)?;
        if self.steps.len() <= slot {
            self.steps.resize(slot + 1, 0);
        }
        self.steps[slot] += 1;
        let t = i32::try_from(self.steps[slot]).unwrap_or(i32::MAX);
        let (b1, b2) = self.betas;
        for (((p, g), m), v) in parameters
            .iter_mut()
            .zip(gradients.iter())
            .zip(mean)
            .zip(square)
        {
            let kind = p.kind();
            let step = AdamStep {
                betas: (T::narrow(b1), T::narrow(b2)),
                rate_hat: rate / (1.0 - b1.powi(t)),
                root_hat: (1.0 - b2.powi(t)).sqrt(),
                epsilon: self.epsilon,
                decay: if kind == ParameterKind::Weight {
                    rate * self.weight_decay
                } else {
                    0.0
                },
                kind,
            };
            run(step, p.values_mut(), g, m, v);
        }
        Ok(())
    }
}

impl<T: Real> Optimizer<T> for AdamW<T> {
    fn step(
        &mut self,
        slot: usize,
        parameters: &mut [Parameter<T>],
        gradients: &Gradients<T>,
        rate: f64,
    ) -> Result<()> {
        self.each(slot, parameters, gradients, rate, |step, x, g, m, v| {
            x.par_chunks_mut(GRAIN)
                .zip(g.par_chunks(GRAIN))
                .zip(m.par_chunks_mut(GRAIN))
                .zip(v.par_chunks_mut(GRAIN))
                .for_each(|(((x, g), m), v)| step.run(x, g, m, v));
        })
    }
}
