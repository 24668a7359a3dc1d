//! Gauges of a Tucker network: an invertible matrix between each factor and the core.

use ndarray::{Array2, ArrayD, Axis};

use crate::error::{Error, Result};
use crate::gauge::{Gauge, Rotation, free_rotation};
use crate::linalg::{eigh, mm, qr};
use crate::scalar::Real;
use crate::tucker::{Tucker, mode_gram, mode_product};

/// Singular values are floored at this share of the largest.
const FLOOR: f64 = 1e-10;

impl<T: Real> Tucker<T> {
    /// The same tensor in another gauge: [`Gauge::Left`] and [`Gauge::Right`] make the factors orthonormal and the core
    /// all-orthogonal (HOSVD), [`Gauge::Symmetric`] shares each mode's singular values evenly between factor and core, a
    /// rotation spreads outliers ([`Rotation::Learned`] stays at its start).
    ///
    /// # Numerics
    /// In `f64`, rounded to `T` once.
    ///
    /// # Errors
    /// [`Error::LinAlg`] when an eigendecomposition does not converge.
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{Gauge, Rotation, Truncation, Tucker};
    /// let a = Array::from_shape_fn((6, 7, 8), |(i, j, k)| ((i * j) as f64 + k as f64).sqrt()).into_dyn();
    /// let (tucker, _) = Tucker::decompose(a.view(), &Truncation::MaxRank(4))?;
    /// let rotated = tucker.gauge(Gauge::Rotated(Rotation::Hadamard { seed: 1 }))?;
    /// assert!((&rotated.to_dense() - &tucker.to_dense()).iter().all(|d| d.abs() < 1e-10));
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn gauge(&self, gauge: Gauge) -> Result<Self> {
        let (core, factors) = self.clone().into_parts();
        let mut core: ArrayD<f64> = core.mapv(Real::widen);
        let mut factors: Vec<Array2<f64>> =
            factors.into_iter().map(|f| f.mapv(Real::widen)).collect();
        for (mode, factor) in factors.iter_mut().enumerate() {
            let (q, r) = qr(factor.view());
            core = mode_product(core.view(), mode, r.view());
            *factor = q;
        }
        for (mode, factor) in factors.iter_mut().enumerate() {
            let (values, vectors) = eigh(mode_gram(core.view(), mode).view())?;
            let floor = (values[0] * FLOOR * FLOOR).max(f64::MIN_POSITIVE.sqrt());
            let (turn, back) = match gauge {
                Gauge::Left | Gauge::Right => (vectors.clone(), vectors),
                Gauge::Symmetric | Gauge::Rotated(_) => {
                    let weights = values.mapv(|v| v.max(floor).powf(0.25));
                    (&vectors * &weights, &vectors / &weights)
                }
            };
            let (turn, back) = match gauge {
                Gauge::Rotated(rotation) => spread(rotation, mode, &turn, &back),
                _ => (turn, back),
            };
            *factor = mm(factor.view(), turn.view());
            core = mode_product(core.view(), mode, back.t());
        }
        let factors = factors.into_iter().map(|f| f.mapv(T::narrow)).collect();
        Tucker::from_parts(core.mapv(T::narrow), factors)
    }

    /// `<A, B>`, without the dense arrays.
    ///
    /// # Errors
    /// [`Error::Shape`] when the modes differ.
    pub fn dot(&self, other: &Self) -> Result<f64> {
        if self.modes() != other.modes() {
            return Err(Error::Shape {
                what: "second network",
                expected: self.modes(),
                found: other.modes(),
            });
        }
        let mut core = other.core().mapv(Real::widen);
        for (mode, (a, b)) in self.factors().iter().zip(other.factors()).enumerate() {
            let overlap = mm(a.mapv(Real::widen).t(), b.mapv(Real::widen).view());
            core = mode_product(core.view(), mode, overlap.view());
        }
        Ok(self
            .core()
            .iter()
            .zip(&core)
            .map(|(x, y)| x.widen() * y)
            .sum())
    }
}

/// A rotation after both sides of a mode's matrix.
fn spread(
    rotation: Rotation,
    mode: usize,
    turn: &Array2<f64>,
    back: &Array2<f64>,
) -> (Array2<f64>, Array2<f64>) {
    let q = free_rotation(rotation, mode, turn.len_of(Axis(1)));
    (mm(turn.view(), q.view()), mm(back.view(), q.view()))
}
