//! Tiles of products of `f32` rows with dense panels and with panels of low-bit codes, over any [`Simd`].
//!
//! | kernel | rows | weights |
//! |---|---|---|
//! | [`DenseTile`] | `f32`, interleaved | `f32` |
//! | [`CodeTile`] | `f32`, interleaved | codes, made `f32` in registers |
//! | [`IntTile`] | signed bytes, interleaved by quads | codes as unsigned bytes |
//! | [`Expand`] | | codes to `f32` |

use super::simd::{Kernel, LANES, Lanes, Simd};

/// Columns of a panel: two vectors.
pub(crate) const PANEL: usize = 2 * LANES;

/// What a panel starts or goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The output is overwritten.
    Zero,
    /// The product is added to it.
    Output,
}

// No closure stands between a kernel and an operation on vectors: one that is not inlined is compiled without the features of
// the instruction set, and slow.

/// Calls a function whose number of rows is a constant.
macro_rules! by_rows {
    ($rows:expr, $f:ident::<$S:ident, _ $(, $rest:tt)*>($($arg:expr),* $(,)?)) => {
        match $rows {
            1 => $f::<$S, 1 $(, $rest)*>($($arg),*),
            2 => $f::<$S, 2 $(, $rest)*>($($arg),*),
            3 => $f::<$S, 3 $(, $rest)*>($($arg),*),
            4 => $f::<$S, 4 $(, $rest)*>($($arg),*),
            5 => $f::<$S, 5 $(, $rest)*>($($arg),*),
            6 => $f::<$S, 6 $(, $rest)*>($($arg),*),
            7 => $f::<$S, 7 $(, $rest)*>($($arg),*),
            8 => $f::<$S, 8 $(, $rest)*>($($arg),*),
            9 => $f::<$S, 9 $(, $rest)*>($($arg),*),
            10 => $f::<$S, 10 $(, $rest)*>($($arg),*),
            11 => $f::<$S, 11 $(, $rest)*>($($arg),*),
            12 => $f::<$S, 12 $(, $rest)*>($($arg),*),
            rows => unreachable!("a tile has 1 to 12 rows, found {rows}"),
        }
    };
}

/// The same for at most six rows.
macro_rules! by_few_rows {
    ($rows:expr, $f:ident::<$S:ident, _ $(, $rest:tt)*>($($arg:expr),* $(,)?)) => {
        match $rows {
            1 => $f::<$S, 1 $(, $rest)*>($($arg),*),
            2 => $f::<$S, 2 $(, $rest)*>($($arg),*),
            3 => $f::<$S, 3 $(, $rest)*>($($arg),*),
            4 => $f::<$S, 4 $(, $rest)*>($($arg),*),
            5 => $f::<$S, 5 $(, $rest)*>($($arg),*),
            6 => $f::<$S, 6 $(, $rest)*>($($arg),*),
            rows => unreachable!("a tile has 1 to 6 rows, found {rows}"),
        }
    };
}

/// `out[r][c] (+)= sum_k a[k][r] b[k][c]`: fused multiply-adds in the order of k, in one chain for three rows and more, in two
/// or four chains, added up at the end, for fewer.
#[derive(Debug)]
pub(crate) struct DenseTile<'a> {
    /// `[k][rows]`.
    pub(crate) a: &'a [f32],
    /// 1 to `Isa::tile_rows`.
    pub(crate) rows: usize,
    /// Row k of the panel starts at `k * b_stride`.
    pub(crate) b: &'a [f32],
    pub(crate) b_stride: usize,
    /// How many columns there are, 1 to [`PANEL`].
    pub(crate) columns: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    pub(crate) start: Start,
}

impl Kernel for DenseTile<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if S::VECTORS == 2 && self.columns > LANES {
            by_rows!(self.rows, dense::<S, _, 2>(s, &mut self, 0));
        } else {
            for vector in 0..self.columns.div_ceil(LANES) {
                by_rows!(self.rows, dense::<S, _, 1>(s, &mut self, vector));
            }
        }
    }
}

