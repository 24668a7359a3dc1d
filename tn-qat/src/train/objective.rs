//! What training minimises.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis};

use super::Activation;
use crate::error::{QatError, Result, check_len, check_shape};

/// What the outputs of a network are held to; one row or label per sample.
#[derive(Debug, Clone, Copy)]
pub enum Objective<'a> {
    /// Cross-entropy of the softmax with class numbers.
    Labels(&'a [i64]),
    /// Kullback-Leibler divergence of the softmax at a temperature from that of a teacher's logits, times the
    /// temperature squared (Hinton et al. 2015, arXiv 1503.02531).
    Logits {
        /// The teacher's logits.
        teacher: ArrayView2<'a, f32>,
        /// Divides the logits of both.
        temperature: f32,
    },
    /// Squared error of the outputs relative to the mean square of the target, both through an activation.
    Outputs {
        /// The target, before the activation.
        target: ArrayView2<'a, f32>,
        /// What follows the layer.
        through: Activation,
    },
}

/// The softmax of logits over a temperature, in place: 32-bit, the largest logit subtracted.
fn softmax(logits: ArrayView1<'_, f32>, temperature: f32, mut out: ArrayViewMut1<'_, f32>) {
    let top = logits.fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    out.zip_mut_with(&logits, |o, &v| *o = ((v - top) / temperature).exp());
    let sum = out.sum();
    out /= sum;
}

impl Objective<'_> {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        match self {
            Objective::Labels(labels) => labels.len(),
            Objective::Logits { teacher, .. } => teacher.nrows(),
            Objective::Outputs { target, .. } => target.nrows(),
        }
    }

    /// The mean loss over a batch and its gradient by the outputs, as a new array.
    ///
    /// # Errors
    /// As [`Objective::loss_into`].
    pub fn loss(&self, y: ArrayView2<'_, f32>, rows: &[usize]) -> Result<(f64, Array2<f32>)> {
        let mut d = Array2::zeros(y.dim());
        let loss = self.loss_into(y, rows, d.view_mut())?;
        Ok((loss, d))
    }

    /// The mean loss over a batch; sets its gradient by the outputs. Allocates nothing but for [`Objective::Logits`], one
    /// row.
    ///
    /// # Shapes
    /// `y` and `d` are `[batch, outputs]`; `rows` are the batch's samples.
    ///
    /// # Numerics
    /// Softmax in f32 with the largest logit subtracted, the mean in f64. [`Objective::Outputs`] divides by the mean
    /// square of the batch's target (by 1 when that is 0).
    ///
    /// # Errors
    /// [`QatError::Shape`] and [`QatError::Index`] when outputs, targets and rows do not fit.
    pub fn loss_into(
        &self,
        y: ArrayView2<'_, f32>,
        rows: &[usize],
        mut d: ArrayViewMut2<'_, f32>,
    ) -> Result<f64> {
        check_len("samples of a batch", y.nrows(), rows.len())?;
        check_shape("gradient of a loss", y.shape(), d.shape())?;
        let bound = self.samples();
        if let Some(position) = rows.iter().position(|&r| r >= bound) {
            let found = rows[position] as i64;
            return Err(QatError::Index {
                what: "sample",
                position,
                bound,
                found,
            });
        }
        let batch = rows.len().max(1) as f32;
        let mut loss = 0.0;
        match *self {
            Objective::Labels(labels) => {
                for (i, &row) in rows.iter().enumerate() {
                    let label = class(labels[row], row, y.ncols())?;
                    let mut p = d.row_mut(i);
                    softmax(y.row(i), 1.0, p.view_mut());
                    // Not `max`, which would turn NaN into a number.
                    let likely = p[label] > f32::MIN_POSITIVE || p[label].is_nan();
                    loss -= f64::from(if likely { p[label] } else { f32::MIN_POSITIVE }).ln();
                    p[label] -= 1.0;
                    p /= batch;
                }
            }
            Objective::Logits {
                teacher,
                temperature,
            } => {
                check_shape("teacher's logits", &[bound, y.ncols()], teacher.shape())?;
                let mut p = Array1::zeros(y.ncols());
                for (i, &row) in rows.iter().enumerate() {
                    let mut q = d.row_mut(i);
                    softmax(teacher.row(row), temperature, p.view_mut());
                    softmax(y.row(i), temperature, q.view_mut());
                    for (q, &p) in q.iter_mut().zip(&p) {
                        if p > 0.0 {
                            let ratio = f64::from(p) / f64::from(q.max(f32::MIN_POSITIVE));
                            loss +=
                                f64::from(p) * ratio.ln() * f64::from(temperature * temperature);
                        }
                        *q = (*q - p) * temperature / batch;
                    }
                }
            }
            Objective::Outputs { target, through } => {
                check_shape("target outputs", &[bound, y.ncols()], target.shape())?;
                let mut norm = 0.0f64;
                for (i, &row) in rows.iter().enumerate() {
                    let (y, t) = (y.row(i), target.row(row));
                    for ((d, &y), &t) in d.row_mut(i).iter_mut().zip(y).zip(t) {
                        let t = through.value(t);
                        let difference = through.value(y) - t;
                        norm += f64::from(t) * f64::from(t);
                        loss += f64::from(difference) * f64::from(difference);
                        *d = 2.0 * difference * through.derivative(y);
                    }
                }
                let norm = if norm > 0.0 { norm } else { f64::from(batch) };
                d *= (1.0 / norm) as f32;
                return Ok(loss / norm);
            }
        }
        Ok(loss / f64::from(batch))
    }
}

fn class(label: i64, position: usize, bound: usize) -> Result<usize> {
    let index = usize::try_from(label).ok().filter(|&l| l < bound);
    index.ok_or(QatError::Index {
        what: "label",
        position,
        bound,
        found: label,
    })
}

/// The part of the samples whose largest output is at the label; the first of equal ones counts.
///
/// # Errors
/// [`QatError::Length`] unless there is one label for each sample.
pub fn accuracy(y: ArrayView2<'_, f32>, labels: &[i64]) -> Result<f64> {
    check_len("labels", y.nrows(), labels.len())?;
    let right = y.axis_iter(Axis(0)).zip(labels).filter(|(row, label)| {
        let mut best = 0;
        for j in 1..row.len() {
            if row[j] > row[best] {
                best = j;
            }
        }
        best as i64 == **label
    });
    Ok(right.count() as f64 / labels.len().max(1) as f64)
}
