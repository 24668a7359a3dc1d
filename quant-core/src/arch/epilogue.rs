//! Bias and activation, in place.

use super::simd::{Kernel, LANES, Simd};
use crate::low_bit::Activation;

/// `out[r][c] = f(out[r][c] + bias[c])`.
#[derive(Debug)]
pub(crate) struct Epilogue<'a> {
    /// Rows of `width` elements.
    pub(crate) out: &'a mut [f32],
    pub(crate) width: usize,
    /// `width` elements, or none.
    pub(crate) bias: &'a [f32],
    pub(crate) activation: Activation,
}

impl Kernel for Epilogue<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.out.chunks_mut(self.width.max(1)) {
            for from in (0..row.len()).step_by(LANES) {
                let to = (from + LANES).min(row.len());
                let mut v = s.load_part(&row[from..to]);
                if let Some(bias) = self.bias.get(from..to) {
                    v = s.add(v, s.load_part(bias));
                }
                v = match self.activation {
                    Activation::None => v,
                    Activation::Relu => s.max(v, s.splat(0.0)),
                    Activation::Gelu => gelu(s, v),
                };
                s.store_part(v, &mut row[from..to]);
            }
        }
    }
}

/// Beyond this the error function is one in `f32`.
const LIMIT: f32 = 3.95;

/// `erf(x) / x` over `u = 2 x^2 / LIMIT^2 - 1`, lowest power first: interpolated at 400 Chebyshev points, degree 14. The
/// error of `erf` in `f32` is below 4e-7.
const ERF: [f32; 15] = [
    0.358_000_76,
    -0.178_770_45,
    0.133_178_26,
    -0.108_603_73,
    0.090_455_845,
    -0.074_685_87,
    0.059_136_97,
    -0.042_609_316,
    0.030_414_645,
    -0.025_054_716,
    0.015_357_088,
    -0.002_745_936_2,
    0.001_803_396_7,
    -0.005_137_218,
    0.002_424_860_1,
];

/// `x / 2 (1 + erf(x / sqrt 2))`.
#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    let z = s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let z = s.max(s.min(z, s.splat(LIMIT)), s.splat(-LIMIT));
    let u = s.fma(s.mul(z, z), s.splat(2.0 / (LIMIT * LIMIT)), s.splat(-1.0));
    let mut p = s.splat(ERF[14]);
    for &c in ERF[..14].iter().rev() {
        p = s.fma(p, u, s.splat(c));
    }
    let half = s.mul(x, s.splat(0.5));
    s.fma(half, s.mul(p, z), half)
}
