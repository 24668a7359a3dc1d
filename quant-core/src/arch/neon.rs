//! Kernels for NEON with DOTPROD.
//!
//! Vectors of 4 floats or 16 bytes; what is left at the end of a slice goes through the scalar kernel. These kernels are
//! checked by the compiler only: no test of them has run on hardware yet.

use std::arch::aarch64::*;

use super::{EachMap, scalar};
use crate::affine::AffineMap;
use crate::scheme::{Bits, Signedness};

mod product;
pub(super) use product::{dot, tile_f32, tile_i32};

#[inline]
#[target_feature(enable = "neon")]
fn load_f32(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: the array has the 16 bytes read.
    unsafe { vld1q_f32(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_f32(out: &mut [f32; 4], v: float32x4_t) {
    // SAFETY: the array has the 16 bytes written.
    unsafe { vst1q_f32(out.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_8(x: &[u8; 8]) -> uint8x8_t {
    // SAFETY: the array has the 8 bytes read.
    unsafe { vld1_u8(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_8(out: &mut [u8; 8], v: uint8x8_t) {
    // SAFETY: the array has the 8 bytes written.
    unsafe { vst1_u8(out.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_16(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the array has the 16 bytes read.
    unsafe { vld1q_u8(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_16(out: &mut [u8; 16], v: uint8x16_t) {
    // SAFETY: the array has the 16 bytes written.
    unsafe { vst1q_u8(out.as_mut_ptr(), v) }
}

/// An [`AffineMap`] in registers.
#[derive(Clone, Copy)]
struct Map {
    scale: float32x4_t,
    lo: float32x4_t,
    hi: float32x4_t,
    zero_point: int32x4_t,
}

impl Map {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(map: AffineMap) -> Self {
        let (lo, hi) = map.steps();
        Self {
            scale: vdupq_n_f32(map.scale),
            lo: vdupq_n_f32(lo),
            hi: vdupq_n_f32(hi),
            zero_point: vdupq_n_s32(map.zero_point),
        }
    }

    /// Whole steps from the zero point, within the range; 0 for NaN, which minimum, maximum and conversion pass on.
    #[inline]
    #[target_feature(enable = "neon")]
    fn steps(&self, x: float32x4_t) -> int32x4_t {
        let y = vdivq_f32(x, self.scale);
        vcvtnq_s32_f32(vmaxq_f32(vminq_f32(y, self.hi), self.lo))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn codes(&self, x: &[f32; 4]) -> int16x4_t {
        vmovn_s32(vaddq_s32(self.steps(load_f32(x)), self.zero_point))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn values(&self, codes: int32x4_t) -> float32x4_t {
        vmulq_f32(vcvtq_f32_s32(vsubq_s32(codes, self.zero_point)), self.scale)
    }
}

#[target_feature(enable = "neon")]
pub(super) fn quantize(x: &[f32], map: AffineMap, out: &mut [u8]) {
    let m = Map::new(map);
    let (x, x_tail) = x.as_chunks::<8>();
    let (o, o_tail) = out.as_chunks_mut::<8>();
    for (x, o) in x.iter().zip(o) {
        let (x, _) = x.as_chunks::<4>();
        let codes = vcombine_s16(m.codes(&x[0]), m.codes(&x[1]));
        store_8(o, vreinterpret_u8_s8(vmovn_s16(codes)));
    }
    scalar::quantize(x_tail, map, o_tail);
}

#[target_feature(enable = "neon")]
pub(super) fn dequantize(codes: &[u8], signedness: Signedness, map: AffineMap, out: &mut [f32]) {
    let m = Map::new(map);
    let (c, c_tail) = codes.as_chunks::<8>();
    let (o, o_tail) = out.as_chunks_mut::<8>();
    for (c, o) in c.iter().zip(o) {
        let c = load_8(c);
        let wide = match signedness {
            Signedness::Signed => vmovl_s8(vreinterpret_s8_u8(c)),
            Signedness::Unsigned => vreinterpretq_s16_u16(vmovl_u8(c)),
        };
        let (o, _) = o.as_chunks_mut::<4>();
        store_f32(&mut o[0], m.values(vmovl_s16(vget_low_s16(wide))));
        store_f32(&mut o[1], m.values(vmovl_s16(vget_high_s16(wide))));
    }
    scalar::dequantize(c_tail, signedness, map, o_tail);
}

#[target_feature(enable = "neon")]
pub(super) fn fake_quantize(x: &[f32], map: AffineMap, out: &mut [f32]) {
    let m = Map::new(map);
    let (x, x_tail) = x.as_chunks::<4>();
    let (o, o_tail) = out.as_chunks_mut::<4>();
    for (x, o) in x.iter().zip(o) {
        store_f32(o, vmulq_f32(vcvtq_f32_s32(m.steps(load_f32(x))), m.scale));
    }
    scalar::fake_quantize(x_tail, map, o_tail);
}

#[target_feature(enable = "neon")]
pub(super) fn pack(codes: &[u8], bits: Bits, out: &mut [u8]) {
    if bits != Bits::B4 {
        return scalar::pack(codes, bits, out);
    }
    let mask = vdupq_n_u8(0x0f);
    let (c, c_tail) = codes.as_chunks::<32>();
    let (o, o_tail) = out.split_at_mut(c.len() * 16);
    for (c, o) in c.iter().zip(o.as_chunks_mut::<16>().0) {
        let (c, _) = c.as_chunks::<16>();
        let (first, second) = (load_16(&c[0]), load_16(&c[1]));
        let (even, odd) = (vuzp1q_u8(first, second), vuzp2q_u8(first, second));
        store_16(o, vorrq_u8(vandq_u8(even, mask), vshlq_n_u8::<4>(odd)));
    }
    scalar::pack(c_tail, bits, o_tail);
}

#[target_feature(enable = "neon")]
pub(super) fn unpack(packed: &[u8], bits: Bits, signedness: Signedness, out: &mut [u8]) {
    if bits != Bits::B4 {
        return scalar::unpack(packed, bits, signedness, out);
    }
    let mask = vdupq_n_u8(0x0f);
    // (c ^ s) - s extends the sign bit s; s = 0 leaves c.
    let sign = match signedness {
        Signedness::Signed => vdupq_n_u8(8),
        Signedness::Unsigned => vdupq_n_u8(0),
    };
    let (o, o_tail) = out.as_chunks_mut::<32>();
    let (p, p_tail) = packed.split_at(o.len() * 16);
    for (p, o) in p.as_chunks::<16>().0.iter().zip(o) {
        let p = load_16(p);
        let (even, odd) = (vandq_u8(p, mask), vshrq_n_u8::<4>(p));
        let (o, _) = o.as_chunks_mut::<16>();
        store_16(
            &mut o[0],
            vsubq_u8(veorq_u8(vzip1q_u8(even, odd), sign), sign),
        );
        store_16(
            &mut o[1],
            vsubq_u8(veorq_u8(vzip2q_u8(even, odd), sign), sign),
        );
    }
    scalar::unpack(p_tail, bits, signedness, o_tail);
}

// The compiler vectorizes the plain loops well where every element has its own scale.

#[target_feature(enable = "neon")]
pub(super) fn quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [u8]) {
    scalar::quantize_each(x, maps, out);
}

#[target_feature(enable = "neon")]
pub(super) fn dequantize_each(
    codes: &[u8],
    signedness: Signedness,
    maps: EachMap<'_>,
    out: &mut [f32],
) {
    scalar::dequantize_each(codes, signedness, maps, out);
}

#[target_feature(enable = "neon")]
pub(super) fn fake_quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [f32]) {
    scalar::fake_quantize_each(x, maps, out);
}
