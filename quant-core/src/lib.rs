//! Integer quantization to the letter of the ONNX standard: schemes of 2 to 8 bits, parameters, packing.
//!
//! A [`QuantScheme`] says what codes mean, [`QuantParams`] holds the scales and zero points of one tensor under a scheme,
//! a [`QuantizedTensor`] owns packed codes beside both. [`quantize`], [`dequantize`] and [`fake_quantize`] work on slices.
//!
//! ```
//! use quant_core::{Bits, Granularity, QuantScheme, QuantizedTensor};
//! let weights: Vec<f32> = (0..64).map(|i| (i as f32 - 32.0) / 10.0).collect();
//! let scheme = QuantScheme::symmetric(Bits::B4).with_granularity(Granularity::per_block(1, 16)?);
//! let q = QuantizedTensor::quantize(&weights, &[2, 32], &scheme)?;
//! assert_eq!(q.params().scales().len(), 4);
//! assert_eq!(q.byte_len(), 32 + 4 * 4);
//! # Ok::<(), quant_core::QuantError>(())
//! ```

mod affine;
#[allow(
    unsafe_code,
    reason = "SIMD intrinsics; each kernel has a scalar oracle"
)]
mod arch;
mod error;
mod groups;
mod histogram;
pub mod kernels;
mod matmul;
mod measure;
mod mse;
mod observer;
mod pack;
mod params;
mod rounding;
mod scheme;
mod tensor;

pub use affine::{
    Division, dequantize, fake_quantize, fake_quantize_into, fake_quantize_with, quantize,
};
pub use error::{QuantError, Result};
pub use groups::scale_shape;
pub use histogram::{Histogram, HistogramSpan};
pub use matmul::{MatrixLayout, PackedMatrix, dot};
pub use measure::{ErrorStats, expected_mse, expected_sqnr_db};
pub use mse::{MseOptimum, mse_optimal, mse_optimal_weighted};
pub use observer::{
    Entropy, GroupObserver, MinMax, MovingAverage, MseObserver, Observer, Percentile,
};
pub use pack::{pack, pack_into, packed_len, unpack, unpack_into};
pub use params::{QuantParams, Range, min_max_ranges, scale_and_zero_point};
pub use rounding::{
    FeedbackHessian, FeedbackOrder, Rounding, quantize_rounded, quantize_with_feedback,
};
pub use scheme::{Bits, Granularity, Mapping, QuantScheme, Signedness, SymmetricRange};
pub use tensor::QuantizedTensor;
