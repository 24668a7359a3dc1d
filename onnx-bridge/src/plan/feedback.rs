//! Rounding to few levels with error feedback: the error of a column is taken up by the columns after it.

use ndarray::{Array2, ArrayView1, ArrayView2, s};
use rayon::prelude::*;

use super::metric::Metric;
use super::rounding::{Rounding, round};
use crate::blocks::{BlockFormat, BlockMatrix, step_of};

/// Rows that are worked on together.
const CHUNK: usize = 128;

/// Clippings of a block's range that are tried for its first scale.
const CLIPS: usize = 20;

/// How much work goes into a rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Each number to its nearest level.
    Nearest,
    /// Error feedback.
    Feedback,
    /// Error feedback, then this many sweeps that set each code and each scale anew with all others fixed.
    Refined(usize),
}

/// Quantizes a matrix so that `tr((W - W~) C (W - W~)ᵀ)` is small.
///
/// # Shapes
/// `weight`: `[M, K]`; `metric` over `K` inputs.
///
/// # Numerics
/// f32, with the factor of `C` from f64. Rows are independent, and the same input gives the same codes.
///
/// # Errors
/// A sentence, where the shapes do not fit or the weight is not finite.
///
/// # Source
/// Frantar et al. 2023, GPTQ, arXiv 2210.17323, in the form of Chee et al. 2023, QuIP, arXiv 2307.13304, section 3.2:
/// with `C = R Rᵀ`, `R` upper triangular, column `j` is rounded from `w_j + sum_(k<j) e_k R_kj / R_jj`, and no inverse
/// is formed. The refinement is coordinate descent on the same objective (Behdin et al. 2023, QuantEase, arXiv
/// 2309.01885), here over the scales too.
pub fn quantize(
    weight: ArrayView2<'_, f32>,
    metric: &Metric,
    format: BlockFormat,
    effort: Effort,
) -> Result<BlockMatrix, String> {
    let (m, k) = weight.dim();
    if metric.len() != k {
        return Err(format!(
            "expected a metric over {k} inputs, found {}",
            metric.len()
        ));
    }
    if let Some(v) = weight.iter().find(|v| !v.is_finite()) {
        return Err(format!("expected a finite weight, found {v}"));
    }
    let format = format.fitted(k);
    let (zero, top) = (format.levels.zero(), f32::from(format.levels.count() - 1));
    let importance: Vec<f32> = metric.moment().diag().to_vec();
    let row_scales = |row: ArrayView1<'_, f32>| -> Vec<f32> {
        let values = row.to_vec();
        let blocks = values
            .chunks(format.block)
            .zip(importance.chunks(format.block));
        blocks.map(|(v, d)| best_scale(v, d, zero, top)).collect()
    };
    let rows: Vec<usize> = (0..m).collect();
    let scales: Vec<f32> = rows
        .par_iter()
        .flat_map_iter(|&i| row_scales(weight.row(i)))
        .collect();
    let unit = scales.iter().copied().fold(0.0, f32::max).sqrt() / 255.0;
    let steps: Vec<u8> = scales.iter().map(|&s| step_of(s, unit)).collect();
    let steps = Array2::from_shape_vec((m, format.blocks(k)), steps).map_err(|e| e.to_string())?;
    let parts: Vec<Rounding> = rows
        .par_chunks(CHUNK)
        .map(|chunk| {
            let range = chunk[0]..chunk[0] + chunk.len();
            let weight = weight.slice(s![range.clone(), ..]);
            let steps = steps.slice(s![range, ..]).to_owned();
            let mut state = Rounding::new(weight.dim(), format, steps, unit);
            match effort {
                Effort::Nearest => state.nearest(weight),
                Effort::Feedback => state.feed_back(weight, metric),
                Effort::Refined(sweeps) => {
                    state.feed_back(weight, metric);
                    (0..sweeps).for_each(|_| state.refine(weight, metric));
                }
            }
            state
        })
        .collect();
    let (mut codes, mut steps) = (Vec::with_capacity(m * k), Vec::new());
    for part in parts {
        codes.extend(part.codes);
        steps.extend(part.steps);
    }
    BlockMatrix::new([m, k], format, codes, steps, unit)
}

/// The scale that leaves least weighted squared error, over a grid of clippings of the largest magnitude.
fn best_scale(values: &[f32], importance: &[f32], zero: f32, top: f32) -> f32 {
    let largest = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    let mut best = (f32::INFINITY, largest / zero);
    for clip in 0..CLIPS {
        let scale = largest * (1.0 - 0.75 * clip as f32 / CLIPS as f32) / zero;
        let inverse = 1.0 / scale;
        let error: f32 = values
            .iter()
            .zip(importance)
            .map(|(v, d)| {
                let code = round(v * inverse + zero, top);
                let e = (code - zero) * scale - v;
                d * e * e
            })
            .sum();
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::super::metric::tests::sample;
    use super::*;
    use crate::blocks::Levels;

    fn error(weight: &Array2<f32>, metric: &Metric, format: BlockFormat, effort: Effort) -> f64 {
        let quantized = quantize(weight.view(), metric, format, effort).unwrap();
        let values = Array2::from_shape_vec(weight.dim(), quantized.dequantize()).unwrap();
        metric.energy((weight - &values).view()) / metric.energy(weight.view())
    }

    #[test]
    fn feedback_beats_rounding_and_refinement_beats_feedback() {
        let (weight, moment) = sample(24, 96);
        let metric = Metric::new(moment.view(), 0.01).unwrap();
        for levels in Levels::ALL {
            for block in [32, 40, 96, 200] {
                let format = BlockFormat { levels, block };
                let of = |effort| error(&weight, &metric, format, effort);
                let (near, fed, refined) = (
                    of(Effort::Nearest),
                    of(Effort::Feedback),
                    of(Effort::Refined(2)),
                );
                assert!(fed < 0.8 * near, "{format:?}: {fed} against {near}");
                assert!(
                    refined <= fed * 1.0001,
                    "{format:?}: {refined} against {fed}"
                );
            }
        }
    }

    #[test]
    fn a_matrix_on_the_grid_stays() {
        let metric = Metric::identity(8);
        let weight = Array2::from_shape_fn((3, 8), |(i, j)| ((i + j) % 4) as f32 - 1.5);
        let format = BlockFormat {
            levels: Levels::L4,
            block: 8,
        };
        assert!(error(&weight, &metric, format, Effort::Feedback) < 1e-9);
    }

    #[test]
    fn zeros_and_misfits() {
        let metric = Metric::identity(4);
        let format = BlockFormat {
            levels: Levels::L16,
            block: 4,
        };
        let zeros = quantize(
            Array2::zeros((2, 4)).view(),
            &metric,
            format,
            Effort::Refined(1),
        )
        .unwrap();
        assert!(zeros.dequantize().iter().all(|v| *v == 0.0));
        assert!(
            quantize(
                Array2::zeros((2, 5)).view(),
                &metric,
                format,
                Effort::Nearest
            )
            .is_err()
        );
        assert!(
            quantize(
                Array2::from_elem((2, 4), f32::NAN).view(),
                &metric,
                format,
                Effort::Nearest
            )
            .is_err()
        );
    }
}
