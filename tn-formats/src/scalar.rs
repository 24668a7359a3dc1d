//! The two element types of trains and networks.

use ndarray::{ArrayView, Dimension, NdFloat};
use rayon::prelude::*;

use crate::linalg::Backend;

/// Element of a train or a network: `f32` or `f64`. Sealed.
///
/// Norms, Gram matrices and certificates are accumulated in `f64` whatever the element type is.
pub trait Real: NdFloat + Backend + Default {
    /// Unit round-off, `2^-24` or `2^-53`.
    const UNIT_ROUNDOFF: f64;
    /// Name in `.safetensors` and `.npy` terms: `"F32"` or `"F64"`.
    const DTYPE: &'static str;
    /// Bytes of one element.
    const BYTES: usize;

    /// This value as `f64`, exactly.
    fn widen(self) -> f64;

    /// `x` rounded to the nearest value of this type.
    fn narrow(x: f64) -> Self;
}

impl Real for f32 {
    const UNIT_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;
    const DTYPE: &'static str = "F32";
    const BYTES: usize = 4;

    #[inline]
    fn widen(self) -> f64 {
        f64::from(self)
    }

    #[inline]
    fn narrow(x: f64) -> Self {
        x as f32
    }
}

impl Real for f64 {
    const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;
    const DTYPE: &'static str = "F64";
    const BYTES: usize = 8;

    #[inline]
    fn widen(self) -> f64 {
        self
    }

    #[inline]
    fn narrow(x: f64) -> Self {
        x
    }
}

/// `scale x`: in `f64` where `S` has less range than `T`, else in `S`.
#[inline]
pub(crate) fn scaled<T: Real, S: Real>(x: T, scale: f64) -> S {
    if S::BYTES < T::BYTES {
        S::narrow(x.widen() * scale)
    } else {
        S::narrow(x.widen()) * S::narrow(scale)
    }
}

/// Sum of squares in `f64`, on all threads when there are many; the order of summation depends on the length alone.
pub(crate) fn norm_sq<T: Real, D: Dimension>(a: ArrayView<'_, T, D>) -> f64 {
    let Some(values) = a.as_slice_memory_order() else {
        return a.iter().map(|&x| x.widen() * x.widen()).sum();
    };
    let parts: Vec<f64> = values.par_chunks(CHUNK).map(lanes).collect();
    parts.iter().sum()
}

const CHUNK: usize = 1 << 16;

/// Sum of squares in eight lanes.
fn lanes<T: Real>(values: &[T]) -> f64 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            let x = x.widen();
            *sum += x * x;
        }
    }
    let rest: f64 = rest.iter().map(|&x| x.widen() * x.widen()).sum();
    sums.iter().sum::<f64>() + rest
}
