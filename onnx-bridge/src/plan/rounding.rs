//! Codes and scales of some rows in the making: to the nearest level, with error feedback, by coordinate descent.

use ndarray::{Array2, ArrayView2, ArrayViewMut1, s};

use super::metric::Metric;
use crate::blocks::{BlockFormat, scale_of, step_of};

/// Columns whose feedback is gathered by one matrix product.
const PANEL: usize = 64;

/// Codes and scales of some rows in the making.
pub(super) struct Rounding {
    format: BlockFormat,
    top: f32,
    zero: f32,
    pub(super) codes: Array2<u8>,
    pub(super) steps: Array2<u8>,
    unit: f32,
}

impl Rounding {
    /// Rows of the given dimensions with their first scales; no codes yet.
    pub(super) fn new(
        dim: (usize, usize),
        format: BlockFormat,
        steps: Array2<u8>,
        unit: f32,
    ) -> Self {
        Self {
            format,
            top: f32::from(format.levels.count() - 1),
            zero: format.levels.zero(),
            codes: Array2::zeros(dim),
            steps,
            unit,
        }
    }

    fn scales(&self) -> Array2<f32> {
        self.steps.mapv(|step| scale_of(step, self.unit))
    }

    /// Each number to its nearest level.
    pub(super) fn nearest(&mut self, weight: ArrayView2<'_, f32>) {
        let scales = self.scales();
        for ((i, j), w) in weight.indexed_iter() {
            self.codes[[i, j]] =
                nearest(*w, scales[[i, j / self.format.block]], self.zero, self.top).0;
        }
    }

    /// Column by column, the error of each taken up by those after it.
    pub(super) fn feed_back(&mut self, weight: ArrayView2<'_, f32>, metric: &Metric) {
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
    pub(super) fn refine(&mut self, weight: ArrayView2<'_, f32>, metric: &Metric) {
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
pub(super) fn round(x: f32, top: f32) -> f32 {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
