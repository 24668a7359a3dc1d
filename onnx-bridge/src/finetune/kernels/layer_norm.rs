//! Layer normalization over the trailing elements of every row.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::NullaryFnOnce;

use super::fresh::rows;
use super::simd::vectorized;
use super::{contiguous, plain, read};

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` over rows of as many elements as `scale` has.
///
/// # Shapes
/// `x` is `[.., n]` after flattening the normalized axes, `scale` and `bias` hold `n` elements.
///
/// # Numerics
/// Mean and variance are accumulated in f64 per row; the backward pass computes them again.
///
/// # Source
/// Ba, Kiros, Hinton 2016, arXiv 1607.06450, equation 4; ONNX LayerNormalization.
pub(crate) fn layer_norm(
    x: &Tensor,
    scale: &Tensor,
    bias: &Tensor,
    epsilon: f32,
) -> Result<Tensor> {
    x.contiguous()?.apply_op3(
        &scale.contiguous()?,
        &bias.contiguous()?,
        LayerNorm { epsilon },
    )
}

struct LayerNorm {
    epsilon: f32,
}

/// The sum of `f(x)` in f64, in eight interleaved parts.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut parts = [0.0f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (part, &v) in parts.iter_mut().zip(chunk) {
            *part += f(f64::from(v));
        }
    }
    let rest: f64 = rest.iter().map(|&v| f(f64::from(v))).sum();
    parts.iter().sum::<f64>() + rest
}

#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = sum(x, |v| v) / n;
    let variance = sum(x, |v| (v - mean) * (v - mean)) / n;
    (
        mean as f32,
        (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32,
    )
}

/// One row forward.
struct Forward<'a> {
    epsilon: f32,
    x: &'a [f32],
    scale: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (mean, inverse) = moments(self.x, self.epsilon);
        let numbers = self.x.iter().zip(self.scale).zip(self.bias);
        for (y, ((&x, &s), &b)) in self.y.iter_mut().zip(numbers) {
            *y = (x - mean) * inverse * s + b;
        }
    }
}

/// One row backward.
struct Backward<'a> {
    epsilon: f32,
    x: &'a [f32],
    scale: &'a [f32],
    g: &'a [f32],
    dx: &'a mut [f32],
}

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self {
            x, scale, g, dx, ..
        } = self;
        let n = x.len() as f64;
        let (mean, inverse) = moments(x, self.epsilon);
        for (((d, &x), &g), &s) in dx.iter_mut().zip(x).zip(g).zip(scale) {
            *d = g * s * (x - mean) * inverse;
        }
        let dot = (sum(dx, |v| v) / n) as f32;
        for ((d, &g), &s) in dx.iter_mut().zip(g).zip(scale) {
            *d = g * s;
        }
        let middle = (sum(dx, |v| v) / n) as f32;
        for (d, &x) in dx.iter_mut().zip(x) {
            *d = inverse * (*d - middle - (x - mean) * inverse * dot);
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer normalization"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, scale, bias) = (
            contiguous(s1, l1)?,
            contiguous(s2, l2)?,
            contiguous(s3, l3)?,
        );
        let n = scale.len();
        if n == 0 || x.len() % n != 0 || bias.len() != n {
            candle_core::bail!(
                "expected rows of {n} elements, found {:?} and {} biases",
                l1.dims(),
                bias.len()
            );
        }
        let epsilon = self.epsilon;
        let y = rows(n, [x], |_, [x], y| {
            vectorized(Forward {
                epsilon,
                x,
                scale,
                bias,
                y,
            });
        });
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let needed = [x, scale, bias].map(Tensor::track_op);
        let [dx, ds, db] = layer_norm_gradients([x, scale, bias], self.epsilon, grad, needed)?;
        Ok((dx, ds, db))
    }
}

/// The gradients of `x`, scale and bias, of those that are needed, from that of the result.
pub(crate) fn layer_norm_gradients(
    [x, scale, bias]: [&Tensor; 3],
    epsilon: f32,
    grad: &Tensor,
    needed: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let n = scale.elem_count();
    let [of_x, of_scale, of_bias] = needed;
    let dx = |x: &[f32], scale: &[f32], g: &[f32]| {
        rows(n, [x, g], |_, [x, g], dx| {
            vectorized(Backward {
                epsilon,
                x,
                scale,
                g,
                dx,
            });
        })
    };
    let shared = |x: &[f32], g: &[f32]| {
        let (mut ds, mut db) = (vec![0.0f32; n], vec![0.0f32; n]);
        for (x, g) in x.chunks(n).zip(g.chunks(n)) {
            let (mean, inverse) = moments(x, epsilon);
            for (((ds, db), &x), &g) in ds.iter_mut().zip(&mut db).zip(x).zip(g) {
                *ds += g * (x - mean) * inverse;
                *db += g;
            }
        }
        (ds, db)
    };
    let (dx, sums) = read(x, |x| {
        read(scale, |s| {
            read(grad, |g| {
                let sums = (of_scale || of_bias).then(|| shared(x, g));
                (of_x.then(|| dx(x, s, g)), sums)
            })
        })
    })???;
    let (ds, db) = sums.unzip();
    let given = |data: Option<Vec<f32>>, t: &Tensor, needed: bool| {
        let data = data.filter(|_| needed);
        data.map(|data| plain(data, t.dims())).transpose()
    };
    Ok([
        given(dx, x, of_x)?,
        given(ds, scale, of_scale)?,
        given(db, bias, of_bias)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_gradients;
    use super::*;

    #[test]
    fn gradients_equal_central_differences() {
        check_gradients(&[&[4, 6], &[6], &[6]], 2e-3, |t| {
            layer_norm(&t[0], &t[1], &t[2], 1e-5)
        });
    }
}
