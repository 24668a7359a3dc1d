//! The experiments of the source document and the two that follow from them, as functions with results to keep.
//!
//! Each study returns its numbers (serde), and [`Study::report`] makes of them a table, a plot and a conclusion in plain
//! language, computed from the numbers.

mod bits;
mod gauge;
mod plot;
mod qat;
mod ranks;
mod report;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use ndarray::{Array2, ArrayView2};
use quant_core::{Bits, QuantScheme, QuantizedTensor};
use tn_formats::{Layout, MatrixModes, Truncation, TtMatrix, TtMatrixCore, factorize_balanced};

pub use bits::{BitsConfig, BitsRow, BitsStudy, bits};
pub use gauge::{GaugeConfig, GaugeRow, GaugeStudy, gauge};
pub use qat::{QatConfig, QatLayer, QatProblem, QatRow, QatStudy, Quality, qat};
pub use ranks::{RanksConfig, RanksRow, RanksStudy, ReducedRow, ranks};
pub use report::{Axis, Scale, Series, Stroke, Study, StudyReport};

use crate::error::Result;
use crate::fake_quant::{FakeQuant, StepInit};
use crate::layers::{generator, normal};

/// The modes that a study cuts an `M x N` weight into where nobody says: interleaved, four of each side (three for sides
/// below 256, two below 64), balanced, the largest in the middle.
///
/// # Errors
/// [`crate::QatError::Format`] when a side is 0.
///
/// ```
/// let modes = tn_qat::studies::standard_modes(1024, 784)?;
/// assert_eq!((modes.row_modes(), modes.col_modes()), (&[4, 8, 8, 4][..], &[4, 7, 7, 4][..]));
/// # Ok::<(), tn_qat::QatError>(())
/// ```
pub fn standard_modes(rows: usize, cols: usize) -> Result<MatrixModes> {
    let order = match rows.min(cols) {
        0..64 => 2,
        64..256 => 3,
        _ => 4,
    };
    let middle_out = |side: usize| {
        let mut modes = VecDeque::new();
        for (k, mode) in factorize_balanced(side, order).into_iter().enumerate() {
            match k % 2 {
                0 => modes.push_front(mode),
                _ => modes.push_back(mode),
            }
        }
        Vec::from(modes)
    };
    Ok(MatrixModes::new(
        Layout::Interleaved,
        middle_out(rows),
        middle_out(cols),
    )?)
}

/// Standard normal inputs for layers that nobody has data for.
///
/// # Shapes
/// `[samples, inputs]`.
pub fn normal_inputs(samples: usize, inputs: usize, seed: u64) -> Array2<f32> {
    let values = normal(samples * inputs, 1.0, &mut generator(seed));
    Array2::from_shape_vec((samples, inputs), values).expect("as many values as elements")
}

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

/// One rank and width of a study that tries all of both.
struct Case<'a, P> {
    rank: usize,
    bits: Bits,
    /// What was made of the train of this rank.
    prepared: &'a P,
    /// The float train as a matrix.
    dense: ArrayView2<'a, f32>,
}

/// A row for every rank and width; each rank is decomposed and prepared once.
fn cases<P, R>(
    weight: ArrayView2<'_, f32>,
    modes: &MatrixModes,
    (ranks, bits): (&[usize], &[Bits]),
    prepare: impl Fn(TtMatrix<f32>) -> Result<P>,
    row: impl Fn(Case<'_, P>) -> Result<R>,
) -> Result<Vec<R>> {
    let mut rows = Vec::with_capacity(ranks.len() * bits.len());
    for &rank in ranks {
        let (train, _) = TtMatrix::decompose(weight, modes, &Truncation::MaxRank(rank))?;
        let dense = train.to_dense();
        let prepared = prepare(train)?;
        for &bits in bits {
            rows.push(row(Case {
                rank,
                bits,
                prepared: &prepared,
                dense: dense.view(),
            })?);
        }
    }
    Ok(rows)
}

/// The part of the weight's squared norm that an approximation of this relative error keeps.
fn explained(error: f64) -> f64 {
    1.0 - error * error
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
