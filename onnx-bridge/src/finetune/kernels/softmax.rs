//! Softmax over the last axis.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::NullaryFnOnce;

use super::fresh::rows;
use super::simd::{exp, vectorized};
use super::{contiguous, plain, read};

/// `softmax` over the last axis; rows of no finite element give NaN, as in ONNX Runtime.
///
/// # Numerics
/// The largest element is taken off first; sums in f32, in a fixed order.
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
        let y = rows(n, [x], |_, [x], y| {
            let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            vectorized(Exponentials { x, top, y: &mut *y });
            let inverse = 1.0 / y.iter().sum::<f32>();
            y.iter_mut().for_each(|y| *y *= inverse);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        softmax_gradient(res, grad).map(Some)
    }
}

/// One row backward.
struct Backward<'a> {
    y: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [f32],
}

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut parts = [0.0f32; 8];
        let (ys, rest) = self.y.as_chunks::<8>();
        let (gs, last) = self.g.as_chunks::<8>();
        for (y, g) in ys.iter().zip(gs) {
            for ((part, y), g) in parts.iter_mut().zip(y).zip(g) {
                *part += y * g;
            }
        }
        let rest: f32 = rest.iter().zip(last).map(|(y, g)| y * g).sum();
        let dot = parts.iter().sum::<f32>() + rest;
        for ((d, &y), &g) in self.dx.iter_mut().zip(self.y).zip(self.g) {
            *d = y * (g - dot);
        }
    }
}

/// The gradient of the argument from the result `y` and its gradient.
pub(crate) fn softmax_gradient(y: &Tensor, g: &Tensor) -> Result<Tensor> {
    let n = row_length(y.dims());
    let dx = read(y, |y| {
        read(g, |g| {
            rows(n, [y, g], |_, [y, g], dx| vectorized(Backward { y, g, dx }))
        })
    })??;
    plain(dx, y.dims())
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
