//! Rounding to few levels with error feedback: the error of a column is taken up by the columns after it.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, s};
use rayon::prelude::*;

use super::metric::Metric;
use crate::blocks::{BlockFormat, BlockMatrix, scale_of, step_of};

/// Columns whose feedback is gathered by one matrix product.
const PANEL: usize = 64;

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
            let mut state = Rounding {
                format,
                top,
                zero,
                codes: Array2::zeros(weight.dim()),
                steps,
                unit,
            };
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

/// Codes and scales of some rows in the making.
struct Rounding {
    format: BlockFormat,
    top: f32,
    zero: f32,
    codes: Array2<u8>,
    steps: Array2<u8>,
    unit: f32,
}

impl Rounding {
    fn scales(&self) -> Array2<f32> {
        self.steps.mapv(|step| scale_of(step, self.unit))
    }

    fn nearest(&mut self, weight: ArrayView2<'_, f32>) {
        let scales = self.scales();
        for ((i, j), w) in weight.indexed_iter() {
            self.codes[[i, j]] =
                nearest(*w, scales[[i, j / self.format.block]], self.zero, self.top).0;
        }
    }

    fn feed_back(&mut self, weight: ArrayView2<'_, f32>, metric: &Metric) {
        let (m, k) = weight.dim();
        let (order, factor, scales) = (metric.order(), metric.factor(), self.scales());
        let mut errors = Array2::<f32>::zeros((m, k));
        for start in (0..k).step_by(PANEL) {
            let end = (start + PANEL).min(k);
            let carried = errors
                .slice(s![.., ..start])
                .dot(&factor.slice(s![start..end, ..start]).t());
            let panel = factor
                .slice(s![start..end, start..end])
                .as_standard_layout()
                .to_owned();
            for i in 0..m {
                let mut local = [0.0_f32; PANEL];
                for (at, &column) in order[start..end].iter().enumerate() {
                    let row = panel.row(at);
                    let sum: f32 = row
                        .iter()
                        .zip(&local[..at])
                        .map(|(r, e)| r * e)
                        .sum::<f32>()
                        + carried[[i, at]];
                    let wanted = weight[[i, column]] + sum / row[at];
                    let (code, value) = nearest(
                        wanted,
                        scales[[i, column / self.format.block]],
                        self.zero,
                        self.top,
                    );
                    self.codes[[i, column]] = code;
                    local[at] = weight[[i, column]] - value;
                }
                errors
                    .slice_mut(s![i, start..end])
                    .iter_mut()
                    .zip(local)
                    .for_each(|(e, l)| *e = l);
            }
        }
    }

    /// One sweep of coordinate descent over codes and scales, a block of columns at a time.
    fn refine(&mut self, weight: ArrayView2<'_, f32>, metric: &Metric) {
        let (m, k) = weight.dim();
        let moment = metric.moment();
        let mut scales = self.scales();
        let values = Array2::from_shape_fn((m, k), |(i, j)| {
            (f32::from(self.codes[[i, j]]) - self.zero) * scales[[i, j / self.format.block]]
        });
        let mut gradient = (&weight - &values).dot(&moment);
        for b in 0..self.format.blocks(k) {
            let (start, end) = (b * self.format.block, ((b + 1) * self.format.block).min(k));
            let own = moment
                .slice(s![start..end, start..end])
                .as_standard_layout()
                .to_owned();
            let mut change = Array2::<f32>::zeros((m, end - start));
            for i in 0..m {
                let mut g = gradient.slice(s![i, start..end]).to_vec();
                let codes = &mut self.codes.slice_mut(s![i, start..end]);
                let (zero, top, unit) = (self.zero, self.top, self.unit);
                let mut block = Block {
                    own: own.view(),
                    zero,
                    top,
                    unit,
                    step: self.steps[[i, b]],
                };
                block.set_codes(codes, &mut g, change.row_mut(i));
                block.set_scale(codes, &g, change.row_mut(i));
                self.steps[[i, b]] = block.step;
                scales[[i, b]] = scale_of(block.step, unit);
            }
            let all = moment.slice(s![start..end, ..]);
            ndarray::linalg::general_mat_mul(-1.0, &change, &all, 1.0, &mut gradient);
        }
    }
}

/// One block of one row, all else fixed. `g` is the row's error times `C`, on the block's columns.
struct Block<'a> {
    own: ArrayView2<'a, f32>,
    zero: f32,
    top: f32,
    unit: f32,
    step: u8,
}

impl Block<'_> {
    /// Sets each code in turn to the best there is; `change` takes what the values moved by.
    fn set_codes(
        &mut self,
        codes: &mut ArrayViewMut1<'_, u8>,
        g: &mut [f32],
        mut change: ArrayViewMut1<'_, f32>,
    ) {
        let scale = scale_of(self.step, self.unit);
        for j in 0..codes.len() {
            let value = (f32::from(codes[j]) - self.zero) * scale;
            let wanted = value + g[j] / self.own[[j, j]];
            let (code, better) = nearest(wanted, scale, self.zero, self.top);
            if code != codes[j] {
                let moved = better - value;
                codes[j] = code;
                change[j] += moved;
                g.iter_mut()
                    .zip(self.own.row(j))
                    .for_each(|(g, c)| *g -= moved * c);
            }
        }
    }

    /// Moves the scale to the step that is best for the codes as they are.
    fn set_scale(
        &mut self,
        codes: &ArrayViewMut1<'_, u8>,
        g: &[f32],
        mut change: ArrayViewMut1<'_, f32>,
    ) {
        let digits: Vec<f32> = codes.iter().map(|&c| f32::from(c) - self.zero).collect();
        let slope: f32 = digits.iter().zip(g).map(|(v, g)| v * g).sum();
        let bend: f32 = digits
            .iter()
            .zip(self.own.outer_iter())
            .map(|(v, row)| v * row.iter().zip(&digits).map(|(c, u)| c * u).sum::<f32>())
            .sum();
        if bend <= 0.0 {
            return;
        }
        let scale = scale_of(self.step, self.unit);
        let step = step_of(scale + slope / bend, self.unit);
        let moved = scale_of(step, self.unit) - scale;
        if moved * (2.0 * slope - moved * bend) > 0.0 {
            self.step = step;
            change
                .iter_mut()
                .zip(&digits)
                .for_each(|(c, v)| *c += moved * v);
        }
    }
}

/// The whole number from 0 to `top` that is nearest, halves to even; `top` below 2^22.
///
/// Adding 1.5 * 2^23 leaves no bits behind the point, and taking it away again is exact: two additions, where a call would
/// stand in the innermost loops.
fn round(x: f32, top: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x.clamp(0.0, top) + SHIFT) - SHIFT
}

/// The level nearest to a number, and its code; half a step rounds to the even code.
fn nearest(wanted: f32, scale: f32, zero: f32, top: f32) -> (u8, f32) {
    let code = if scale > 0.0 {
        round(wanted / scale + zero, top)
    } else {
        zero.floor()
    };
    (code as u8, (code - zero) * scale)
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
    fn rounding_is_that_of_the_standard_library() {
        for i in -20..2100_i16 {
            let x = f32::from(i) * 0.125;
            assert_eq!(
                round(x, 255.0),
                x.round_ties_even().clamp(0.0, 255.0),
                "{x}"
            );
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
