//! From float cores to quantized ones, and back.

use quant_core::{QuantScheme, QuantizedTensor};

use crate::error::Result;
use crate::matrix::TtMatrix;
use crate::quantized::{QuantizedTensorTrain, QuantizedTtMatrix, QuantizedTucker};
use crate::scalar::Real;
use crate::train::TensorTrain;
use crate::tucker::Tucker;

/// Quantizes the cores of a train.
///
/// The source document's example: cores (1, 16, 8), (8, 16, 4), (4, 16, 1) at 8 bits, symmetric. 704 parameters are 22528
/// bits as `f32` and 5632 as codes; three scales of 32 bits bring the ratio from 4 down to the document's 3.93.
///
/// ```
/// use ndarray::Array3;
/// use quant_core::{Bits, QuantScheme};
/// use tn_formats::{TensorTrain, TtCore, TtQuantizer};
/// let core = |r, n, s| TtCore::new(Array3::from_shape_fn((r, n, s), |(i, j, k)| ((i + 3 * j + 5 * k) as f32).sin()));
/// let train = TensorTrain::from_cores(vec![core(1, 16, 8)?, core(8, 16, 4)?, core(4, 16, 1)?])?;
///
/// let quantized = TtQuantizer::new(QuantScheme::symmetric(Bits::B8)).quantize(&train)?;
/// let total = quantized.report().total();
/// assert_eq!((total.parameters, total.float_bits, total.code_bits), (704, 22528, 5632));
/// assert_eq!(total.scale_bits, 3 * 32);
/// assert_eq!(format!("{:.2}", total.ratio()), "3.93");
/// assert_eq!(total.ratio_of_codes(), 4.0);
///
/// let back = quantized.dequantize();
/// assert_eq!(back.ranks(), train.ranks());
/// for ((core, restored), q) in train.cores().iter().zip(back.cores()).zip(quantized.cores()) {
///     let half_step = q.params().scales()[0] / 2.0 * 1.0001;
///     assert!(core.as_slice().iter().zip(restored.as_slice()).all(|(a, b)| (a - b).abs() <= half_step));
/// }
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TtQuantizer {
    scheme: QuantScheme,
}

impl TtQuantizer {
    /// Each core on its own, as it comes.
    pub fn new(scheme: QuantScheme) -> Self {
        Self { scheme }
    }

    /// The scheme of every core.
    pub fn scheme(&self) -> &QuantScheme {
        &self.scheme
    }

    /// Quantizes a train.
    ///
    /// # Errors
    /// [`crate::Error::Quant`] when a core holds a number that is not finite or the scheme's axis does not exist.
    pub fn quantize<T: Real>(&self, train: &TensorTrain<T>) -> Result<QuantizedTensorTrain> {
        let cores = train
            .cores()
            .iter()
            .map(|c| quantize_values(c.as_slice(), c.view().shape(), &self.scheme));
        QuantizedTensorTrain::from_cores(cores.collect::<Result<_>>()?)
    }

    /// Quantizes a matrix train.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    pub fn quantize_matrix<T: Real>(&self, train: &TtMatrix<T>) -> Result<QuantizedTtMatrix> {
        let cores = train
            .cores()
            .iter()
            .map(|c| quantize_values(c.as_slice(), &c.shape(), &self.scheme));
        QuantizedTtMatrix::from_cores(train.modes().clone(), cores.collect::<Result<_>>()?)
    }
}

/// Quantizes the core and every factor of a Tucker network.
///
/// ```
/// use ndarray::Array;
/// use quant_core::{Bits, QuantScheme};
/// use tn_formats::{Truncation, Tucker, TuckerQuantizer};
/// let a = Array::from_shape_fn((8, 8, 8), |(i, j, k)| 1.0f32 / (1 + i + j + k) as f32).into_dyn();
/// let (tucker, _) = Tucker::decompose(a.view(), &Truncation::MaxRank(3))?;
/// let quantized = TuckerQuantizer::new(QuantScheme::symmetric(Bits::B8)).quantize(&tucker)?;
/// let back = quantized.dequantize().to_dense();
/// assert!((&back - &a).iter().all(|d| d.abs() < 0.02));
/// assert_eq!(quantized.report().total().scale_bits, 4 * 32);
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TuckerQuantizer {
    scheme: QuantScheme,
}

impl TuckerQuantizer {
    /// Core and factors each on their own, as they come.
    pub fn new(scheme: QuantScheme) -> Self {
        Self { scheme }
    }

    /// Quantizes a network.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    pub fn quantize<T: Real>(&self, tucker: &Tucker<T>) -> Result<QuantizedTucker> {
        let core = tucker.core();
        let values = core.as_slice().expect("a core is row-major");
        let quantized = quantize_values(values, core.shape(), &self.scheme)?;
        let factors = tucker.factors().iter().map(|f| {
            quantize_values(
                f.as_slice().expect("a factor is row-major"),
                f.shape(),
                &self.scheme,
            )
        });
        QuantizedTucker::from_parts(quantized, factors.collect::<Result<_>>()?)
    }
}

/// Quantizes numbers of any type through `f32`.
pub(crate) fn quantize_values<T: Real>(
    values: &[T],
    shape: &[usize],
    scheme: &QuantScheme,
) -> Result<QuantizedTensor> {
    let values: Vec<f32> = values.iter().map(|x| x.widen() as f32).collect();
    Ok(QuantizedTensor::quantize(&values, shape, scheme)?)
}
