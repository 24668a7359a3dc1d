//! Trains and networks whose cores and factors are stored as integer codes.

use ndarray::{Array2, Array3, Array4, ArrayD, IxDyn};
use quant_core::QuantizedTensor;

use crate::error::{Error, Result};
use crate::matrix::{TtMatrix, TtMatrixCore, check_core_modes};
use crate::modes::MatrixModes;
use crate::report::CompressionReport;
use crate::train::{TensorTrain, TtCore, check_chain};
use crate::tucker::{Tucker, check_tucker};

/// A tensor train with one [`QuantizedTensor`] `[r, n, r']` per core.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTensorTrain {
    cores: Vec<QuantizedTensor>,
}

impl QuantizedTensorTrain {
    /// A quantized train from its cores.
    ///
    /// # Errors
    /// [`Error::Shape`] for a core that has not three axes, and the errors of [`TensorTrain::from_cores`].
    pub fn from_cores(cores: Vec<QuantizedTensor>) -> Result<Self> {
        let shapes = cores
            .iter()
            .map(|c| axes::<3>(c, "core of a quantized train"))
            .collect::<Result<Vec<_>>>()?;
        check_chain(shapes.iter().map(|&[r, n, s]| (r, n, s)))?;
        Ok(Self { cores })
    }

    /// The cores from left to right.
    pub fn cores(&self) -> &[QuantizedTensor] {
        &self.cores
    }

    /// Number of cores.
    pub fn order(&self) -> usize {
        self.cores.len()
    }

    /// Mode sizes.
    pub fn modes(&self) -> Vec<usize> {
        self.cores.iter().map(|c| c.shape()[1]).collect()
    }

    /// Ranks, one more than cores.
    pub fn ranks(&self) -> Vec<usize> {
        std::iter::once(1)
            .chain(self.cores.iter().map(|c| c.shape()[2]))
            .collect()
    }

    /// Bytes of packed codes, scales and zero points.
    pub fn byte_len(&self) -> usize {
        self.cores.iter().map(QuantizedTensor::byte_len).sum()
    }

    /// The train the codes stand for.
    pub fn dequantize(&self) -> TensorTrain<f32> {
        let core = |c: &QuantizedTensor| {
            let shape = (c.shape()[0], c.shape()[1], c.shape()[2]);
            TtCore::new(
                Array3::from_shape_vec(shape, c.dequantize()).expect("checked at construction"),
            )
        };
        let cores = self.cores.iter().map(core).collect::<Result<Vec<_>>>();
        TensorTrain::from_parts(cores.expect("checked at construction"))
    }

    /// Parameters, bits and bytes, before and after.
    pub fn report(&self) -> CompressionReport {
        CompressionReport::of_cores(self.modes().iter().product(), self.cores.iter())
    }
}

/// A matrix train with one [`QuantizedTensor`] `[r, m, n, r']` per core.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTtMatrix {
    modes: MatrixModes,
    cores: Vec<QuantizedTensor>,
}

impl QuantizedTtMatrix {
    /// A quantized matrix train from its modes and cores.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Length`] when the cores do not fit the modes, and the errors of [`TensorTrain::from_cores`].
    pub fn from_cores(modes: MatrixModes, cores: Vec<QuantizedTensor>) -> Result<Self> {
        let what = "core of a quantized matrix train";
        let shapes = cores
            .iter()
            .map(|c| axes::<4>(c, what))
            .collect::<Result<Vec<_>>>()?;
        check_core_modes(&modes, shapes.into_iter())?;
        Ok(Self { modes, cores })
    }

    /// Modes and layout.
    pub fn modes(&self) -> &MatrixModes {
        &self.modes
    }

    /// The cores from left to right.
    pub fn cores(&self) -> &[QuantizedTensor] {
        &self.cores
    }

    /// `(M, N)`.
    pub fn shape(&self) -> (usize, usize) {
        (self.modes.rows(), self.modes.cols())
    }

    /// Ranks, one more than cores.
    pub fn ranks(&self) -> Vec<usize> {
        std::iter::once(1)
            .chain(self.cores.iter().map(|c| c.shape()[3]))
            .collect()
    }

    /// Bytes of packed codes, scales and zero points.
    pub fn byte_len(&self) -> usize {
        self.cores.iter().map(QuantizedTensor::byte_len).sum()
    }

    /// The matrix train the codes stand for.
    pub fn dequantize(&self) -> TtMatrix<f32> {
        let core = |c: &QuantizedTensor| {
            let shape = (c.shape()[0], c.shape()[1], c.shape()[2], c.shape()[3]);
            TtMatrixCore::new(
                Array4::from_shape_vec(shape, c.dequantize()).expect("checked at construction"),
            )
        };
        let cores = self.cores.iter().map(core).collect::<Result<Vec<_>>>();
        let train = cores.and_then(|cores| TtMatrix::from_cores(self.modes.clone(), cores));
        train.expect("checked at construction")
    }

    /// Parameters, bits and bytes, before and after.
    pub fn report(&self) -> CompressionReport {
        CompressionReport::of_cores(self.modes.rows() * self.modes.cols(), self.cores.iter())
    }
}

/// A Tucker network with one [`QuantizedTensor`] for the core and one `[n_k, r_k]` per factor.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTucker {
    core: QuantizedTensor,
    factors: Vec<QuantizedTensor>,
}

impl QuantizedTucker {
    /// A quantized network from its core and factors.
    ///
    /// # Errors
    /// [`Error::Shape`] for a factor that has not two axes, and the errors of [`Tucker::from_parts`].
    pub fn from_parts(core: QuantizedTensor, factors: Vec<QuantizedTensor>) -> Result<Self> {
        let what = "factor of a quantized Tucker network";
        let shapes = factors
            .iter()
            .map(|f| axes::<2>(f, what))
            .collect::<Result<Vec<_>>>()?;
        check_tucker(core.shape(), shapes.iter().map(|&[n, r]| (n, r)))?;
        Ok(Self { core, factors })
    }

    /// The core.
    pub fn core(&self) -> &QuantizedTensor {
        &self.core
    }

    /// The factors.
    pub fn factors(&self) -> &[QuantizedTensor] {
        &self.factors
    }

    /// Mode sizes.
    pub fn modes(&self) -> Vec<usize> {
        self.factors.iter().map(|f| f.shape()[0]).collect()
    }

    /// Bytes of packed codes, scales and zero points.
    pub fn byte_len(&self) -> usize {
        self.core.byte_len()
            + self
                .factors
                .iter()
                .map(QuantizedTensor::byte_len)
                .sum::<usize>()
    }

    /// The network the codes stand for.
    pub fn dequantize(&self) -> Tucker<f32> {
        let core = ArrayD::from_shape_vec(IxDyn(self.core.shape()), self.core.dequantize());
        let factor = |f: &QuantizedTensor| {
            Array2::from_shape_vec((f.shape()[0], f.shape()[1]), f.dequantize())
                .expect("checked at construction")
        };
        let factors = self.factors.iter().map(factor).collect();
        Tucker::from_parts(core.expect("checked at construction"), factors)
            .expect("checked at construction")
    }

    /// Parameters, bits and bytes, before and after: the core first, then the factors.
    pub fn report(&self) -> CompressionReport {
        CompressionReport::of_cores(
            self.modes().iter().product(),
            std::iter::once(&self.core).chain(&self.factors),
        )
    }
}

fn axes<const D: usize>(tensor: &QuantizedTensor, what: &'static str) -> Result<[usize; D]> {
    tensor.shape().try_into().map_err(|_| Error::Length {
        what,
        expected: D,
        found: tensor.shape().len(),
    })
}
