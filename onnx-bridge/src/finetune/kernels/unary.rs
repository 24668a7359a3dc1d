//! Element-wise functions with their derivatives.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::fresh::mapped;
use super::simd::exp;
use super::{contiguous, plain, read};

/// An element-wise function; the derivative sees the argument and the result.
#[derive(Debug, Clone, Copy)]
pub(crate) enum UnaryOp {
    Abs,
    /// Inside the limits; the gradient is 1 there, limits included, and 0 outside.
    Clip(f32, f32),
    Cos,
    Elu(f32),
    Erf,
    Exp,
    /// `x * (1 + erf(x / sqrt 2)) / 2`
    Gelu,
    /// The approximation with tanh.
    GeluTanh,
    HardSigmoid(f32, f32),
    HardSwish,
    LeakyRelu(f32),
    Log,
    Mish,
    Neg,
    /// `x` to a constant power.
    Pow(f32),
    Reciprocal,
    Relu,
    Sigmoid,
    Sin,
    /// `x * sigmoid(alpha x)`
    Swish(f32),
    Softplus,
    Softsign,
    Sqrt,
    Tanh,
}

/// The error function in f32, within 4e-7 of the exact one: the rational approximation that Eigen uses.
#[inline(always)]
fn erf(x: f32) -> f32 {
    const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_5e-8,
        -2.101_024e-6,
        -5.692_506e-5,
        -7.349_906_4e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_5e-4,
        -1.682_827e-3,
        -7.373_329_3e-3,
        -1.426_473_9e-2,
    ];
    let x = x.clamp(-4.0, 4.0);
    let z = x * x;
    let (mut p, mut q) = (0.0, 0.0);
    for c in P {
        p = p * z + c;
    }
    for c in Q {
        q = q * z + c;
    }
    (x * p / q).clamp(-1.0, 1.0)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

const INV_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// `1 / sqrt(2 pi)`
const INV_SQRT_TAU: f32 = 0.398_942_3;
/// `sqrt(2 / pi)`
const GELU_TANH: f32 = 0.797_884_6;

impl UnaryOp {
    #[inline(always)]
    fn value(self, x: f32) -> f32 {
        match self {
            Self::Abs => x.abs(),
            Self::Clip(low, high) => x.max(low).min(high),
            Self::Cos => x.cos(),
            Self::Elu(alpha) => {
                if x > 0.0 {
                    x
                } else {
                    alpha * x.exp_m1()
                }
            }
            Self::Erf => erf(x),
            Self::Exp => x.exp(),
            Self::Gelu => 0.5 * x * (1.0 + erf(x * INV_SQRT_2)),
            Self::GeluTanh => 0.5 * x * (1.0 + (GELU_TANH * (x + 0.044_715 * x * x * x)).tanh()),
            Self::HardSigmoid(alpha, beta) => (alpha * x + beta).clamp(0.0, 1.0),
            Self::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Self::LeakyRelu(alpha) => {
                if x >= 0.0 {
                    x
                } else {
                    alpha * x
                }
            }
            Self::Log => x.ln(),
            Self::Mish => x * softplus(x).tanh(),
            Self::Neg => -x,
            Self::Pow(p) => {
                if p == 2.0 {
                    x * x
                } else if p == 3.0 {
                    x * x * x
                } else {
                    x.powf(p)
                }
            }
            Self::Reciprocal => 1.0 / x,
            Self::Relu => x.max(0.0),
            Self::Sigmoid => sigmoid(x),
            Self::Sin => x.sin(),
            Self::Swish(alpha) => x * sigmoid(alpha * x),
            Self::Softplus => softplus(x),
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Sqrt => x.sqrt(),
            Self::Tanh => x.tanh(),
        }
    }

    #[inline(always)]
    fn derivative(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Abs => {
                if x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
            Self::Clip(low, high) => {
                if x >= low && x <= high {
                    1.0
                } else {
                    0.0
                }
            }
            Self::Cos => -x.sin(),
            Self::Elu(alpha) => {
                if x > 0.0 {
                    1.0
                } else {
                    y + alpha
                }
            }
            Self::Erf => 2.0 * INV_SQRT_TAU * std::f32::consts::SQRT_2 * exp(-x * x),
            Self::Exp => y,
            Self::Gelu => 0.5 * (1.0 + erf(x * INV_SQRT_2)) + x * INV_SQRT_TAU * exp(-0.5 * x * x),
            Self::GeluTanh => {
                let t = (GELU_TANH * (x + 0.044_715 * x * x * x)).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * GELU_TANH * (1.0 + 0.134_145 * x * x)
            }
            Self::HardSigmoid(alpha, _) => {
                if y > 0.0 && y < 1.0 {
                    alpha
                } else {
                    0.0
                }
            }
            Self::HardSwish => {
                if x <= -3.0 {
                    0.0
                } else if x >= 3.0 {
                    1.0
                } else {
                    x / 3.0 + 0.5
                }
            }
            Self::LeakyRelu(alpha) => {
                if x >= 0.0 {
                    1.0
                } else {
                    alpha
                }
            }
            Self::Log => 1.0 / x,
            Self::Mish => {
                let t = softplus(x).tanh();
                t + x * (1.0 - t * t) * sigmoid(x)
            }
            Self::Neg => -1.0,
            Self::Pow(p) => {
                if p == 2.0 {
                    2.0 * x
                } else {
                    p * x.powf(p - 1.0)
                }
            }
            Self::Reciprocal => -y * y,
            Self::Relu => {
                if x > 0.0 {
                    1.0
                } else {
                    0.0
                }
            }
            Self::Sigmoid => y * (1.0 - y),
            Self::Sin => x.cos(),
            Self::Swish(alpha) => {
                let s = sigmoid(alpha * x);
                s + alpha * x * s * (1.0 - s)
            }
            Self::Softplus => sigmoid(x),
            Self::Softsign => (1.0 + x.abs()).powi(-2),
            Self::Sqrt => 0.5 / y,
            Self::Tanh => 1.0 - y * y,
        }
    }
}

