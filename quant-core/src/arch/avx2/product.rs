//! Products: bytes widened to 16 bits, where `pmaddwd` is exact (`maddubs` would saturate).

use std::arch::x86_64::*;

use super::{load_16, load_f32, store_f32};
use crate::arch::{Tile, scalar};
use crate::tiles::{Block, PANEL};

#[inline]
#[target_feature(enable = "avx2")]
fn load_i8x16(x: &[i8; 16]) -> __m256i {
    _mm256_cvtepi8_epi16(load_16(&x.map(|b| b as u8)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i32(x: &[i32; 8]) -> __m256i {
    // SAFETY: the array has the 32 bytes read.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_i32(out: &mut [i32; 8], v: __m256i) {
    // SAFETY: the array has the 32 bytes written.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
}

#[target_feature(enable = "avx2")]
pub(in crate::arch) fn dot(a: &[i8], b: &[i8]) -> i32 {
    let mut sums = [_mm256_setzero_si256(); 2];
    let (a16, a_tail) = a.as_chunks::<16>();
    let (b16, b_tail) = b.as_chunks::<16>();
    for (i, (a, b)) in a16.iter().zip(b16).enumerate() {
        let product = _mm256_madd_epi16(load_i8x16(a), load_i8x16(b));
        sums[i % 2] = _mm256_add_epi32(sums[i % 2], product);
    }
    let mut lanes = [0; 8];
    store_i32(&mut lanes, _mm256_add_epi32(sums[0], sums[1]));
    lanes
        .iter()
        .fold(scalar::dot(a_tail, b_tail), |sum, &lane| {
            sum.wrapping_add(lane)
        })
}

/// Calls a kernel whose number of rows is a constant.
macro_rules! by_rows {
    ($rows:expr, $kernel:ident($($arg:expr),*)) => {
        match $rows {
            1 => $kernel::<1>($($arg),*),
            2 => $kernel::<2>($($arg),*),
            3 => $kernel::<3>($($arg),*),
            4 => $kernel::<4>($($arg),*),
            rows => unreachable!("a tile has 1 to 4 rows, found {rows}"),
        }
    };
}

/// Copies the stored part of a row of a panel to the output.
fn store_row<T: Copy, A>(
    tile: &Tile<'_, A>,
    r: usize,
    from: usize,
    values: &[T; 8],
    out: &mut [T],
) {
    if from < tile.columns {
        let n = (tile.columns - from).min(8);
        out[r * tile.stride + from..][..n].copy_from_slice(&values[..n]);
    }
}

#[target_feature(enable = "avx2")]
pub(in crate::arch) fn tile_i32(tile: Tile<'_, u32>, init: &[i32; PANEL], out: &mut [i32]) {
    for eighth in 0..tile.columns.div_ceil(8) {
        by_rows!(tile.rows, tile_i32_rows(tile, eighth, init, out));
    }
}

/// Eight columns: two vectors of sums per row, each of four columns by two halves of the quad.
#[inline]
#[target_feature(enable = "avx2")]
fn tile_i32_rows<const R: usize>(
    tile: Tile<'_, u32>,
    eighth: usize,
    init: &[i32; PANEL],
    out: &mut [i32],
) {
    let mut sums = [[_mm256_setzero_si256(); 2]; R];
    let (quads, _) = tile.a.as_chunks::<R>();
    let (pairs, _) = tile.panel.as_chunks::<2>();
    for (quads, pair) in quads.iter().zip(pairs) {
        let b = columns(pair, eighth).map(|four| load_i8x16(four));
        for (sums, &quad) in sums.iter_mut().zip(quads) {
            let a = _mm256_cvtepu8_epi16(_mm_set1_epi32(quad as i32));
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(a, b[0]));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(a, b[1]));
        }
    }
    let init = load_i32(&init.as_chunks::<8>().0[eighth]);
    for (r, sums) in sums.into_iter().enumerate() {
        // Within 128 bits: columns 0 1 4 5, then 2 3 6 7.
        let v = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(sums[0], sums[1]));
        let mut values = [0; 8];
        store_i32(&mut values, _mm256_add_epi32(v, init));
        store_row(&tile, r, 8 * eighth, &values, out);
    }
}

/// The quads of columns `8 eighth ..`, four and four.
#[inline(always)]
fn columns(pair: &[Block; 2], eighth: usize) -> [&[i8; 16]; 2] {
    let fours = pair[eighth / 2].0.as_chunks::<16>().0;
    [&fours[eighth % 2 * 2], &fours[eighth % 2 * 2 + 1]]
}

#[target_feature(enable = "avx2,fma")]
pub(in crate::arch) fn tile_f32(
    tile: Tile<'_, f32>,
    zero_points: &[i32; PANEL],
    scales: &[f32; PANEL],
    out: &mut [f32],
) {
    for eighth in 0..tile.columns.div_ceil(8) {
        by_rows!(
            tile.rows,
            tile_f32_rows(tile, eighth, zero_points, scales, out)
        );
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn tile_f32_rows<const R: usize>(
    tile: Tile<'_, f32>,
    eighth: usize,
    zero_points: &[i32; PANEL],
    scales: &[f32; PANEL],
    out: &mut [f32],
) {
    let zero_points = load_i32(&zero_points.as_chunks::<8>().0[eighth]);
    let mut sums = [_mm256_setzero_ps(); R];
    let (rows, _) = tile.a.as_chunks::<R>();
    let (rows, _) = rows.as_chunks::<4>();
    let (pairs, _) = tile.panel.as_chunks::<2>();
    for (a, pair) in rows.iter().zip(pairs) {
        let [low, high] = columns(pair, eighth).map(|four| load_16(&four.map(|b| b as u8)));
        let quads = _mm256_set_m128i(high, low);
        step::<R, 24>(&mut sums, &a[0], quads, zero_points);
        step::<R, 16>(&mut sums, &a[1], quads, zero_points);
        step::<R, 8>(&mut sums, &a[2], quads, zero_points);
        step::<R, 0>(&mut sums, &a[3], quads, zero_points);
    }
    let scales = load_f32(&scales.as_chunks::<8>().0[eighth]);
    for (r, sum) in sums.into_iter().enumerate() {
        let mut values = [0.0; 8];
        store_f32(&mut values, _mm256_mul_ps(sum, scales));
        store_row(&tile, r, 8 * eighth, &values, out);
    }
}

/// One k: of each column's quad the byte that `SHIFT` brings to the top, less the zero point, times each row's float.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn step<const R: usize, const SHIFT: i32>(
    sums: &mut [__m256; R],
    a: &[f32; R],
    quads: __m256i,
    zero_points: __m256i,
) {
    let byte = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<SHIFT>(quads));
    let b = _mm256_cvtepi32_ps(_mm256_sub_epi32(byte, zero_points));
    for (sum, &a) in sums.iter_mut().zip(a) {
        *sum = _mm256_fmadd_ps(_mm256_set1_ps(a), b, *sum);
    }
}
