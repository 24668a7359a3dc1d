//! What a form loses: of a layer's outputs, of a matrix's rows.

use ndarray::Array2;

use super::context::failed;
use super::form::Form;
use super::metric::Metric;
use crate::calibrate::{Operand, Target};
use crate::error::Result;
use crate::view::GraphView;

/// Rows of a matrix that its error is summed over at once.
const ROWS: usize = 1024;

/// What a layer's outputs are held against. `y` is what the compressed network gives the layer, `d` what the layer's result
/// lacks of the original's when the original weight runs on `y`.
pub(crate) struct LayerOutputs<'a> {
    /// `W [M, K]`.
    pub(crate) original: &'a Array2<f32>,
    /// Of `E[y yᵀ]`.
    pub(crate) metric: &'a Metric,
    /// `E[d yᵀ]`; nothing where `d` is zero.
    pub(crate) missing: Option<&'a Array2<f64>>,
    /// `E ||d||²`.
    pub(crate) lack: f64,
    /// `E ||W y||²`.
    pub(crate) whole: f64,
}

impl LayerOutputs<'_> {
    /// `E ||(W - V) y + d||² / E ||W y||²` for `V` in a form.
    ///
    /// # Numerics
    /// Products in f32, sums in f64.
    pub(crate) fn loss(&self, form: &Form) -> f64 {
        let Some(matrix) = form.matrix() else {
            return 0.0;
        };
        let error = self.original - &matrix;
        let with_missing = self.missing.map_or(0.0, |missing| {
            let products = error.iter().zip(missing);
            products.map(|(e, m)| f64::from(*e) * m).sum::<f64>()
        });
        let lost = self.metric.output_energy(error.view()) + 2.0 * with_missing + self.lack;
        ratio(lost.max(0.0), self.whole)
    }
}

/// `||W - V||² / ||W||²` over all elements, rows counted by their importance, where there is one; 0 for a weight that stays.
///
/// # Errors
/// [`crate::Error::Plan`] for a weight that is no matrix of floats.
pub(crate) fn loss_of_rows(
    view: &GraphView<'_>,
    target: &Target,
    form: &Form,
    importance: Option<&[f32]>,
) -> Result<f64> {
    let Some(became) = form.operand(target.kind()) else {
        return Ok(0.0);
    };
    let original = Operand::original(view, target)?;
    let (mut error, mut norm) = (0.0, 0.0);
    let square = |v: f32| f64::from(v).powi(2);
    let all: Vec<usize> = (0..target.shape()[0]).collect();
    for rows in all.chunks(ROWS) {
        let (Some(a), Some(b)) = (original.rows(rows), became.rows(rows)) else {
            let problem = "expected a matrix of floats".to_string();
            return Err(failed(target, problem));
        };
        for ((row, a), b) in rows.iter().zip(a.outer_iter()).zip(b.outer_iter()) {
            let counts = importance.map_or(1.0, |all| f64::from(all[*row]));
            error += counts * a.iter().zip(b).map(|(a, b)| square(a - b)).sum::<f64>();
            norm += counts * a.iter().map(|v| square(*v)).sum::<f64>();
        }
    }
    Ok(ratio(error, norm))
}

fn ratio(error: f64, norm: f64) -> f64 {
    if error == 0.0 {
        0.0
    } else {
        error / norm.max(f64::MIN_POSITIVE)
    }
}
