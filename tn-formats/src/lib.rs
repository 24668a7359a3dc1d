//! Tensor trains and Tucker networks for compressing weights: decompositions with exact error certificates, quantized cores.
//!
//! - [`TensorTrain`] for arrays, [`TtMatrix`] for matrices (interleaved or split modes), [`Tucker`].
//! - [`TtQuantizer`] and [`TuckerQuantizer`] turn their cores into 2- to 8-bit codes; [`CompressionReport`] says what that saves.
//! - [`npy`] reads and writes `.npy` and `.npz`.
//! - [`linalg`] multiplies matrices on all threads.
//!
//! Physicists call a tensor train an MPS (matrix product state), a matrix train an MPO (matrix product operator) and a rank
//! a bond dimension.

mod admm;
mod algebra;
mod budgets;
mod canonical;
mod compensate;
mod container;
mod convert;
mod decompose;
mod error;
mod fit;
mod fold;
mod gauge;
mod lattice;
pub mod linalg;
mod matrix;
mod matrix_algebra;
mod modes;
pub mod npy;
mod plan;
mod quantized;
mod quantizer;
mod range;
mod reorder;
mod report;
mod round;
mod scalar;
mod strategy;
mod suggest;
mod train;
mod truncation;
mod tucker;
mod tucker_gauge;
mod weighted;

pub use canonical::Vidal;
pub use compensate::CoreRounding;
pub use container::Container;
pub use error::{Error, Result};
pub use fit::Refinement;
pub use gauge::{Gauge, Rotation};
pub use matrix::{TtMatrix, TtMatrixCore};
pub use modes::{Layout, MatrixModes, factorize_balanced, padded_size};
pub use plan::{ContractionOrder, ContractionPlan};
pub use quantized::{QuantizedTensorTrain, QuantizedTtMatrix, QuantizedTucker};
pub use quantizer::{TtQuantizer, TuckerQuantizer};
pub use report::{CompressionReport, Cost};
pub use scalar::Real;
pub use strategy::{QuantizationError, Strategy};
pub use suggest::{energy_rank, evbmf_rank};
pub use train::{TensorTrain, TtCore};
pub use truncation::{BondCertificate, Certificate, Truncation};
pub use tucker::Tucker;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
