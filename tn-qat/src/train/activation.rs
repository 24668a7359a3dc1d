//! The functions between layers.

use serde::{Deserialize, Serialize};

/// What follows a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `x Φ(x)` in the tanh form, `x (1 + tanh(sqrt(2 / π) (x + 0.044715 x³))) / 2` (Hendrycks and Gimpel 2016, arXiv
    /// 1606.08415).
    Gelu,
}

const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

impl Activation {
    /// The value at `x`.
    pub fn value(self, x: f32) -> f32 {
        match self {
            Activation::Identity => x,
            Activation::Relu => x.max(0.0),
            Activation::Gelu => 0.5 * x * (1.0 + (GELU_SCALE * (x + GELU_CUBE * x * x * x)).tanh()),
        }
    }

    /// The derivative at `x`; 0 for ReLU at 0.
    pub fn derivative(self, x: f32) -> f32 {
        match self {
            Activation::Identity => 1.0,
            Activation::Relu => f32::from(u8::from(x > 0.0)),
            Activation::Gelu => {
                let t = (GELU_SCALE * (x + GELU_CUBE * x * x * x)).tanh();
                let inner = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x);
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
            }
        }
    }
}
