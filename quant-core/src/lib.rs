#![doc = include_str!("../README.md")]

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
mod low_bit;
mod matmul;
mod measure;
mod mse;
mod observer;
mod pack;
mod params;
mod rounding;
mod scheme;
mod tensor;
mod tiles;

pub use affine::{
    Division, dequantize, fake_quantize, fake_quantize_into, fake_quantize_with, quantize,
};
pub use error::{QuantError, Result};
pub use groups::{Groups, Run, scale_shape};
pub use histogram::{Histogram, HistogramSpan};
pub use low_bit::{
    Activation, LeftMatrix, LowBitMatrix, LowBitParts, PanelMatrix, ProductScratch, bias_activate,
};
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
