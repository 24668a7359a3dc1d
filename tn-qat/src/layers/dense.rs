//! A dense matrix as a layer.

use ndarray::Array2;
use quant_core::QuantizedTensor;
use tn_formats::Real;

use super::linear::{Linear, delegate_layer, generator, normal};
use crate::chain::Structure;
use crate::error::{QatError, Result};
use crate::store::Store;

/// A layer with a dense weight `[M, N]`, fake-quantized per tensor, per output row (axis 0) or in blocks of a row.
///
/// ```
/// use ndarray::{Array2, array};
/// use quant_core::{Bits, Granularity, QuantScheme};
/// use tn_qat::{Cache, DenseLinear, Layer, StepInit};
/// let mut layer = DenseLinear::new(array![[1.0f32, 0.5], [0.02, -0.04]])?;
/// layer.quantize(QuantScheme::symmetric(Bits::B2).with_granularity(Granularity::per_axis(0)), StepInit::MinMax)?;
/// let y = layer.forward(Array2::eye(2).view(), &mut Cache::new())?;
/// assert_eq!(y, array![[1.0, 0.0], [0.0, -0.04]]); // one step per row: halves go to even
/// assert_eq!(layer.to_quantized()?.codes(), [1, 0, 0, -1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct DenseLinear<T = f32> {
    linear: Linear<T>,
}

delegate_layer!(DenseLinear);

impl<T: Real> DenseLinear<T> {
    /// A layer of this weight, without quantization and bias.
    ///
    /// # Errors
    /// [`QatError::Parameter`] for a matrix without elements.
    pub fn new(weight: Array2<T>) -> Result<Self> {
        let (m, n) = weight.dim();
        if m == 0 || n == 0 {
            return Err(QatError::Parameter {
                what: "shape of a dense weight",
                expected: "at least one row and one column",
                found: format!("{m} x {n}"),
            });
        }
        let mut store = Store::new();
        store.push_weight(
            "weight".to_owned(),
            &[m, n],
            weight.iter().copied().collect(),
        )?;
        Ok(Self {
            linear: Linear::new(store, Structure::Dense([m, n])),
        })
    }

    /// Normal entries of variance `2 / N` (He et al. 2015).
    ///
    /// # Errors
    /// As [`DenseLinear::new`].
    pub fn random(outputs: usize, inputs: usize, seed: u64) -> Result<Self> {
        let deviation = (2.0 / inputs.max(1) as f64).sqrt();
        let values = normal(outputs * inputs, deviation, &mut generator(seed));
        Self::new(
            Array2::from_shape_vec((outputs, inputs), values)
                .expect("as many values as the shape has elements"),
        )
    }
}

impl DenseLinear<f32> {
    /// The integers, scales and zero points of the forward pass, exactly.
    ///
    /// # Errors
    /// [`QatError::NotQuantized`] when the weight has no quantizer.
    pub fn to_quantized(&self) -> Result<QuantizedTensor> {
        self.linear.store.quantized(0, "a quantized matrix")
    }
}
