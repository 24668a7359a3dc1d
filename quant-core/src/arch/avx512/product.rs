//! Products: `vpdpbusd` takes 4 unsigned by 4 signed bytes into each of 16 sums.

use std::arch::x86_64::*;

use super::{load_f32, mask16};
use crate::arch::Tile;
use crate::tiles::{Block, PANEL};

#[inline]
#[target_feature(enable = "avx512bw")]
fn load_i8(x: &[i8; 64]) -> __m512i {
    // SAFETY: the array has the 64 bytes read.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The first 64 elements of `x`, zeros where it is shorter.
#[inline]
#[target_feature(enable = "avx512bw")]
fn load_i8_part(x: &[i8]) -> __m512i {
    let mask = ((1u128 << x.len().min(64)) - 1) as __mmask64;
    // SAFETY: the mask covers no element beyond the slice.
    unsafe { _mm512_maskz_loadu_epi8(mask, x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_i32(x: &[i32; 16]) -> __m512i {
    // SAFETY: the array has the 64 bytes read.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// Stores as many of the 16 lanes as `out` holds.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_i32(out: &mut [i32], v: __m512i) {
    // SAFETY: the mask covers no element beyond the slice.
    unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr(), mask16(out.len().min(16)), v) }
}

/// Stores as many of the 16 lanes as `out` holds.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_f32(out: &mut [f32], v: __m512) {
    // SAFETY: the mask covers no element beyond the slice.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask16(out.len().min(16)), v) }
}

/// The halves of a panel-wide array.
fn halves<T>(x: &[T; PANEL]) -> [&[T; 16]; 2] {
    match x.as_chunks::<16>().0 {
        [a, b] => [a, b],
        _ => unreachable!("a panel is two vectors wide"),
    }
}

/// With `a + 128` unsigned, `sum a b = sum (a + 128) b - 128 sum b`, exact modulo 2^32.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::arch) fn dot(a: &[i8], b: &[i8]) -> i32 {
    let flip = _mm512_set1_epi8(-128);
    let ones = _mm512_set1_epi8(1);
    let mut sums = [_mm512_setzero_si512(); 4];
    let mut b_sums = [_mm512_setzero_si512(); 2];
    let (a4, a_tail) = a.as_chunks::<256>();
    let (b4, b_tail) = b.as_chunks::<256>();
    for (a, b) in a4.iter().zip(b4) {
        for (i, (a, b)) in a
            .as_chunks::<64>()
            .0
            .iter()
            .zip(b.as_chunks::<64>().0)
            .enumerate()
        {
            let b = load_i8(b);
            sums[i] = _mm512_dpbusd_epi32(sums[i], _mm512_xor_si512(load_i8(a), flip), b);
            b_sums[i % 2] = _mm512_dpbusd_epi32(b_sums[i % 2], ones, b);
        }
    }
    for (a, b) in a_tail.chunks(64).zip(b_tail.chunks(64)) {
        let b = load_i8_part(b);
        sums[0] = _mm512_dpbusd_epi32(sums[0], _mm512_xor_si512(load_i8_part(a), flip), b);
        b_sums[0] = _mm512_dpbusd_epi32(b_sums[0], ones, b);
    }
    let sum = _mm512_add_epi32(
        _mm512_add_epi32(sums[0], sums[1]),
        _mm512_add_epi32(sums[2], sums[3]),
    );
    let b_sum = _mm512_add_epi32(b_sums[0], b_sums[1]);
    _mm512_reduce_add_epi32(_mm512_sub_epi32(sum, _mm512_slli_epi32::<7>(b_sum)))
}

