//! Panels of low-bit codes, and the tiles that multiply by them or unpack them.

use super::super::simd::{Kernel, LANES, Lanes, Simd};
use super::{Start, chains, join, store_row};

/// A panel of codes, [`PANEL`](super::PANEL) columns.
///
/// K is cut into chunks of `chunk` elements, a multiple of those in a word; within a chunk a column shares a scale. A
/// word holds `32 / bits` codes of one column: byte i of a word has those of `k = i, i + 4, ..` from its low bits up, so
/// that one shift and one mask give the four bytes of a quad.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codes<'a> {
    /// 2, 4 or 8.
    pub(crate) bits: usize,
    pub(crate) chunk: usize,
    /// `[k / (32 / bits)][2]`.
    pub(crate) words: &'a [Lanes<u32>],
    /// `[chunks][2]`.
    pub(crate) scales: &'a [Lanes<f32>],
    /// The code of zero.
    pub(crate) zero: f32,
    /// What is added to it, `[chunks][2]`; empty for nothing.
    pub(crate) offsets: &'a [Lanes<f32>],
}

impl<'a> Codes<'a> {
    /// Words, scale and offset of vector `h` of a chunk.
    #[inline(always)]
    fn chunks(&self) -> impl Iterator<Item = (&'a [[Lanes<u32>; 2]], usize)> {
        let words = (self.chunk * self.bits / 32).max(1);
        let (pairs, _) = self.words.as_chunks::<2>();
        pairs.chunks(words).zip(0..self.scales.len() / 2)
    }
}

/// The codes of one word as `f32`, less zero.
#[inline(always)]
fn code_at<S: Simd, const BITS: usize>(
    s: S,
    word: S::I,
    k: usize,
    table: S::F,
    zero: S::F,
) -> S::F {
    let shift = (8 * (k % 4) + BITS * (k / 4)) as u32;
    if BITS == 8 {
        let code = s.and(s.shift_right(word, shift), s.splat_int(255));
        s.sub(s.to_float(code), zero)
    } else {
        s.small_code(word, shift, (1 << BITS) - 1, table, zero)
    }
}

/// Stores the vectors of every row from `vector` on, no further than `columns`.
#[inline(always)]
fn store_rows<S: Simd, const R: usize, const H: usize>(
    s: S,
    rows: [[S::F; H]; R],
    vector: usize,
    columns: usize,
    (out, stride): (&mut [f32], usize),
) {
    let first = vector * LANES;
    let width = columns.saturating_sub(first).min(H * LANES);
    for (r, row) in rows.into_iter().enumerate() {
        let from = r * stride + first;
        store_row::<S, H>(s, row, &mut out[from..from + width], Start::Zero);
    }
}

#[inline(always)]
fn table<S: Simd>(s: S, bits: usize, zero: f32) -> S::F {
    let levels = 1usize << bits.min(4);
    let values: [f32; LANES] = std::array::from_fn(|i| (i % levels) as f32 - zero);
    s.load(&values)
}

/// `out[r][c] = sum over chunks of scale[c] (sum_k a[k][r] (code[k][c] - zero) - offset[c] sums[r])`.
#[derive(Debug)]
pub(crate) struct CodeTile<'a> {
    /// `[k][rows]`, k padded with zeros as the codes are.
    pub(crate) a: &'a [f32],
    /// Sums over each chunk of `a`, `[chunks][rows]`; read only where there are offsets.
    pub(crate) sums: &'a [f32],
    /// 1 to `Isa::block_rows`.
    pub(crate) rows: usize,
    pub(crate) codes: Codes<'a>,
    /// How many columns are stored, 1 to [`PANEL`](super::PANEL).
    pub(crate) columns: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
}

impl Kernel for CodeTile<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.codes.bits {
            2 => code_rows::<S, 2>(s, &mut self),
            4 => code_rows::<S, 4>(s, &mut self),
            _ => code_rows::<S, 8>(s, &mut self),
        }
    }
}

