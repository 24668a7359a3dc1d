//! Softmax over the last axis.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::NullaryFnOnce;

use super::fresh::fresh;
use super::simd::{exp, vectorized};
use super::{GRAIN, contiguous, plain, read};

/// `softmax` over the last axis; rows of no finite element give NaN, as in ONNX Runtime.
///
/// # Numerics
/// The largest element is taken off first; sums in f32, in a fixed order.
pub(crate) fn softmax_last(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softmax)
}

struct Softmax;

/// Elements that are combined side by side in a reduction.
const LANES: usize = 16;

/// A reduction of a row to one number, in an order that vectors allow.
#[inline(always)]
fn reduced(row: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut parts = [start; LANES];
    for block in blocks {
        for (part, &v) in parts.iter_mut().zip(block) {
            *part = f(*part, v);
        }
    }
    let whole = halved(parts, &f);
    rest.iter().copied().fold(whole, f)
}

/// All parts as one, the upper half onto the lower again and again.
#[inline(always)]
fn halved(mut parts: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for k in 0..half {
            parts[k] = f(parts[k], parts[k + half]);
        }
        half /= 2;
    }
    parts[0]
}

/// Makes the logits in every row of `n` probabilities, those that lie more than `reach` below the largest 0; inside [`vectorized`].
#[inline(always)]
pub(super) fn normalize(rows: &mut [f32], n: usize, reach: f32) {
    for row in rows.chunks_exact_mut(n) {
        let top = reduced(row, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        for y in &mut *row {
            let below = *y - top;
            *y = if below < -reach { 0.0 } else { exp(below) };
        }
        let inverse = 1.0 / reduced(row, 0.0, |a, b| a + b);
        for y in row {
            *y *= inverse;
        }
    }
}

/// Some rows forward.
struct Rows<'a> {
    y: &'a mut [f32],
    n: usize,
}

impl NullaryFnOnce for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        normalize(self.y, self.n, f32::INFINITY);
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
        let some = (GRAIN / n).max(1) * n;
        let y = fresh(x.len(), some, |c, y| {
            y.copy_from_slice(&x[c * some..][..y.len()]);
            vectorized(Rows { y, n });
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        softmax_gradient(res, grad).map(Some)
    }
}

/// Makes the gradients `g` of probabilities `y` those of their logits, in rows of `n`.
pub(super) fn normalize_back(y: &[f32], g: &mut [f32], n: usize) {
    vectorized(Backward { y, g, n });
}

/// Some rows backward.
struct Backward<'a> {
    y: &'a [f32],
    g: &'a mut [f32],
    n: usize,
}

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (y, g) in self
            .y
            .chunks_exact(self.n)
            .zip(self.g.chunks_exact_mut(self.n))
        {
            let (ys, y_rest) = y.as_chunks::<LANES>();
            let (gs, g_rest) = g.as_chunks::<LANES>();
            let mut parts = [0.0f32; LANES];
            for (y, g) in ys.iter().zip(gs) {
                for ((part, y), g) in parts.iter_mut().zip(y).zip(g) {
                    *part += y * g;
                }
            }
            let rest: f32 = y_rest.iter().zip(g_rest).map(|(y, g)| y * g).sum();
            let dot = halved(parts, |a, b| a + b) + rest;
            for (g, &y) in g.iter_mut().zip(y) {
                *g = y * (*g - dot);
            }
        }
    }
}

/// The gradient of the argument from the result `y` and its gradient.
pub(crate) fn softmax_gradient(y: &Tensor, g: &Tensor) -> Result<Tensor> {
    let n = row_length(y.dims());
    let some = (GRAIN / n).max(1) * n;
    let dx = read(y, |y| {
        read(g, |g| {
            fresh(y.len(), some, |c, dx| {
                let at = c * some..c * some + dx.len();
                dx.copy_from_slice(&g[at.clone()]);
                normalize_back(&y[at], dx, n);
            })
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
