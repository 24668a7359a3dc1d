//! Tiles of products of `f32` rows with dense panels and with panels of low-bit codes, over any [`Simd`].
//!
//! | kernel | rows | weights |
//! |---|---|---|
//! | [`DenseTile`] | `f32`, interleaved | `f32` |
//! | [`CodeTile`] | `f32`, interleaved | codes, made `f32` in registers |
//! | [`IntTile`] | signed bytes, interleaved by quads | codes as unsigned bytes |
//! | [`Expand`] | | codes to `f32` |

use super::simd::{Kernel, LANES, Simd};

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

mod codes;

pub(crate) use codes::{CodeTile, Codes, Expand, IntTile};

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
