//! Candidates whose loss is measured, and what it says about the others of their format.

use std::collections::BTreeMap;

use ndarray::Array2;

use super::feedback::Effort;
use super::form::{Candidate, Form, dense};
use super::low_rank::against;
use super::metric::Metric;
use super::solve::solve;
use crate::calibrate::{Target, TargetKind};
use crate::emit::packed::RunsOn;

/// Of a table's candidates of one format so many are measured: it is much of the file, and its errors cost little to follow.
const OF_TABLE: usize = 5;

/// Of every format the candidate of fewest bytes, and the one in the middle; of a table some from the fewest to the most. Their indices.
pub(super) fn probes(offered: &[Candidate], target: &Target, runs_on: RunsOn) -> Vec<usize> {
    let mut formats: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, candidate) in offered.iter().enumerate() {
        if *candidate != Candidate::Keep {
            formats.entry(candidate.format_name()).or_default().push(i);
        }
    }
    let mut chosen = Vec::new();
    for mut all in formats.into_values() {
        all.sort_by_key(|&i| (offered[i].bytes(target, runs_on), i));
        if matches!(target.kind(), TargetKind::Table(_)) {
            let some = OF_TABLE.min(all.len());
            chosen.extend((0..some).map(|i| all[i * (all.len() - 1) / (some - 1).max(1)]));
            continue;
        }
        chosen.push(all[0]);
        if all.len() > 3 {
            chosen.push(all[all.len() / 2]);
        }
    }
    chosen
}

/// The error `W~ - W` of a weight, or of the rows of a table that are looked up, by what a candidate made of it or of a sample
/// of the table.
pub(super) fn error_of(
    form: &Form,
    candidate: &Candidate,
    kind: &TargetKind,
    weight: Array2<f32>,
) -> Result<Array2<f32>, String> {
    let metric = Metric::identity(weight.ncols());
    let over = |right: Array2<f32>, format| -> Result<Option<Array2<f32>>, String> {
        let (weight, right) = (weight.view(), right.view());
        let left = against(weight, right, &metric, format, Effort::Feedback)?;
        Ok(Some(dense(&left).dot(&right)))
    };
    let matrix = match (form, *candidate, kind) {
        (Form::LowRank { right, .. }, Candidate::LowRank { format, .. }, TargetKind::Table(_)) => {
            over(dense(right), format)?
        }
        (
            Form::Tucker { core, right, .. },
            Candidate::Tucker { format, .. },
            TargetKind::Table(_),
        ) => over(dense(core).dot(&dense(right)), format)?,
        (_, _, TargetKind::Table(_)) => {
            solve(weight.view(), &metric, candidate, Effort::Feedback)?.matrix()
        }
        _ => form.matrix(),
    };
    Ok(match matrix {
        Some(matrix) => matrix - weight,
        None => Array2::zeros(weight.dim()),
    })
}

/// How much the model's output loses per unit of a weight's error, by the format that makes the error and by its size.
///
/// An error is not like another: what rounding makes lies in all directions, what cut ranks make in few; and what a large one
/// loses may be more than proportional or less.
#[derive(Debug, Default)]
pub(super) struct Gains {
    /// Logarithms of error and gain, by rising error.
    formats: BTreeMap<&'static str, Vec<(f64, f64)>>,
}

impl Gains {
    /// By candidates, their errors, and the squared losses that were measured.
    pub(super) fn new(measured: impl IntoIterator<Item = (Candidate, f64, f64)>) -> Self {
        let mut gains = Self::default();
        for (candidate, error, loss) in measured {
            let said = |x: f64| x > 0.0 && x.is_finite();
            if said(error) && said(loss) {
                let points = gains.formats.entry(candidate.format_name()).or_default();
                points.push((error.ln(), (loss / error).ln()));
            }
        }
        for points in gains.formats.values_mut() {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        gains
    }

    /// The squared loss of a candidate with such an error: between two that were measured along the line through them in the
    /// logarithms, beyond them proportional to the error. Of a format that was not measured the mean of those that were;
    /// none where nothing was.
    pub(super) fn loss(&self, candidate: &Candidate, error: f64) -> f64 {
        if error == 0.0 || error.is_infinite() {
            return error;
        }
        let at = |points: &Vec<(f64, f64)>| -> f64 {
            let x = error.ln();
            let after = points.partition_point(|p| p.0 < x);
            match (after.checked_sub(1).map(|i| points[i]), points.get(after)) {
                (Some((x0, y0)), Some(&(x1, y1))) => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
                (Some((_, y)), None) | (None, Some(&(_, y))) => y,
                (None, None) => f64::NEG_INFINITY,
            }
        };
        let gain = match self.formats.get(candidate.format_name()) {
            Some(points) => at(points),
            None if self.formats.is_empty() => f64::NEG_INFINITY,
            None => self.formats.values().map(at).sum::<f64>() / self.formats.len() as f64,
        };
        error * gain.exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{BlockFormat, Levels};

    #[test]
    fn losses_are_those_measured_and_lie_between_them() {
        let format = BlockFormat {
            levels: Levels::L4,
            block: 32,
        };
        let (blocks, cut) = (
            Candidate::Dense { format },
            Candidate::LowRank { rank: 2, format },
        );
        let gains = Gains::new([
            (blocks, 4.0, 0.2),
            (blocks, 1.0, 0.2),
            (cut, 1.0, 0.8),
            (cut, 3.0, 0.0),
            (cut, 5.0, f64::NAN),
            (cut, 7.0, f64::INFINITY),
        ]);
        for (candidate, error, loss) in [
            (blocks, 1.0, 0.2),
            (blocks, 4.0, 0.2),
            (blocks, 2.0, 0.2),
            (blocks, 0.1, 0.02),
            (blocks, 8.0, 0.4),
            (cut, 2.0, 1.6),
            (cut, 0.0, 0.0),
        ] {
            let found = gains.loss(&candidate, error);
            assert!(
                (found - loss).abs() < 1e-9,
                "{candidate:?} {error}: {found}"
            );
        }
        assert_eq!(gains.loss(&cut, f64::INFINITY), f64::INFINITY);
        let other = Candidate::Tucker { rank: 2, format };
        assert!((gains.loss(&other, 1.0) - 0.4).abs() < 1e-9);
        assert_eq!(Gains::default().loss(&other, 1.0), 0.0);
    }
}
