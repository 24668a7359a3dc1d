//! Fake quantization on grids of few levels with one step for every block.

use pulp::NullaryFnOnce;
use rayon::prelude::*;

use crate::blocks::{Levels, scale_of, step_of};
use crate::finetune::kernels::vectorized;
use crate::recognise::{BlockExtent, BlockValues};

/// Blocks that one task of a parallel loop takes at least.
const GRAIN: usize = 256;

/// The forward pass of a matrix of few levels in floating point, and gradients for what it does not let through.
///
/// Of every block the root of its scale is learned. With `u = max root / 255` over the matrix, the forward pass has the
/// step `p = round(root / u)` in 1..=255, the scale `s = (p u)^2`, the code `q = round(clamp(w / s + z, 0, L - 1)) - z`
/// and the value `q s`: what a file computes from the integers `p`, `q` and the number `u`.
///
/// | `w / s + z` | gradient of `w` | of the root |
/// |---|---|---|
/// | within the grid, ends included | `g` | `g (q - w / s) 2 p u` |
/// | outside | 0 | `g q 2 p u` |
///
/// The root's gradient is summed over its block and multiplied by `1 / sqrt(n (L - 1) / 2)`.
///
/// # Source
/// Esser et al. 2020, arXiv 1902.08153, equation 3 and section 2.2, with `s = root^2` and the rounding of the root itself
/// let through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GridQuant {
    extent: BlockExtent,
    levels: Levels,
}

/// Adding and subtracting it rounds an f32 below 2^22 to an integer, halves to even.
const MAGIC: f32 = 12_582_912.0;

impl GridQuant {
    pub(super) fn new(extent: BlockExtent, levels: Levels) -> Self {
        Self { extent, levels }
    }

    /// The same for another number of outer indices.
    pub(super) fn with_outer(self, outer: usize) -> Self {
        let extent = BlockExtent {
            outer,
            ..self.extent
        };
        Self { extent, ..self }
    }

    /// What steps are multiplied by, from the roots of the whole matrix.
    pub(super) fn unit(roots: &[f32]) -> f32 {
        (roots.iter().copied().fold(0.0, f32::max) / 255.0).max(f32::MIN_POSITIVE.sqrt())
    }

    fn step(root: f32, unit: f32) -> u8 {
        step_of(root * root, unit)
    }

    fn scales(&self, roots: &[f32], unit: f32) -> Vec<f32> {
        roots
            .iter()
            .map(|&r| scale_of(Self::step(r, unit), unit))
            .collect()
    }

    /// `(w / s + z clamped, whether it was within)`.
    #[inline(always)]
    fn place(w: f32, scale: f32, zero: f32) -> (f32, f32, f32) {
        let v = w / scale;
        let inside = (v + zero).max(0.0).min(2.0 * zero);
        let code = (inside + MAGIC) - MAGIC;
        (v, inside, code)
    }

    /// `out` becomes the values of the forward pass.
    pub(super) fn forward(&self, w: &[f32], roots: &[f32], unit: f32, out: &mut [f32]) {
        let (zero, scales) = (self.levels.zero(), self.scales(roots, unit));
        let BlockExtent { block, inner, .. } = self.extent;
        out.par_chunks_mut((block * inner).max(1))
            .zip(w.par_chunks((block * inner).max(1)))
            .zip(scales.par_chunks(inner.max(1)))
            .with_min_len((GRAIN / inner.max(1)).max(1))
            .for_each(|((out, w), scales)| {
                if let [scale] = scales {
                    vectorized(Rounded {
                        w,
                        scale: *scale,
                        zero,
                        out,
                    });
                    return;
                }
                vectorized(|| {
                    for (out, w) in out.chunks_mut(inner).zip(w.chunks(inner)) {
                        for ((out, &w), &scale) in out.iter_mut().zip(w).zip(scales) {
                            *out = (Self::place(w, scale, zero).2 - zero) * scale;
                        }
                    }
                });
            });
    }

    /// Turns the gradient of the values into that of `w`, and adds the gradients of the roots to theirs.
    pub(super) fn backward(
        &self,
        w: &[f32],
        roots: &[f32],
        unit: f32,
        gradient: &mut [f32],
        d_roots: &mut [f32],
    ) {
        let (zero, scales) = (self.levels.zero(), self.scales(roots, unit));
        let BlockExtent { block, inner, .. } = self.extent;
        let factor = 1.0 / (block as f32 * zero.max(0.5)).sqrt();
        gradient
            .par_chunks_mut((block * inner).max(1))
            .zip(w.par_chunks((block * inner).max(1)))
            .zip(scales.par_chunks(inner.max(1)))
            .zip(d_roots.par_chunks_mut(inner.max(1)))
            .with_min_len((GRAIN / inner.max(1)).max(1))
            .for_each(|(((g, w), scales), d_roots)| {
                let mut sums = vec![0.0f32; inner];
                if let ([scale], [sum]) = (scales, sums.as_mut_slice()) {
                    *sum = vectorized(Pulled {
                        w,
                        scale: *scale,
                        zero,
                        g,
                    });
                } else {
                    vectorized(|| {
                        for (g, w) in g.chunks_mut(inner.max(1)).zip(w.chunks(inner.max(1))) {
                            let each = g.iter_mut().zip(w).zip(scales).zip(&mut sums);
                            for (((g, &w), &scale), sum) in each {
                                *sum += pull(w, scale, zero, g);
                            }
                        }
                    });
                }
                for ((d, sum), &scale) in d_roots.iter_mut().zip(sums).zip(scales) {
                    *d += sum * 2.0 * scale.sqrt() * factor;
                }
            });
    }

