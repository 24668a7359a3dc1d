//! The `.safetensors` container of trains and networks, float or quantized; FORMAT.md beside the manifest is its definition.

mod header;
mod read;
mod write;

use crate::matrix::TtMatrix;
use crate::npy::NpyArray;
use crate::quantized::{QuantizedTensorTrain, QuantizedTtMatrix, QuantizedTucker};
use crate::train::TensorTrain;
use crate::tucker::Tucker;

/// What a container holds.
///
/// ```
/// use ndarray::Array;
/// use quant_core::{Bits, QuantScheme};
/// use tn_formats::{Container, TensorTrain, Truncation, TtQuantizer};
/// let a = Array::from_shape_fn((4, 5, 6), |(i, j, k)| 1.0f32 / (1 + i + j * k) as f32).into_dyn();
/// let (train, _) = TensorTrain::decompose(a.view(), &Truncation::MaxRank(3))?;
/// let quantized = TtQuantizer::new(QuantScheme::symmetric(Bits::B4)).quantize(&train)?;
///
/// let mut file = Vec::new();
/// Container::from(quantized.clone()).write(&mut file)?;
/// assert_eq!(Container::read(&file)?, Container::QuantizedTensorTrain(quantized));
///
/// let last = file.len() - 1;
/// file[last] ^= 1;
/// assert!(Container::read(&file).is_err());
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Container {
    /// A float train.
    TensorTrain(TensorTrain<f32>),
    /// A float train in double precision.
    TensorTrainF64(TensorTrain<f64>),
    /// A float matrix train.
    TtMatrix(TtMatrix<f32>),
    /// A float matrix train in double precision.
    TtMatrixF64(TtMatrix<f64>),
    /// A float Tucker network.
    Tucker(Tucker<f32>),
    /// A float Tucker network in double precision.
    TuckerF64(Tucker<f64>),
    /// A quantized train.
    QuantizedTensorTrain(QuantizedTensorTrain),
    /// A quantized matrix train.
    QuantizedTtMatrix(QuantizedTtMatrix),
    /// A quantized Tucker network.
    QuantizedTucker(QuantizedTucker),
}

impl Container {
    /// `tensor_train`, `tt_matrix` or `tucker`, as FORMAT.md has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TensorTrain(_) | Self::TensorTrainF64(_) | Self::QuantizedTensorTrain(_) => {
                "tensor_train"
            }
            Self::TtMatrix(_) | Self::TtMatrixF64(_) | Self::QuantizedTtMatrix(_) => "tt_matrix",
            Self::Tucker(_) | Self::TuckerF64(_) | Self::QuantizedTucker(_) => "tucker",
        }
    }

    /// The dense array, in double precision where the cores are.
    pub fn to_dense(&self) -> NpyArray {
        match self {
            Self::TensorTrain(train) => NpyArray::F32(train.to_dense()),
            Self::TensorTrainF64(train) => NpyArray::F64(train.to_dense()),
            Self::TtMatrix(matrix) => NpyArray::F32(matrix.to_dense().into_dyn()),
            Self::TtMatrixF64(matrix) => NpyArray::F64(matrix.to_dense().into_dyn()),
            Self::Tucker(tucker) => NpyArray::F32(tucker.to_dense()),
            Self::TuckerF64(tucker) => NpyArray::F64(tucker.to_dense()),
            Self::QuantizedTensorTrain(train) => NpyArray::F32(train.dequantize().to_dense()),
            Self::QuantizedTtMatrix(matrix) => {
                NpyArray::F32(matrix.dequantize().to_dense().into_dyn())
            }
            Self::QuantizedTucker(tucker) => NpyArray::F32(tucker.dequantize().to_dense()),
        }
    }
}

macro_rules! impl_from {
    ($($type:ty => $variant:ident),* $(,)?) => {
        $(impl From<$type> for Container {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        })*
    };
}

impl_from! {
    TensorTrain<f32> => TensorTrain,
    TensorTrain<f64> => TensorTrainF64,
    TtMatrix<f32> => TtMatrix,
    TtMatrix<f64> => TtMatrixF64,
    Tucker<f32> => Tucker,
    Tucker<f64> => TuckerF64,
    QuantizedTensorTrain => QuantizedTensorTrain,
    QuantizedTtMatrix => QuantizedTtMatrix,
    QuantizedTucker => QuantizedTucker,
}
