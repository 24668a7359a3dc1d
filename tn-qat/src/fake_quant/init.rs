//! First values of steps and zero points.

use quant_core::{QuantParams, Run};
use serde::{Deserialize, Serialize};
use tn_formats::Real;

use super::{Clip, FakeQuant, magic};
use crate::error::Result;

/// How steps are set from a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepInit {
    /// The largest magnitude (or the range) just fits: nothing is clipped.
    MinMax,
    /// `2 mean|w| / sqrt(q_max)`, as LSQ starts (Esser et al. 2020, section 2.1); min-max for affine schemes.
    MeanMagnitude,
    /// The fraction of the min-max step with the least squared error, searched on 49 fractions and refined around the best.
    #[default]
    Mse,
}

/// Steps and, for an affine scheme, zero points.
pub type Steps<T> = (Vec<T>, Option<Vec<T>>);

impl FakeQuant {
    /// Steps (and zero points) for a weight.
    ///
    /// # Shapes
    /// `w` has the elements of the shape; the results one entry per group.
    ///
    /// # Numerics
    /// Ranges are taken in f32.
    ///
    /// # Errors
    /// [`crate::QatError::Length`], and [`crate::QatError::Quant`] when the weight is not finite.
    pub fn initial_steps<T: Real>(&self, w: &[T], init: StepInit) -> Result<Steps<T>> {
        let narrow: Vec<f32> = w.iter().map(|x| x.widen() as f32).collect();
        let params = QuantParams::min_max(&narrow, &self.shape, &self.scheme)?;
        let mut steps: Vec<T> = params
            .scales()
            .iter()
            .map(|&s| T::narrow(f64::from(s)))
            .collect();
        let zero_points: Option<Vec<T>> = self.scheme.has_zero_points().then(|| {
            params
                .zero_points()
                .iter()
                .map(|&z| T::narrow(f64::from(z)))
                .collect()
        });
        match init {
            StepInit::MinMax => {}
            StepInit::MeanMagnitude => {
                if zero_points.is_none() {
                    let q_max =
                        f64::from(self.scheme.max_code() - self.fixed_zero_point().unwrap_or(0))
                            .max(1.0);
                    for (step, group) in steps.iter_mut().zip(self.elements_by_group(w)) {
                        let mean = group.iter().map(|x| x.widen().abs()).sum::<f64>()
                            / group.len().max(1) as f64;
                        if mean > 0.0 {
                            *step = T::narrow(2.0 * mean / q_max.sqrt());
                        }
                    }
                }
            }
            StepInit::Mse => {
                let elements = self.elements_by_group(w);
                let start = steps.clone();
                for (g, elements) in elements.iter().enumerate() {
                    let error = |fraction: f64| {
                        let scaled = [start[g] * T::narrow(fraction)];
                        let z = zero_points.as_ref().map(|z| &z[g..=g]);
                        squared_error(self.clip(&scaled, z, 0), elements)
                    };
                    steps[g] = start[g] * T::narrow(least(error));
                }
            }
        }
        Ok((steps, zero_points))
    }

    fn elements_by_group<T: Real>(&self, w: &[T]) -> Vec<Vec<T>> {
        let mut elements = vec![Vec::new(); self.groups.count()];
        self.groups.for_each(|run| match run {
            Run::Shared { start, len, group } => {
                elements[group].extend_from_slice(&w[start..start + len])
            }
            Run::Each { start, len, group } => {
                (0..len).for_each(|i| elements[group + i].push(w[start + i]));
            }
        });
        elements
    }
}

fn squared_error<T: Real>(clip: Clip<T>, elements: &[T]) -> f64 {
    let magic = magic::<T>();
    let chunk = |c: &[T]| {
        c.iter().fold(T::zero(), |sum, &w| {
            let d = clip.map(w, magic).2 * clip.step - w;
            sum + d * d
        })
    };
    elements.chunks(64).map(|c| chunk(c).widen()).sum()
}

/// The fraction in 0.12 .. 1.08 of least error: a geometric grid, then eight bisections around its best point.
fn least(error: impl Fn(f64) -> f64) -> f64 {
    let ratio = (1.08f64 / 0.12).powf(1.0 / 48.0);
    let (mut best, mut least) = (1.0, error(1.0));
    for k in 0..=48 {
        let fraction = 0.12 * ratio.powi(k);
        let e = error(fraction);
        if e < least {
            (best, least) = (fraction, e);
        }
    }
    let mut width = ratio;
    for _ in 0..8 {
        width = width.sqrt();
        for fraction in [best * width, best / width] {
            let e = error(fraction);
            if e < least {
                (best, least) = (fraction, e);
            }
        }
    }
    best
}
