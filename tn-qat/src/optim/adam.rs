//! Adam with decoupled weight decay, for whole parameters and for rows of tables.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tn_formats::Real;

use super::{Moments, Optimizer, check, fit, moved, seen};
use crate::error::{QatError, Result, check_len};
use crate::parameter::{Gradients, Parameter, ParameterKind};

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

/// What [`AdamW`] has gathered over its steps, as plain numbers: by slot, then by parameter.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdamState<T> {
    /// Steps taken, by slot.
    pub steps: Vec<u64>,
    /// The running means of the gradients.
    pub mean: Vec<Vec<Vec<T>>>,
    /// The running means of their squares.
    pub square: Vec<Vec<Vec<T>>>,
}

/// One moment of every number: by slot, then by parameter.
pub type Moment<T> = [Vec<Vec<T>>];

impl<T: Real> AdamW<T> {
    /// What it has gathered: steps by slot, and both moments by slot and parameter.
    pub fn moments(&self) -> (&[u64], [&Moment<T>; 2]) {
        (&self.steps, [&self.mean, &self.square])
    }

    /// The same settings, going on from what another has gathered.
    ///
    /// # Errors
    /// [`QatError::Length`] when the two moments differ in their slots or lengths.
    ///
    /// ```
    /// use tn_qat::{AdamState, AdamW};
    /// let state = AdamState { steps: vec![3], mean: vec![vec![vec![0.1f32]]], square: vec![vec![vec![0.2]]] };
    /// let adam = AdamW::default().with_state(state)?;
    /// assert_eq!(adam.moments().0, [3]);
    /// # Ok::<(), tn_qat::QatError>(())
    /// ```
    pub fn with_state(self, state: AdamState<T>) -> Result<Self> {
        let AdamState {
            steps,
            mean,
            square,
        } = state;
        check_len("slots of an optimizer", steps.len(), mean.len())?;
        check_len("slots of an optimizer", steps.len(), square.len())?;
        for (m, v) in mean.iter().zip(&square) {
            check_len("parameters of an optimizer's slot", m.len(), v.len())?;
            for (m, v) in m.iter().zip(v) {
                check_len("elements of an optimizer's parameter", m.len(), v.len())?;
            }
        }
        Ok(Self {
            steps,
            mean,
            square,
            ..self
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
            let root = v.widen().sqrt() * self.root_hat;
            let update = self.rate_hat * m.widen() / (root + self.epsilon);
            *x = moved(*x, update + self.decay * x.widen(), self.kind);
        }
    }
}

/// Elements that one task of a parallel step takes.
const GRAIN: usize = 1 << 15;

impl<T: Real> AdamW<T> {
    /// The slots up to `count`, to be stepped side by side.
    ///
    /// ```
    /// use tn_qat::{AdamW, Gradients, Parameter, ParameterKind};
    /// let mut layers = [1.0, 2.0].map(|x| [Parameter::new("x", ParameterKind::Weight, &[1], vec![x]).unwrap()]);
    /// let mut adam = AdamW::<f64>::default();
    /// std::thread::scope(|threads| {
    ///     for (slot, x) in adam.slots(2).into_iter().zip(&mut layers) {
    ///         threads.spawn(move || {
    ///             let mut g = Gradients::zeros(x);
    ///             g.iter_mut().for_each(|g| g.fill(3.0));
    ///             slot.step(x, &g, 0.5)
    ///         });
    ///     }
    /// });
    /// assert!((layers[0][0].values()[0] - 0.5).abs() < 1e-8);
    /// assert!((layers[1][0].values()[0] - 1.5).abs() < 1e-8);
    /// ```
    pub fn slots(&mut self, count: usize) -> Vec<AdamSlot<'_, T>> {
        let longer = |len: usize| len.max(count);
        self.steps.resize(longer(self.steps.len()), 0);
        for moments in [&mut self.mean, &mut self.square] {
            moments.resize_with(longer(moments.len()), Vec::new);
        }
        let moments = self.mean.iter_mut().zip(&mut self.square);
        let slots = self.steps.iter_mut().zip(moments).take(count);
        slots
            .map(|(steps, (mean, square))| AdamSlot {
                betas: self.betas,
                epsilon: self.epsilon,
                weight_decay: self.weight_decay,
                steps,
                mean,
                square,
            })
            .collect()
    }
}

/// One slot of [`AdamW`], for one step.
#[derive(Debug)]
pub struct AdamSlot<'a, T> {
    betas: (f64, f64),
    epsilon: f64,
    weight_decay: f64,
    steps: &'a mut u64,
    mean: &'a mut Moments<T>,
    square: &'a mut Moments<T>,
}

impl<T: Real> AdamSlot<'_, T> {
    /// [`Optimizer::step`] of this slot.
    ///
    /// # Errors
    /// As there.
    pub fn step(
        self,
        parameters: &mut [Parameter<T>],
        gradients: &Gradients<T>,
        rate: f64,
    ) -> Result<()> {
        self.each(parameters, gradients, rate, |step, x, g, m, v| {
            x.par_chunks_mut(GRAIN)
                .zip(g.par_chunks(GRAIN))
                .zip(m.par_chunks_mut(GRAIN))
                .zip(v.par_chunks_mut(GRAIN))
                .for_each(|(((x, g), m), v)| step.run(x, g, m, v));
        })
    }

    /// Steps the rows of a table that have a gradient, and leaves the others and their moments as they are: [`AdamSlot::step`]
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
    /// let mut adam = AdamW::default();
    /// for slot in adam.slots(1) {
    ///     slot.step_rows(&mut x, &g, 1.0, (3, &[1]))?;
    /// }
    /// let rounded: Vec<f64> = x[0].values().iter().map(|v| v.round()).collect();
    /// assert_eq!(rounded, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]);
    /// # Ok::<(), tn_qat::QatError>(())
    /// ```
    pub fn step_rows(
        self,
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
        self.each(parameters, gradients, rate, |step, x, g, m, v| {
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

    /// Counts a step and hands out the parameters with gradients and moments.
    fn each(
        self,
        parameters: &mut [Parameter<T>],
        gradients: &Gradients<T>,
        rate: f64,
        run: impl Fn(AdamStep<T>, &mut [T], &[T], &mut [T], &mut [T]),
    ) -> Result<()> {
        gradients.check(parameters)?;
        fit(self.mean, parameters)?;
        fit(self.square, parameters)?;
        *self.steps += 1;
        let t = i32::try_from(*self.steps).unwrap_or(i32::MAX);
        let (b1, b2) = self.betas;
        let moments = self.mean.iter_mut().zip(self.square);
        let each = parameters.iter_mut().zip(gradients.iter()).zip(moments);
        for ((p, g), (m, v)) in each {
            let kind = p.kind();
            let step = AdamStep {
                betas: (T::narrow(b1), T::narrow(b2)),
                rate_hat: rate / (1.0 - b1.powi(t)),
                root_hat: 1.0 / (1.0 - b2.powi(t)).sqrt(),
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
        let slot = self.slots(slot + 1).pop();
        slot.map_or(Ok(()), |slot| slot.step(parameters, gradients, rate))
    }
}