    /// The integers of the forward pass.
    pub(super) fn quantize(&self, w: &[f32], roots: &[f32]) -> BlockValues {
        let (zero, unit) = (self.levels.zero(), Self::unit(roots));
        let scales = self.scales(roots, unit);
        let BlockExtent { block, inner, .. } = self.extent;
        let rows = (block * inner).max(1);
        let codes = w
            .iter()
            .enumerate()
            .map(|(i, &w)| {
                Self::place(w, scales[i / rows * inner + i % rows % inner.max(1)], zero).2 as u8
            })
            .collect();
        BlockValues {
            codes,
            steps: roots.iter().map(|&r| Self::step(r, unit)).collect(),
            unit,
        }
    }

    /// Roots whose scales leave the least squared error, each among 40 parts of the one that clips nothing.
    pub(super) fn observe(&self, w: &[f32], roots: &mut [f32]) {
        let zero = self.levels.zero();
        let BlockExtent { block, inner, .. } = self.extent;
        roots.par_iter_mut().enumerate().for_each(|(g, root)| {
            let (o, i) = (g / inner.max(1), g % inner.max(1));
            let values = || (0..block).map(move |b| w[(o * block + b) * inner + i]);
            let largest = values().fold(0.0f32, |m, v| m.max(v.abs()));
            if largest == 0.0 {
                return;
            }
            let mut best = (f32::INFINITY, *root);
            for part in 12..=52 {
                let scale = largest / zero * part as f32 / 52.0;
                let error = values()
                    .map(|v| ((Self::place(v, scale, zero).2 - zero) * scale - v).powi(2))
                    .sum();
                if error < best.0 {
                    best = (error, scale.sqrt());
                }
            }
            *root = best.1;
        });
    }
}

/// What a block gives to its scale's gradient for one weight; `g` becomes the weight's own.
#[inline(always)]
fn pull(w: f32, scale: f32, zero: f32, g: &mut f32) -> f32 {
    let (v, inside, code) = GridQuant::place(w, scale, zero);
    let kept = inside == v + zero;
    let pulled = *g * if kept { code - zero - v } else { code - zero };
    *g = if kept { *g } else { 0.0 };
    pulled
}

/// The forward pass of a block with one scale.
struct Rounded<'a> {
    w: &'a [f32],
    scale: f32,
    zero: f32,
    out: &'a mut [f32],
}

impl NullaryFnOnce for Rounded<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (out, &w) in self.out.iter_mut().zip(self.w) {
            *out = (GridQuant::place(w, self.scale, self.zero).2 - self.zero) * self.scale;
        }
    }
}

/// The backward pass of a block with one scale.
struct Pulled<'a> {
    w: &'a [f32],
    scale: f32,
    zero: f32,
    g: &'a mut [f32],
}

impl NullaryFnOnce for Pulled<'_> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        // Eight interleaved parts, so that the sum too is one of vectors.
        let mut parts = [0.0f32; 8];
        let (rows, rest) = self.g.as_chunks_mut::<8>();
        let (weights, last) = self.w.as_chunks::<8>();
        for (g, w) in rows.iter_mut().zip(weights) {
            for ((g, &w), part) in g.iter_mut().zip(w).zip(&mut parts) {
                *part += pull(w, self.scale, self.zero, g);
            }
        }
        for (g, &w) in rest.iter_mut().zip(last) {
            parts[0] += pull(w, self.scale, self.zero, g);
        }
        parts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finetune::kernels::tests::sequence;

    fn quant(levels: Levels) -> GridQuant {
        let extent = BlockExtent {
            outer: 3,
            block: 5,
            inner: 4,
        };
        GridQuant::new(extent, levels)
    }

    #[test]
    fn the_forward_pass_is_what_its_integers_stand_for() {
        for levels in Levels::ALL {
            let grid = quant(levels);
            let w = sequence(60, 3);
            let mut roots = vec![0.3; 12];
            grid.observe(&w, &mut roots);
            let unit = GridQuant::unit(&roots);
            let mut out = vec![0.0; 60];
            grid.forward(&w, &roots, unit, &mut out);
            let stored = grid.quantize(&w, &roots);
            assert_eq!(stored.unit, unit);
            for (i, value) in out.iter().enumerate() {
                let step = stored.steps[i / 20 * 4 + i % 4];
                let expected =
                    (f32::from(stored.codes[i]) - levels.zero()) * scale_of(step, stored.unit);
                assert_eq!(*value, expected, "{levels:?} {i}");
            }
            // On the grid, nothing moves.
            let mut again = vec![0.0; 60];
            grid.forward(&out, &roots, unit, &mut again);
            assert_eq!(out, again, "{levels:?}");
        }
    }

    /// With the roundings let through, values within the grid have the gradient of `w`, and a value beyond it that of `q root^2`.
    #[test]
    fn gradients_are_those_of_the_table() {
        let extent = BlockExtent {
            outer: 1,
            block: 3,
            inner: 1,
        };
        let grid = GridQuant::new(extent, Levels::L4);
        let (w, root) = ([0.3f32, -0.2, 9.0], 0.5f32);
        let unit = GridQuant::unit(&[root]);
        let (mut g, mut d) = ([1.0f32, 2.0, 3.0], [0.0f32]);
        grid.backward(&w, &[root], unit, &mut g, &mut d);
        assert_eq!(g, [1.0, 2.0, 0.0]);
        let by_scale = (1.5 - 1.2) + 2.0 * (-0.5 + 0.8) + 3.0 * 1.5;
        let expected = by_scale * 2.0 * root / (3.0f32 * 1.5).sqrt();
        assert!((d[0] - expected).abs() < 1e-4, "{} {expected}", d[0]);
    }
}
