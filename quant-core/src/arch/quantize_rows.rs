//! Rows of activations rounded to signed bytes, a scale for each row and chunk.

use super::simd::{Kernel, Simd};

/// `scale = max |x| / 127`, `byte = round(x / scale)` half to even, for each row of each chunk.
#[derive(Debug)]
pub(crate) struct QuantizeRows<'a> {
    /// `[rows][k]`, k a multiple of `chunk`.
    pub(crate) x: &'a [f32],
    pub(crate) rows: usize,
    /// A multiple of 4.
    pub(crate) chunk: usize,
    /// `[k / 4][rows]`.
    pub(crate) quads: &'a mut [u32],
    /// `[chunks][rows]`.
    pub(crate) scales: &'a mut [f32],
    /// Sums of the bytes, `[chunks][rows]`.
    pub(crate) sums: &'a mut [f32],
}

/// Added to a number of magnitude below 2^22 it leaves the rounded number in the low bits.
const SHIFT: f32 = 12_582_912.0;

impl Kernel for QuantizeRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let rows = self.rows;
        let k = self.x.len() / rows;
        for (r, row) in self.x.chunks(k.max(1)).enumerate() {
            for (c, chunk) in row.chunks(self.chunk).enumerate() {
                let max = largest(chunk);
                let (scale, inverse) = if max > 0.0 {
                    (max / 127.0, 127.0 / max)
                } else {
                    (0.0, 0.0)
                };
                let at = c * self.chunk / 4 * rows;
                let quads = &mut self.quads[at..][..chunk.len() / 4 * rows];
                let mut sum = 0i32;
                for (four, out) in chunk
                    .chunks_exact(64)
                    .zip(quads.chunks_exact_mut(16 * rows))
                {
                    sum += bytes::<64>(four, inverse, rows, r, out);
                }
                let done = chunk.len() / 64 * 64;
                for (four, out) in chunk[done..]
                    .chunks_exact(4)
                    .zip(quads[done / 4 * rows..].chunks_exact_mut(rows))
                {
                    sum += bytes::<4>(four, inverse, rows, r, out);
                }
                self.scales[c * rows + r] = scale;
                self.sums[c * rows + r] = sum as f32;
            }
        }
    }
}

#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        for (m, x) in lanes.iter_mut().zip(x) {
            *m = if x.abs() > *m { x.abs() } else { *m };
        }
    }
    let max = |m: f32, x: f32| if x.abs() > m { x.abs() } else { m };
    rest.iter().chain(&lanes).fold(0.0, |m, &x| max(m, x))
}

/// Rounds `N` numbers, puts them where row r has its quads, and gives their sum.
#[inline(always)]
fn bytes<const N: usize>(x: &[f32], inverse: f32, rows: usize, r: usize, out: &mut [u32]) -> i32 {
    let mut codes = [0u8; N];
    let mut sum = 0i32;
    for (c, x) in codes.iter_mut().zip(x) {
        *c = (x * inverse + SHIFT).to_bits() as u8;
    }
    for c in codes {
        sum += i32::from(c as i8);
    }
    let (quads, _) = codes.as_chunks::<4>();
    for (quad, out) in quads.iter().zip(out.iter_mut().skip(r).step_by(rows)) {
        *out = u32::from_le_bytes(*quad);
    }
    sum
}
