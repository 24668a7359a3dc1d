//! The experiments of the source document and the two that follow from them, as functions with results to keep.
//!
//! Each study returns its numbers (serde), and [`Study::report`] makes of them a table, a plot and a conclusion in plain
//! language, computed from the numbers.

mod bits;
mod gauge;
mod qat;
mod ranks;
mod report;
#[cfg(test)]
mod tests;

use ndarray::ArrayView2;
use quant_core::{QuantScheme, QuantizedTensor};
use tn_formats::{TtMatrix, TtMatrixCore};

pub use bits::{BitsConfig, BitsRow, BitsStudy, bits};
pub use gauge::{GaugeConfig, GaugeRow, GaugeStudy, gauge};
pub use qat::{QatConfig, QatLayer, QatProblem, QatRow, QatStudy, Quality, qat};
pub use ranks::{RanksConfig, RanksRow, RanksStudy, ReducedRow, ranks};
pub use report::{Series, Study, StudyReport};

use crate::error::Result;
use crate::fake_quant::{FakeQuant, StepInit};

/// Every core on its own with steps of least squared error: the train the codes stand for, and its bytes.
fn quantize_cores(train: &TtMatrix<f32>, scheme: QuantScheme) -> Result<(TtMatrix<f32>, usize)> {
    let mut bytes = 0;
    let cores = train.cores().iter().map(|core| {
        let fake = FakeQuant::new(scheme, &core.shape())?;
        let (steps, zero_points) = fake.initial_steps(core.as_slice(), StepInit::Mse)?;
        let q: QuantizedTensor = fake.quantize(core.as_slice(), &steps, zero_points.as_deref())?;
        bytes += q.byte_len();
        let shape = core.shape();
        let values = ndarray::Array4::from_shape_vec(shape, q.dequantize());
        Ok(TtMatrixCore::new(
            values.expect("as many values as elements"),
        )?)
    });
    let cores = cores.collect::<Result<Vec<_>>>()?;
    Ok((TtMatrix::from_cores(train.modes().clone(), cores)?, bytes))
}

/// `|| a - b || / || b ||` in the Frobenius norm, in f64.
fn relative(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        error += f64::from(a - b).powi(2);
        norm += f64::from(b).powi(2);
    }
    if norm > 0.0 {
        (error / norm).sqrt()
    } else {
        error.sqrt()
    }
}
