//! The kernels in plain Rust: the oracle of the others, and their tails.

use super::{EachMap, Tile};
use crate::affine::{AffineMap, widen};
use crate::scheme::{Bits, Signedness};
use crate::tiles::{PANEL, block_column};

#[inline(always)]
pub(super) fn quantize(x: &[f32], map: AffineMap, out: &mut [u8]) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = map.code(x) as u8;
    }
}

#[inline(always)]
pub(super) fn dequantize(codes: &[u8], signedness: Signedness, map: AffineMap, out: &mut [f32]) {
    match signedness {
        Signedness::Signed => {
            for (o, &c) in out.iter_mut().zip(codes) {
                *o = map.value(i32::from(c as i8));
            }
        }
        Signedness::Unsigned => {
            for (o, &c) in out.iter_mut().zip(codes) {
                *o = map.value(i32::from(c));
            }
        }
    }
}

#[inline(always)]
pub(super) fn fake_quantize(x: &[f32], map: AffineMap, out: &mut [f32]) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = map.value(map.code(x));
    }
}

#[inline(always)]
pub(super) fn quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [u8]) {
    let params = maps.scales.iter().zip(maps.zero_points);
    for ((o, &x), (&scale, &zero_point)) in out.iter_mut().zip(x).zip(params) {
        *o = AffineMap {
            scale,
            zero_point,
            min: maps.min,
            max: maps.max,
        }
        .code(x) as u8;
    }
}

#[inline(always)]
pub(super) fn dequantize_each(
    codes: &[u8],
    signedness: Signedness,
    maps: EachMap<'_>,
    out: &mut [f32],
) {
    for (i, (o, &c)) in out.iter_mut().zip(codes).enumerate() {
        *o = maps.at(i).value(widen(c, signedness));
    }
}

#[inline(always)]
pub(super) fn fake_quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [f32]) {
    let params = maps.scales.iter().zip(maps.zero_points);
    for ((o, &x), (&scale, &zero_point)) in out.iter_mut().zip(x).zip(params) {
        let map = AffineMap {
            scale,
            zero_point,
            min: maps.min,
            max: maps.max,
        };
        *o = map.value(map.code(x));
    }
}

/// Eight codes to as many bytes as the width has bits, through one 64-bit word.
#[inline(always)]
pub(super) fn pack(codes: &[u8], bits: Bits, out: &mut [u8]) {
    let b = usize::from(bits.get());
    let mask = (1u64 << b) - 1;
    for (eight, bytes) in codes.chunks(8).zip(out.chunks_mut(b)) {
        let word = eight
            .iter()
            .enumerate()
            .fold(0, |w, (i, &c)| w | (u64::from(c) & mask) << (i * b));
        bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
    }
}

#[inline(always)]
pub(super) fn unpack(packed: &[u8], bits: Bits, signedness: Signedness, out: &mut [u8]) {
    let b = usize::from(bits.get());
    let spare = 8 - u32::from(bits.get());
    for (eight, bytes) in out.chunks_mut(8).zip(packed.chunks(b)) {
        let mut word = [0u8; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        for (i, code) in eight.iter_mut().enumerate() {
            let high = ((word >> (i * b)) as u8) << spare;
            *code = match signedness {
                Signedness::Signed => ((high as i8) >> spare) as u8,
                Signedness::Unsigned => high >> spare,
            };
        }
    }
}

#[inline(always)]
pub(super) fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).fold(0i32, |sum, (&a, &b)| {
        sum.wrapping_add(i32::from(a) * i32::from(b))
    })
}

pub(super) fn tile_i32(tile: Tile<'_, u32>, init: &[i32; PANEL], out: &mut [i32]) {
    let columns = tile.columns;
    for r in 0..tile.rows {
        out[r * tile.stride..][..columns].copy_from_slice(&init[..columns]);
    }
    for (quads, blocks) in tile.a.chunks(tile.rows).zip(tile.panel.chunks(2)) {
        for (r, quad) in quads.iter().enumerate() {
            let a = quad.to_le_bytes();
            for (c, o) in out[r * tile.stride..][..columns].iter_mut().enumerate() {
                let w = block_column(blocks, c);
                let sum: i32 = a
                    .iter()
                    .zip(w)
                    .map(|(&a, w)| i32::from(a) * i32::from(w))
                    .sum();
                *o = o.wrapping_add(sum);
            }
        }
    }
}

pub(super) fn tile_f32(
    tile: Tile<'_, f32>,
    zero_points: &[i32; PANEL],
    scales: &[f32; PANEL],
    out: &mut [f32],
) {
    let columns = tile.columns;
    for r in 0..tile.rows {
        out[r * tile.stride..][..columns].fill(0.0);
    }
    for (quads, blocks) in tile.a.chunks(4 * tile.rows).zip(tile.panel.chunks(2)) {
        for r in 0..tile.rows {
            for (c, o) in out[r * tile.stride..][..columns].iter_mut().enumerate() {
                for (j, w) in block_column(blocks, c).into_iter().enumerate() {
                    let w = (i32::from(w) - zero_points[c]) as f32;
                    *o = quads[j * tile.rows + r].mul_add(w, *o);
                }
            }
        }
    }
    for r in 0..tile.rows {
        for (o, s) in out[r * tile.stride..][..columns].iter_mut().zip(scales) {
            *o *= s;
        }
    }
}