/// Calls a kernel whose number of rows is a constant.
macro_rules! by_rows {
    ($rows:expr, $kernel:ident($($arg:expr),*)) => {
        match $rows {
            1 => $kernel::<1>($($arg),*),
            2 => $kernel::<2>($($arg),*),
            3 => $kernel::<3>($($arg),*),
            4 => $kernel::<4>($($arg),*),
            5 => $kernel::<5>($($arg),*),
            6 => $kernel::<6>($($arg),*),
            7 => $kernel::<7>($($arg),*),
            8 => $kernel::<8>($($arg),*),
            9 => $kernel::<9>($($arg),*),
            10 => $kernel::<10>($($arg),*),
            11 => $kernel::<11>($($arg),*),
            12 => $kernel::<12>($($arg),*),
            rows => unreachable!("a tile has 1 to 12 rows, found {rows}"),
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::arch) fn tile_i32(tile: Tile<'_, u32>, init: &[i32; PANEL], out: &mut [i32]) {
    by_rows!(tile.rows, tile_i32_rows(tile, init, out));
}

/// `R x 2` sums in registers; one row alone takes four steps of k at once to keep enough sums going.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn tile_i32_rows<const R: usize>(tile: Tile<'_, u32>, init: &[i32; PANEL], out: &mut [i32]) {
    let init = halves(init).map(|half| load_i32(half));
    let mut sums = [init; R];
    let (quads, _) = tile.a.as_chunks::<R>();
    let (pairs, _) = tile.panel.as_chunks::<2>();
    if R == 1 {
        let mut more = [[_mm512_setzero_si512(); 2]; 4];
        let (quads4, quads_tail) = quads.as_chunks::<4>();
        let (pairs4, pairs_tail) = pairs.as_chunks::<4>();
        for (quads, pairs) in quads4.iter().zip(pairs4) {
            for ((sums, a), b) in more.iter_mut().zip(quads).zip(pairs) {
                multiply_add(std::slice::from_mut(sums), a, b);
            }
        }
        for (a, b) in quads_tail.iter().zip(pairs_tail) {
            multiply_add(&mut sums, a, b);
        }
        for [left, right] in more {
            sums[0][0] = _mm512_add_epi32(sums[0][0], left);
            sums[0][1] = _mm512_add_epi32(sums[0][1], right);
        }
    } else {
        for (a, b) in quads.iter().zip(pairs) {
            multiply_add(&mut sums, a, b);
        }
    }
    for (r, [left, right]) in sums.into_iter().enumerate() {
        let row = &mut out[r * tile.stride..][..tile.columns];
        let (first, second) = row.split_at_mut(tile.columns.min(16));
        store_i32(first, left);
        store_i32(second, right);
    }
}

#[inline(always)]
fn words(quads: &[u32]) -> impl Iterator<Item = i32> {
    quads.iter().map(|&q| q as i32)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn multiply_add(sums: &mut [[__m512i; 2]], a: &[u32], b: &[Block; 2]) {
    let b = [load_i8(&b[0].0), load_i8(&b[1].0)];
    for (sums, a) in sums.iter_mut().zip(words(a)) {
        let a = _mm512_set1_epi32(a);
        sums[0] = _mm512_dpbusd_epi32(sums[0], a, b[0]);
        sums[1] = _mm512_dpbusd_epi32(sums[1], a, b[1]);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::arch) fn tile_f32(
    tile: Tile<'_, f32>,
    zero_points: &[i32; PANEL],
    scales: &[f32; PANEL],
    out: &mut [f32],
) {
    by_rows!(tile.rows, tile_f32_rows(tile, zero_points, scales, out));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn tile_f32_rows<const R: usize>(
    tile: Tile<'_, f32>,
    zero_points: &[i32; PANEL],
    scales: &[f32; PANEL],
    out: &mut [f32],
) {
    let zero_points = halves(zero_points).map(|half| load_i32(half));
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    let (rows, _) = tile.a.as_chunks::<R>();
    let (rows, _) = rows.as_chunks::<4>();
    let (pairs, _) = tile.panel.as_chunks::<2>();
    for (a, b) in rows.iter().zip(pairs) {
        let b = [load_i8(&b[0].0), load_i8(&b[1].0)];
        step::<R, 24>(&mut sums, &a[0], b, zero_points);
        step::<R, 16>(&mut sums, &a[1], b, zero_points);
        step::<R, 8>(&mut sums, &a[2], b, zero_points);
        step::<R, 0>(&mut sums, &a[3], b, zero_points);
    }
    let scales = halves(scales).map(|half| load_f32(half));
    for (r, [left, right]) in sums.into_iter().enumerate() {
        let row = &mut out[r * tile.stride..][..tile.columns];
        let (first, second) = row.split_at_mut(tile.columns.min(16));
        store_f32(first, _mm512_mul_ps(left, scales[0]));
        store_f32(second, _mm512_mul_ps(right, scales[1]));
    }
}

/// One k: of each column's quad the byte that `SHIFT` brings to the top, less the zero point, times each row's float.
#[inline]
#[target_feature(enable = "avx512f")]
fn step<const R: usize, const SHIFT: u32>(
    sums: &mut [[__m512; 2]; R],
    a: &[f32; R],
    b: [__m512i; 2],
    zero_points: [__m512i; 2],
) {
    let weight = |h: usize| {
        let byte = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<SHIFT>(b[h]));
        _mm512_cvtepi32_ps(_mm512_sub_epi32(byte, zero_points[h]))
    };
    let b = [weight(0), weight(1)];
    for (sums, &a) in sums.iter_mut().zip(a) {
        let a = _mm512_set1_ps(a);
        sums[0] = _mm512_fmadd_ps(a, b[0], sums[0]);
        sums[1] = _mm512_fmadd_ps(a, b[1], sums[1]);
    }
}
