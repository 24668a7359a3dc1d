//! Products: `sdot` takes 4 by 4 signed bytes into each of 4 sums.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{load_16, load_f32, store_f32};
use crate::arch::{Tile, scalar};
use crate::tiles::{Block, PANEL};

#[inline]
#[target_feature(enable = "neon")]
fn load_i8(x: &[i8; 16]) -> int8x16_t {
    vreinterpretq_s8_u8(load_16(&x.map(|b| b as u8)))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_i32(x: &[i32; 4]) -> int32x4_t {
    // SAFETY: the array has the 16 bytes read.
    unsafe { vld1q_s32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_i32(out: &mut [i32; 4], v: int32x4_t) {
    // SAFETY: the array has the 16 bytes written.
    unsafe { vst1q_s32(out.as_mut_ptr(), v) }
}

/// `sum + a . b` in every lane; the intrinsic is not stable at this crate's minimum Rust version.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction on registers alone, of a feature this function has.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

#[target_feature(enable = "neon,dotprod")]
pub(in crate::arch) fn dot(a: &[i8], b: &[i8]) -> i32 {
    let mut sums = [vdupq_n_s32(0); 4];
    let (a16, a_tail) = a.as_chunks::<16>();
    let (b16, b_tail) = b.as_chunks::<16>();
    for (i, (a, b)) in a16.iter().zip(b16).enumerate() {
        sums[i % 4] = sdot(sums[i % 4], load_i8(a), load_i8(b));
    }
    let sum = vaddq_s32(vaddq_s32(sums[0], sums[1]), vaddq_s32(sums[2], sums[3]));
    vaddvq_s32(sum).wrapping_add(scalar::dot(a_tail, b_tail))
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

/// Copies the stored part of four columns of a row to the output.
fn store_row<T: Copy, A>(tile: &Tile<'_, A>, r: usize, from: usize, values: [T; 4], out: &mut [T]) {
    if from < tile.columns {
        let n = (tile.columns - from).min(4);
        out[r * tile.stride + from..][..n].copy_from_slice(&values[..n]);
    }
}

#[target_feature(enable = "neon,dotprod")]
pub(in crate::arch) fn tile_i32(tile: Tile<'_, u32>, init: &[i32; PANEL], out: &mut [i32]) {
    for half in 0..tile.columns.div_ceil(16) {
        by_rows!(tile.rows, tile_i32_rows(tile, half, init, out));
    }
}

/// Sixteen columns: four vectors of sums per row.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn tile_i32_rows<const R: usize>(
    tile: Tile<'_, u32>,
    half: usize,
    init: &[i32; PANEL],
    out: &mut [i32],
) {
    let init = &init.as_chunks::<4>().0[4 * half..];
    let mut sums = [[
        load_i32(&init[0]),
        load_i32(&init[1]),
        load_i32(&init[2]),
        load_i32(&init[3]),
    ]; R];
    let (quads, _) = tile.a.as_chunks::<R>();
    let (pairs, _) = tile.panel.as_chunks::<2>();
    for (quads, pair) in quads.iter().zip(pairs) {
        let b = fours(&pair[half]);
        for (sums, &quad) in sums.iter_mut().zip(quads) {
            let a = vreinterpretq_s8_u32(vdupq_n_u32(quad));
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = sdot(*sum, a, b);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (i, sum) in sums.into_iter().enumerate() {
            let mut values = [0; 4];
            store_i32(&mut values, sum);
            store_row(&tile, r, 16 * half + 4 * i, values, out);
        }
    }
}

/// A block as four vectors of four columns.
#[inline]
#[target_feature(enable = "neon")]
fn fours(block: &Block) -> [int8x16_t; 4] {
    let parts = block.0.as_chunks::<16>().0;
    [
        load_i8(&parts[0]),
        load_i8(&parts[1]),
        load_i8(&parts[2]),
        load_i8(&parts[3]),
    ]
}

#[target_feature(enable = "neon")]
pub(in crate::arch) fn tile_f32(
    tile: Tile<'_, f32>,
    zero_points: &[i32; PANEL],
    scales: &[f32; PANEL],
    out: &mut [f32],
) {
    for half in 0..tile.columns.div_ceil(16) {
        by_rows!(
            tile.rows,
            tile_f32_rows(tile, half, zero_points, scales, out)
        );
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn tile_f32_rows<const R: usize>(
    tile: Tile<'_, f32>,
    half: usize,
    zero_points: &[i32; PANEL],
    scales: &[f32; PANEL],
    out: &mut [f32],
) {
    let zero_points = &zero_points.as_chunks::<4>().0[4 * half..];
    let scales = &scales.as_chunks::<4>().0[4 * half..];
    let mut sums = [[vdupq_n_f32(0.0); 4]; R];
    let (rows, _) = tile.a.as_chunks::<R>();
    let (rows, _) = rows.as_chunks::<4>();
    let (pairs, _) = tile.panel.as_chunks::<2>();
    for (a, pair) in rows.iter().zip(pairs) {
        for (i, b) in fours(&pair[half]).into_iter().enumerate() {
            let (quads, z) = (vreinterpretq_s32_s8(b), load_i32(&zero_points[i]));
            step(&mut sums, i, &a[0], vshlq_n_s32::<24>(quads), z);
            step(&mut sums, i, &a[1], vshlq_n_s32::<16>(quads), z);
            step(&mut sums, i, &a[2], vshlq_n_s32::<8>(quads), z);
            step(&mut sums, i, &a[3], quads, z);
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (i, sum) in sums.into_iter().enumerate() {
            let mut values = [0.0; 4];
            store_f32(&mut values, vmulq_f32(sum, load_f32(&scales[i])));
            store_row(&tile, r, 16 * half + 4 * i, values, out);
        }
    }
}

/// One k of four columns: the top byte of each lane, less the zero point, times each row's float.
#[inline]
#[target_feature(enable = "neon")]
fn step<const R: usize>(
    sums: &mut [[float32x4_t; 4]; R],
    i: usize,
    a: &[f32; R],
    top: int32x4_t,
    zero_points: int32x4_t,
) {
    let b = vcvtq_f32_s32(vsubq_s32(vshrq_n_s32::<24>(top), zero_points));
    for (sums, &a) in sums.iter_mut().zip(a) {
        sums[i] = vfmaq_f32(sums[i], vdupq_n_f32(a), b);
    }
}