#[inline(always)]
fn code_rows<S: Simd, const BITS: usize>(s: S, t: &mut CodeTile<'_>) {
    if S::VECTORS == 2 {
        by_few_rows!(t.rows, code::<S, _, BITS, 2>(s, t, 0));
    } else {
        for vector in 0..t.columns.div_ceil(LANES) {
            by_few_rows!(t.rows, code::<S, _, BITS, 1>(s, t, vector));
        }
    }
}

#[inline(always)]
fn code<S: Simd, const R: usize, const BITS: usize, const H: usize>(
    s: S,
    t: &mut CodeTile<'_>,
    vector: usize,
) {
    let c = t.codes;
    let per_word = 32 / BITS;
    let (table, zero) = (table(s, BITS, c.zero), s.splat(c.zero));
    let (a, _) = t.a.as_chunks::<R>();
    let (sums, _) = t.sums.as_chunks::<R>();
    let mut totals = [[s.splat(0.0); H]; R];
    for ((words, at), a) in c.chunks().zip(a.chunks(c.chunk)) {
        let mut sum = [[[s.splat(0.0); H]; R]; 4];
        for (pair, a) in words.iter().zip(a.chunks_exact(per_word)) {
            let mut w = [s.splat_int(0); H];
            for h in 0..H {
                w[h] = s.load_int(&pair[vector + h].0);
            }
            for (k, a) in a.iter().enumerate().take(per_word) {
                let mut b = [zero; H];
                for h in 0..H {
                    b[h] = code_at::<S, BITS>(s, w[h], k, table, zero);
                }
                for r in 0..R {
                    let x = s.splat(a[r]);
                    for h in 0..H {
                        let sum = &mut sum[k % chains(R)][r][h];
                        *sum = s.fma(x, b[h], *sum);
                    }
                }
            }
        }
        for h in 0..H {
            let scale = s.load(&c.scales[2 * at + vector + h].0);
            for (r, totals) in totals.iter_mut().enumerate() {
                let mut v = join::<S, R, H>(s, &sum, r, h);
                if let Some(offset) = c.offsets.get(2 * at + vector + h) {
                    v = s.sub(v, s.mul(s.load(&offset.0), s.splat(sums[at][r])));
                }
                totals[h] = s.fma(scale, v, totals[h]);
            }
        }
    }
    let out = (&mut *t.out, t.out_stride);
    store_rows::<S, R, H>(s, totals, vector, t.columns, out);
}

/// `out[r][c] = sum over chunks of scale[c] a_scale[r] (sum_k a[k][r] code[k][c] - (zero + offset[c]) a_sum[r])`, the inner sum
/// in integers.
#[derive(Debug)]
pub(crate) struct IntTile<'a> {
    /// Signed bytes by quads, `[k / 4][rows]`.
    pub(crate) a: &'a [u32],
    /// `[chunks][rows]`.
    pub(crate) a_scales: &'a [f32],
    /// `[chunks][rows]`, whole numbers.
    pub(crate) a_sums: &'a [f32],
    /// 1 to `Isa::block_rows`.
    pub(crate) rows: usize,
    pub(crate) codes: Codes<'a>,
    pub(crate) columns: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
}

impl Kernel for IntTile<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.codes.bits {
            2 => int_rows::<S, 2>(s, &mut self),
            4 => int_rows::<S, 4>(s, &mut self),
            _ => int_rows::<S, 8>(s, &mut self),
        }
    }
}

#[inline(always)]
fn int_rows<S: Simd, const BITS: usize>(s: S, t: &mut IntTile<'_>) {
    if S::VECTORS == 2 {
        by_few_rows!(t.rows, int::<S, _, BITS, 2>(s, t, 0));
    } else {
        for vector in 0..t.columns.div_ceil(LANES) {
            by_few_rows!(t.rows, int::<S, _, BITS, 1>(s, t, vector));
        }
    }
}

