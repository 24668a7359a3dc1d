//! Quantization-aware training of layers whose weights are tensor trains or Tucker networks.
//!
//! ```text
//! parameters ──fake quantization──> effective cores ──merge──> a few matrices ──chain of products with the batch──> y
//!     ▲                                  ▲                            ▲                                             │
//!     └── optimizer <── LSQ / straight-through <── back through the merges <── matrix gradients, dx <── dy ─────────┘
//! ```
//!
//! - [`FakeQuant`]: straight-through with clipping, learned steps (LSQ) and zero points (LSQ+), per tensor, axis or block.
//! - [`TtLinear`], [`TuckerLinear`], [`DenseLinear`], [`Embedding`]: forward and backward; [`Layer`] is what they share.
//!   A [`LayerPlan`] says what a layer does for a batch; [`Route`] overrules it.
//! - [`AdamW`], [`Sgd`], [`Schedule`], [`clip_gradients`].
//! - [`Network`] and [`train()`]: a stack of layers held to labels, to a teacher's logits or to a layer's outputs.
//! - [`fit_layer`] and [`fit_train`]: one layer held to the outputs of the layer it replaces.
//! - [`studies`]: quantization after against during training, ranks, bits, gauges.
//!
//! Every layer gives the exact integers of its forward pass by `to_quantized`.

mod chain;
mod error;
mod fake_quant;
mod fit;
mod layers;
mod optim;
mod parameter;
mod store;
pub mod studies;
mod train;

pub use chain::{Cache, LayerPlan, Route};
pub use error::{QatError, Result};
pub use fake_quant::{FakeQuant, QatPhase, QatSchedule, StepInit, Steps};
pub use fit::{FitConfig, FitReport, fit_ahead, fit_layer, fit_train, output_error};
pub use layers::{DenseLinear, Embedding, FixedLinear, Layer, TtLinear, TuckerLinear};
pub use optim::{AdamSlot, AdamState, AdamW, Moment, Optimizer, Schedule, Sgd, clip_gradients};
pub use parameter::{Gradients, Parameter, ParameterKind};
pub use train::{
    Activation, Network, NetworkState, Objective, TrainConfig, TrainReport, TrainState, accuracy,
    train, train_until,
};

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