/// An element-wise function that a loop of vectors can hold: all of it is inlined there.
trait Function: Copy + Send + Sync {
    fn value(self, x: f32) -> f32;
    fn derivative(self, x: f32, y: f32) -> f32;
}

/// `UnaryOp::$name`, known when the loop is compiled.
macro_rules! fixed {
    ($($name:ident => $op:expr),* $(,)?) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl Function for $name {
            #[inline(always)]
            fn value(self, x: f32) -> f32 {
                $op.value(x)
            }

            #[inline(always)]
            fn derivative(self, x: f32, y: f32) -> f32 {
                $op.derivative(x, y)
            }
        }
    )*};
}

fixed! {
    Erf => UnaryOp::Erf,
    Gelu => UnaryOp::Gelu,
    Relu => UnaryOp::Relu,
    Square => UnaryOp::Pow(2.0),
}

impl Function for UnaryOp {
    fn value(self, x: f32) -> f32 {
        UnaryOp::value(self, x)
    }

    fn derivative(self, x: f32, y: f32) -> f32 {
        UnaryOp::derivative(self, x, y)
    }
}

/// Calls `$run` with the function that an operator stands for, a fixed one where that makes a loop of vectors.
macro_rules! with_function {
    ($op:expr, $run:ident, $($rest:expr),*) => {
        match $op {
            UnaryOp::Erf => $run(Erf, $($rest),*),
            UnaryOp::Gelu => $run(Gelu, $($rest),*),
            UnaryOp::Relu => $run(Relu, $($rest),*),
            UnaryOp::Pow(2.0) => $run(Square, $($rest),*),
            op => $run(op, $($rest),*),
        }
    };
}

fn forward<F: Function>(f: F, x: &[f32]) -> Vec<f32> {
    mapped([x], |[x]| f.value(x))
}

fn backward<F: Function>(f: F, x: &[f32], y: &[f32], g: &[f32]) -> Vec<f32> {
    mapped([g, x, y], |[g, x, y]| g * f.derivative(x, y))
}

/// Applies a function to every element.
///
/// # Numerics
/// Element by element in f32, so the result does not depend on the number of threads.
pub(crate) fn unary(x: &Tensor, op: UnaryOp) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Unary(op))
}

/// The gradient of the argument `x` from that of the result `y`.
pub(crate) fn unary_gradient(x: &Tensor, y: &Tensor, g: &Tensor, op: UnaryOp) -> Result<Tensor> {
    let dx = read(x, |x| {
        read(y, |y| read(g, |g| with_function!(op, backward, x, y, g)))
    })???;
    plain(dx, x.dims())
}

struct Unary(UnaryOp);

impl CustomOp1 for Unary {
    fn name(&self) -> &'static str {
        "element-wise function"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let y = with_function!(self.0, forward, x);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        unary_gradient(arg, res, grad, self.0).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check_gradients;
    use super::*;

    #[test]
    fn erf_is_within_4e7() {
        // Exact values, rounded to f32 (Abramowitz and Stegun, table 7.1).
        for (x, expected) in [
            (0.0, 0.0),
            (0.1, 0.112_462_916),
            (0.5, 0.520_499_9),
            (1.0, 0.842_700_8),
            (2.0, 0.995_322_3),
            (4.5, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 4e-7, "{x}: {}", erf(x));
            assert!((erf(-x) + expected).abs() < 4e-7, "-{x}");
        }
    }

    #[test]
    fn derivatives_equal_central_differences() {
        // The second number moves the arguments to where the function is smooth.
        for (op, shift) in [
            (UnaryOp::Abs, 2.0),
            (UnaryOp::Clip(-0.5, 3.0), 1.0),
            (UnaryOp::Cos, 0.0),
            (UnaryOp::Elu(0.7), -1.5),
            (UnaryOp::Erf, 0.0),
            (UnaryOp::Exp, 0.0),
            (UnaryOp::Gelu, 0.3),
            (UnaryOp::GeluTanh, 0.3),
            (UnaryOp::HardSigmoid(0.2, 0.5), 0.0),
            (UnaryOp::HardSwish, 0.5),
            (UnaryOp::LeakyRelu(0.1), -1.5),
            (UnaryOp::Log, 2.5),
            (UnaryOp::Mish, 0.0),
            (UnaryOp::Neg, 0.0),
            (UnaryOp::Pow(3.0), 2.0),
            (UnaryOp::Reciprocal, 2.5),
            (UnaryOp::Relu, 2.0),
            (UnaryOp::Sigmoid, 0.0),
            (UnaryOp::Sin, 0.0),
            (UnaryOp::Swish(1.5), 0.0),
            (UnaryOp::Softplus, 0.0),
            (UnaryOp::Softsign, 2.0),
            (UnaryOp::Sqrt, 2.5),
            (UnaryOp::Tanh, 0.0),
        ] {
            check_gradients(&[&[5, 7]], 2e-3, |t| unary(&(&t[0] + shift)?, op));
        }
    }
}
