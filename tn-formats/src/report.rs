//! The impact analysis: parameters, bits and bytes before and after.

use quant_core::QuantizedTensor;
use serde::{Deserialize, Serialize};

/// What one core or factor, or all of them together, cost before and after quantization.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Number of elements.
    pub parameters: usize,
    /// Bits as 32-bit floats.
    pub float_bits: usize,
    /// Bits of the codes: parameters times the width.
    pub code_bits: usize,
    /// Bits of the scales, 32 each.
    pub scale_bits: usize,
    /// Bits of the stored zero points.
    pub zero_point_bits: usize,
    /// Bytes in storage: codes packed into whole bytes, scales and zero points.
    pub bytes: usize,
}

impl Cost {
    fn of(tensor: &QuantizedTensor) -> Self {
        let parameters = tensor.len();
        let scale_bits = 32 * tensor.params().scales().len();
        Self {
            parameters,
            float_bits: 32 * parameters,
            code_bits: parameters * usize::from(tensor.scheme().bits().get()),
            scale_bits,
            zero_point_bits: 8 * tensor.params().byte_len() - scale_bits,
            bytes: tensor.byte_len(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.parameters += other.parameters;
        self.float_bits += other.float_bits;
        self.code_bits += other.code_bits;
        self.scale_bits += other.scale_bits;
        self.zero_point_bits += other.zero_point_bits;
        self.bytes += other.bytes;
    }

    /// Bits of codes, scales and zero points.
    pub fn bits(&self) -> usize {
        self.code_bits + self.scale_bits + self.zero_point_bits
    }

    /// Float bits over [`Cost::bits`].
    pub fn ratio(&self) -> f64 {
        self.float_bits as f64 / self.bits() as f64
    }

    /// Float bits over the bits of the codes alone; what [`Cost::ratio`] lacks to this is what scales and zero points cost.
    pub fn ratio_of_codes(&self) -> f64 {
        self.float_bits as f64 / self.code_bits as f64
    }
}

/// Costs per core and in total, and against the dense array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompressionReport {
    dense_parameters: usize,
    cores: Vec<Cost>,
    relative_error: Option<f64>,
}

impl CompressionReport {
    pub(crate) fn of_cores<'a>(
        dense_parameters: usize,
        cores: impl Iterator<Item = &'a QuantizedTensor>,
    ) -> Self {
        Self {
            dense_parameters,
            cores: cores.map(Cost::of).collect(),
            relative_error: None,
        }
    }

    /// The same report with a measured relative error beside it.
    #[must_use]
    pub fn with_relative_error(mut self, error: f64) -> Self {
        self.relative_error = Some(error);
        self
    }

    /// Core by core; for a Tucker network the core, then the factors.
    pub fn cores(&self) -> &[Cost] {
        &self.cores
    }

    /// The sum of all cores.
    pub fn total(&self) -> Cost {
        let mut total = Cost::default();
        self.cores.iter().for_each(|c| total.add(c));
        total
    }

    /// Elements of the dense array.
    pub fn dense_parameters(&self) -> usize {
        self.dense_parameters
    }

    /// Bits of the dense array as 32-bit floats over the bits of the quantized cores.
    pub fn dense_ratio(&self) -> f64 {
        32.0 * self.dense_parameters as f64 / self.total().bits() as f64
    }

    /// The measured relative error, where one was given.
    pub fn relative_error(&self) -> Option<f64> {
        self.relative_error
    }
}
