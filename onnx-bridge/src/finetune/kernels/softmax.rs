//! Softmax over the last axis.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::NullaryFnOnce;
use rayon::prelude::*;

use super::simd::{exp, vectorized};
use super::{GRAIN, contiguous, plain, read};

/// `softmax` over the last axis; rows of no finite element give NaN, as in ONNX Runtime.
///
/// # Numerics
/// The largest element is taken off first; sums in f32, left to right.
pub(crate) fn softmax_last(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softmax)
}

struct Softmax;

/// `y = exp(x - top)`.
struct Exponentials<'a> {
    x: &'a [f32],
    top: f32,
    y: &'a mut [f32],
}

impl NullaryFnOnce for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = exp(x - self.top);
        }
    }
}

fn row_length(dims: &[usize]) -> usize {
    dims.last().copied().unwrap_or(1).max(1)
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let n = row_length(layout.dims());
        let mut y = vec![0.0f32; x.len()];
        y.par_chunks_mut(n)
            .zip(x.par_chunks(n))
            .with_min_len((GRAIN / n).max(1))
            .for_each(|(y, x)| {
                let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                vectorized(Exponentials { x, top, y: &mut *y });
                let inverse = 1.0 / y.iter().sum::<f32>();
                y.iter_mut().for_each(|y| *y *= inverse);
            });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let n = row_length(res.dims());
        let dx = read(res, |y| {
            read(grad, |g| {
                let mut dx = vec![0.0f32; y.len()];
                dx.par_chunks_mut(n)
                    .zip(y.par_chunks(n))
                    .zip(g.par_chunks(n))
                    .with_min_len((GRAIN / n).max(1))
                    .for_each(|((dx, y), g)| {
                        let dot: f32 = y.iter().zip(g).map(|(y, g)| y * g).sum();
                        for ((d, &y), &g) in dx.iter_mut().zip(y).zip(g) {
                            *d = y * (g - dot);
                        }
                    });
                dx
            })
        })??;
        Ok(Some(plain(dx, res.dims())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_gradients;
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_sum_to_one_and_large_logits_are_safe() {
        let x = Tensor::new(
            &[[1000.0f32, 1001.0, 0.0], [f32::NEG_INFINITY, 0.0, 0.0]],
            &Device::Cpu,
        )
        .unwrap();
        let y = softmax_last(&x).unwrap().to_vec2::<f32>().unwrap();
        assert!((y[0][1] - 0.731_058_6).abs() < 1e-6, "{y:?}");
        assert_eq!(y[1], [0.0, 0.5, 0.5]);
    }

    #[test]
    fn gradients_equal_central_differences() {
        check_gradients(&[&[2, 3, 5]], 1e-3, |t| softmax_last(&t[0]));
    }
}