#[inline(always)]
fn int<S: Simd, const R: usize, const BITS: usize, const H: usize>(
    s: S,
    t: &mut IntTile<'_>,
    vector: usize,
) {
    let c = t.codes;
    let quads = 8 / BITS;
    let mask = s.splat_int((u32::MAX >> (32 - BITS)) * 0x0101_0101);
    let (a, _) = t.a.as_chunks::<R>();
    let (a_scales, _) = t.a_scales.as_chunks::<R>();
    let (a_sums, _) = t.a_sums.as_chunks::<R>();
    let mut totals = [[s.splat(0.0); H]; R];
    for ((words, at), a) in c.chunks().zip(a.chunks(c.chunk / 4)) {
        let mut sum = [[[s.splat_int(0); H]; R]; 2];
        for (n, (pair, a)) in words.iter().zip(a.chunks_exact(quads)).enumerate() {
            let mut w = [mask; H];
            for h in 0..H {
                w[h] = s.load_int(&pair[vector + h].0);
            }
            for (q, a) in a.iter().enumerate().take(quads) {
                let mut b = w;
                if BITS < 8 {
                    for h in 0..H {
                        b[h] = s.and(s.shift_right(w[h], (BITS * q) as u32), mask);
                    }
                }
                let chain = if R > 2 { 0 } else { (n * quads + q) % 2 };
                for r in 0..R {
                    let x = s.splat_int(a[r]);
                    for h in 0..H {
                        let sum = &mut sum[chain][r][h];
                        *sum = s.dot(*sum, b[h], x);
                    }
                }
            }
        }
        for h in 0..H {
            let scale = s.load(&c.scales[2 * at + vector + h].0);
            let mut zero = s.splat(c.zero);
            if let Some(offset) = c.offsets.get(2 * at + vector + h) {
                zero = s.add(zero, s.load(&offset.0));
            }
            for (r, totals) in totals.iter_mut().enumerate() {
                let mut v = s.to_float(sum[0][r][h]);
                if R <= 2 {
                    v = s.add(v, s.to_float(sum[1][r][h]));
                }
                v = s.sub(v, s.mul(zero, s.splat(a_sums[at][r])));
                let scale = s.mul(scale, s.splat(a_scales[at][r]));
                totals[h] = s.fma(v, scale, totals[h]);
            }
        }
    }
    let out = (&mut *t.out, t.out_stride);
    store_rows::<S, R, H>(s, totals, vector, t.columns, out);
}

/// `out[k] = (code[k] - (zero + offset)) scale`: `[k][2]`.
#[derive(Debug)]
pub(crate) struct Expand<'a> {
    pub(crate) codes: Codes<'a>,
    pub(crate) out: &'a mut [Lanes<f32>],
}

impl Kernel for Expand<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match self.codes.bits {
            2 => expand::<S, 2>(s, &mut self),
            4 => expand::<S, 4>(s, &mut self),
            _ => expand::<S, 8>(s, &mut self),
        }
    }
}

#[inline(always)]
fn expand<S: Simd, const BITS: usize>(s: S, t: &mut Expand<'_>) {
    let c = t.codes;
    let per_word = 32 / BITS;
    let (table, zero) = (table(s, BITS, c.zero), s.splat(c.zero));
    let (out, _) = t.out.as_chunks_mut::<2>();
    for ((words, at), out) in c.chunks().zip(out.chunks_mut(c.chunk)) {
        for h in 0..2 {
            let scale = s.load(&c.scales[2 * at + h].0);
            let mut offset = zero;
            if let Some(o) = c.offsets.get(2 * at + h) {
                offset = s.load(&o.0);
            }
            for (pair, out) in words.iter().zip(out.chunks_exact_mut(per_word)) {
                let w = s.load_int(&pair[h].0);
                for (k, out) in out.iter_mut().enumerate().take(per_word) {
                    let mut v = code_at::<S, BITS>(s, w, k, table, zero);
                    if !c.offsets.is_empty() {
                        v = s.sub(v, offset);
                    }
                    s.store(s.mul(v, scale), &mut out[h].0);
                }
            }
        }
    }
}