/// The `H` vectors of columns from vector `from` on, `width` columns in all.
#[inline(always)]
fn load_row<S: Simd, const H: usize>(s: S, row: &[f32], width: usize) -> [S::F; H] {
    let mut values = [s.splat(0.0); H];
    for (h, value) in values.iter_mut().enumerate() {
        let (from, to) = ((h * LANES).min(row.len()), width.min(row.len()));
        *value = match row[from..].first_chunk::<LANES>() {
            Some(whole) if width >= (h + 1) * LANES => s.load(whole),
            _ => s.load_part(&row[from..to]),
        };
    }
    values
}

#[inline(always)]
fn store_row<S: Simd, const H: usize>(s: S, values: [S::F; H], out: &mut [f32], start: Start) {
    for (h, v) in values.into_iter().enumerate() {
        let Some(part) = out.get_mut(h * LANES..) else {
            return;
        };
        match (part.first_chunk_mut::<LANES>(), start) {
            (Some(whole), Start::Zero) => s.store(v, whole),
            (Some(whole), Start::Output) => {
                let sum = s.add(s.load(whole), v);
                s.store(sum, whole);
            }
            (None, Start::Zero) => s.store_part(v, part),
            (None, Start::Output) => {
                let sum = s.add(s.load_part(part), v);
                s.store_part(sum, part);
            }
        }
    }
}

/// Sums of few rows are kept in several chains, or each would wait for the one before.
const fn chains(rows: usize) -> usize {
    match rows {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

#[inline(always)]
fn join<S: Simd, const R: usize, const H: usize>(
    s: S,
    sums: &[[[S::F; H]; R]; 4],
    r: usize,
    h: usize,
) -> S::F {
    match chains(R) {
        4 => s.add(
            s.add(sums[0][r][h], sums[1][r][h]),
            s.add(sums[2][r][h], sums[3][r][h]),
        ),
        2 => s.add(sums[0][r][h], sums[1][r][h]),
        _ => sums[0][r][h],
    }
}

#[inline(always)]
fn dense<S: Simd, const R: usize, const H: usize>(s: S, t: &mut DenseTile<'_>, vector: usize) {
    let first = vector * LANES;
    let width = (t.columns - first).min(H * LANES);
    let mut sums = [[[s.splat(0.0); H]; R]; 4];
    let (a, _) = t.a.as_chunks::<R>();
    let b = t.b.get(first..).unwrap_or(&[]);
    if width == H * LANES {
        step::<S, R, H>(s, a, b, t.b_stride, H * LANES, &mut sums);
    } else {
        step::<S, R, H>(s, a, b, t.b_stride, width, &mut sums);
    }
    for r in 0..R {
        let mut values = [s.splat(0.0); H];
        for (h, value) in values.iter_mut().enumerate() {
            *value = join::<S, R, H>(s, &sums, r, h);
        }
        let from = r * t.out_stride + first;
        store_row::<S, H>(s, values, &mut t.out[from..from + width], t.start);
    }
}

#[inline(always)]
fn step<S: Simd, const R: usize, const H: usize>(
    s: S,
    a: &[[f32; R]],
    b: &[f32],
    stride: usize,
    width: usize,
    sums: &mut [[[S::F; H]; R]; 4],
) {
    let chains = chains(R);
    let rows = b.chunks(stride.max(1));
    if chains == 1 {
        for (a, row) in a.iter().zip(rows) {
            let b = load_row::<S, H>(s, row, width);
            for r in 0..R {
                let x = s.splat(a[r]);
                for h in 0..H {
                    sums[0][r][h] = s.fma(x, b[h], sums[0][r][h]);
                }
            }
        }
        return;
    }
    let (groups, rest) = a.as_chunks::<4>();
    let mut rows = rows;
    for group in groups {
        for (k, a) in group.iter().enumerate() {
            let b = load_row::<S, H>(s, rows.next().unwrap_or(&[]), width);
            for r in 0..R {
                let x = s.splat(a[r]);
                for h in 0..H {
                    let sum = &mut sums[k % chains][r][h];
                    *sum = s.fma(x, b[h], *sum);
                }
            }
        }
    }
    for (a, row) in rest.iter().zip(rows) {
        let b = load_row::<S, H>(s, row, width);
        for r in 0..R {
            let x = s.splat(a[r]);
            for h in 0..H {
                sums[0][r][h] = s.fma(x, b[h], sums[0][r][h]);
            }
        }
    }
}

/// [`DenseTile`] for rows as they are, not interleaved, and a whole panel whose rows follow each other.
#[derive(Debug)]
pub(crate) struct RowTile<'a> {
    /// Row r starts at `r * a_stride` and is as long as the panel has rows.
    pub(crate) a: &'a [f32],
    pub(crate) a_stride: usize,
    /// 1 to `Isa::tile_rows`.
    pub(crate) rows: usize,
    /// `[k][PANEL]`.
    pub(crate) b: &'a [[f32; PANEL]],
    /// How many columns are stored, 1 to [`PANEL`].
    pub(crate) columns: usize,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_stride: usize,
    pub(crate) start: Start,
}

impl Kernel for RowTile<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if S::VECTORS == 2 {
            by_rows!(self.rows, whole_rows::<S, _, 2>(s, &mut self, 0));
        } else {
            for vector in 0..self.columns.div_ceil(LANES) {
                by_rows!(self.rows, whole_rows::<S, _, 1>(s, &mut self, vector));
            }
        }
    }
}

#[inline(always)]
fn whole_rows<S: Simd, const R: usize, const H: usize>(s: S, t: &mut RowTile<'_>, vector: usize) {
    let mut rows: [(&[[f32; LANES]], &[f32]); R] = [(&[], &[]); R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = t.a[r * t.a_stride..][..t.b.len()].as_chunks();
    }
    let (groups, rest) = t.b.as_chunks::<LANES>();
    let mut sums = [[[s.splat(0.0); H]; R]; 4];
    for (at, group) in groups.iter().enumerate() {
        let mut a: [&[f32; LANES]; R] = [&[0.0; LANES]; R];
        for (a, (chunks, _)) in a.iter_mut().zip(&rows) {
            *a = &chunks[at];
        }
        for (k, row) in group.iter().enumerate() {
            let (vectors, _) = row.as_chunks::<LANES>();
            for r in 0..R {
                let x = s.splat(a[r][k]);
                for h in 0..H {
                    let sum = &mut sums[k % chains(R)][r][h];
                    *sum = s.fma(x, s.load(&vectors[vector + h]), *sum);
                }
            }
        }
    }
    for (k, row) in rest.iter().enumerate() {
        let (vectors, _) = row.as_chunks::<LANES>();
        for r in 0..R {
            let x = s.splat(rows[r].1[k]);
            for h in 0..H {
                sums[0][r][h] = s.fma(x, s.load(&vectors[vector + h]), sums[0][r][h]);
            }
        }
    }
    let first = vector * LANES;
    let width = (t.columns - first.min(t.columns)).min(H * LANES);
    for r in 0..R {
        let mut values = [s.splat(0.0); H];
        for (h, value) in values.iter_mut().enumerate() {
            *value = join::<S, R, H>(s, &sums, r, h);
        }
        let from = r * t.out_stride + first;
        store_row::<S, H>(s, values, &mut t.out[from..from + width], t.start);
    }
}

/// A panel of codes, [`PANEL`] columns.
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
    /// How many columns are stored, 1 to [`PANEL`].
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
    let width = (t.columns - (vector * LANES).min(t.columns)).min(H * LANES);
    for (r, total) in totals.into_iter().enumerate() {
        let from = r * t.out_stride + vector * LANES;
        store_row::<S, H>(s, total, &mut t.out[from..from + width], Start::Zero);
    }
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
    let width = (t.columns - (vector * LANES).min(t.columns)).min(H * LANES);
    for (r, total) in totals.into_iter().enumerate() {
        let from = r * t.out_stride + vector * LANES;
        store_row::<S, H>(s, total, &mut t.out[from..from + width], Start::Zero);
    }
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
