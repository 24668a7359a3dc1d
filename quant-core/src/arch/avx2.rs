//! Kernels for AVX2 with FMA and BMI2.
//!
//! Vectors of 8 floats or 32 bytes; what is left at the end of a slice goes through the scalar kernel.

use std::arch::x86_64::*;

use super::{EachMap, scalar};
use crate::affine::AffineMap;
use crate::scheme::{Bits, Signedness};

mod product;
pub(super) use product::{dot, tile_f32, tile_i32};

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array has the 32 bytes read.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_f32(out: &mut [f32; 8], v: __m256) {
    // SAFETY: the array has the 32 bytes written.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_8(x: &[u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(*x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_16(x: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the 16 bytes read.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_32(x: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes read.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_32(out: &mut [u8; 32], v: __m256i) {
    // SAFETY: the array has the 32 bytes written.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
}

/// An [`AffineMap`] in registers.
#[derive(Clone, Copy)]
struct Map {
    scale: __m256,
    lo: __m256,
    hi: __m256,
    zero_point: __m256i,
}

impl Map {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(map: AffineMap) -> Self {
        let (lo, hi) = map.steps();
        Self {
            scale: _mm256_set1_ps(map.scale),
            lo: _mm256_set1_ps(lo),
            hi: _mm256_set1_ps(hi),
            zero_point: _mm256_set1_epi32(map.zero_point),
        }
    }

    /// Whole steps from the zero point, within the range; 0 for NaN.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn steps(&self, x: __m256) -> __m256i {
        let number = _mm256_cmp_ps::<_CMP_ORD_Q>(x, x);
        let y = _mm256_div_ps(x, self.scale);
        let y = _mm256_max_ps(_mm256_min_ps(y, self.hi), self.lo);
        let y = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(y);
        _mm256_cvtps_epi32(_mm256_and_ps(y, number))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn codes(&self, x: &[f32; 8]) -> __m256i {
        _mm256_add_epi32(self.steps(load_f32(x)), self.zero_point)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn values(&self, codes: __m256i) -> __m256 {
        _mm256_mul_ps(
            _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, self.zero_point)),
            self.scale,
        )
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn quantize(x: &[f32], map: AffineMap, out: &mut [u8]) {
    let m = Map::new(map);
    // Codes are within -128..=255, so their low bytes are the code bytes; masked, both packs are exact.
    let low = _mm256_set1_epi32(0xff);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let (x, x_tail) = x.as_chunks::<32>();
    let (o, o_tail) = out.as_chunks_mut::<32>();
    for (x, o) in x.iter().zip(o) {
        let (x, _) = x.as_chunks::<8>();
        let c = |i: usize| _mm256_and_si256(m.codes(&x[i]), low);
        let v = _mm256_packus_epi16(
            _mm256_packs_epi32(c(0), c(1)),
            _mm256_packs_epi32(c(2), c(3)),
        );
        store_32(o, _mm256_permutevar8x32_epi32(v, order));
    }
    scalar::quantize(x_tail, map, o_tail);
}

#[target_feature(enable = "avx2")]
pub(super) fn dequantize(codes: &[u8], signedness: Signedness, map: AffineMap, out: &mut [f32]) {
    let m = Map::new(map);
    let (c, c_tail) = codes.as_chunks::<8>();
    let (o, o_tail) = out.as_chunks_mut::<8>();
    match signedness {
        Signedness::Signed => {
            for (c, o) in c.iter().zip(o) {
                store_f32(o, m.values(_mm256_cvtepi8_epi32(load_8(c))));
            }
        }
        Signedness::Unsigned => {
            for (c, o) in c.iter().zip(o) {
                store_f32(o, m.values(_mm256_cvtepu8_epi32(load_8(c))));
            }
        }
    }
    scalar::dequantize(c_tail, signedness, map, o_tail);
}

#[target_feature(enable = "avx2")]
pub(super) fn fake_quantize(x: &[f32], map: AffineMap, out: &mut [f32]) {
    let m = Map::new(map);
    let (x, x_tail) = x.as_chunks::<8>();
    let (o, o_tail) = out.as_chunks_mut::<8>();
    for (x, o) in x.iter().zip(o) {
        store_f32(
            o,
            _mm256_mul_ps(_mm256_cvtepi32_ps(m.steps(load_f32(x))), m.scale),
        );
    }
    scalar::fake_quantize(x_tail, map, o_tail);
}

/// Calls a function whose code width is a constant.
macro_rules! by_bits {
    ($bits:expr, $function:ident($($arg:expr),*)) => {
        match $bits.get() {
            2 => $function::<2>($($arg),*),
            3 => $function::<3>($($arg),*),
            4 => $function::<4>($($arg),*),
            5 => $function::<5>($($arg),*),
            6 => $function::<6>($($arg),*),
            7 => $function::<7>($($arg),*),
            bits => unreachable!("codes of {bits} bits are not packed"),
        }
    };
}

#[target_feature(enable = "avx2,bmi2")]
pub(super) fn pack(codes: &[u8], bits: Bits, out: &mut [u8]) {
    match bits {
        Bits::B4 => pack_4(codes, out),
        _ => by_bits!(bits, pack_dense(codes, bits, out)),
    }
}

#[target_feature(enable = "avx2,bmi2")]
pub(super) fn unpack(packed: &[u8], bits: Bits, signedness: Signedness, out: &mut [u8]) {
    match bits {
        Bits::B4 => unpack_4(packed, signedness, out),
        _ => by_bits!(bits, unpack_dense(packed, bits, signedness, out)),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn pack_4(codes: &[u8], out: &mut [u8]) {
    let (mask, weights) = (_mm256_set1_epi8(0x0f), _mm256_set1_epi16(0x1001));
    let (c, c_tail) = codes.as_chunks::<64>();
    let (o, o_tail) = out.split_at_mut(c.len() * 32);
    for (c, o) in c.iter().zip(o.as_chunks_mut::<32>().0) {
        let (c, _) = c.as_chunks::<32>();
        let pairs =
            |i: usize| _mm256_maddubs_epi16(_mm256_and_si256(load_32(&c[i]), mask), weights);
        let v = _mm256_packus_epi16(pairs(0), pairs(1));
        store_32(o, _mm256_permute4x64_epi64::<0b11_01_10_00>(v));
    }
    scalar::pack(c_tail, Bits::B4, o_tail);
}

#[inline]
#[target_feature(enable = "avx2")]
fn unpack_4(packed: &[u8], signedness: Signedness, out: &mut [u8]) {
    let mask = _mm256_set1_epi8(0x0f);
    let sign = match signedness {
        Signedness::Signed => _mm256_set1_epi8(8),
        Signedness::Unsigned => _mm256_setzero_si256(),
    };
    let (o, o_tail) = out.as_chunks_mut::<32>();
    let (p, p_tail) = packed.split_at(o.len() * 16);
    for (p, o) in p.as_chunks::<16>().0.iter().zip(o) {
        let v = _mm256_cvtepu8_epi16(load_16(p));
        let v = _mm256_and_si256(_mm256_or_si256(v, _mm256_slli_epi16::<4>(v)), mask);
        store_32(o, _mm256_sub_epi8(_mm256_xor_si256(v, sign), sign));
    }
    scalar::unpack(p_tail, Bits::B4, signedness, o_tail);
}

/// The bits of each byte of a word that a code of this width has.
const fn code_mask(bits: usize) -> u64 {
    0x0101_0101_0101_0101 * ((1 << bits) - 1)
}

#[inline]
#[target_feature(enable = "bmi2")]
fn pack_dense<const B: usize>(codes: &[u8], bits: Bits, out: &mut [u8]) {
    let (c, c_tail) = codes.as_chunks::<8>();
    let (o, o_tail) = out.split_at_mut(c.len() * B);
    for (c, o) in c.iter().zip(o.as_chunks_mut::<B>().0) {
        let word = _pext_u64(u64::from_le_bytes(*c), code_mask(B)).to_le_bytes();
        *o = std::array::from_fn(|i| word[i]);
    }
    scalar::pack(c_tail, bits, o_tail);
}

#[inline]
#[target_feature(enable = "bmi2")]
fn unpack_dense<const B: usize>(packed: &[u8], bits: Bits, signedness: Signedness, out: &mut [u8]) {
    let (o, o_tail) = out.as_chunks_mut::<8>();
    let (p, p_tail) = packed.split_at(o.len() * B);
    // The bits above the sign are the sign: multiplied up, they do not reach the next byte.
    let sign_bits = match signedness {
        Signedness::Signed => 0x0101_0101_0101_0101 << (B - 1),
        Signedness::Unsigned => 0,
    };
    let extension = (1u64 << (9 - B)) - 2;
    for (p, o) in p.as_chunks::<B>().0.iter().zip(o) {
        let word = std::array::from_fn(|i| if i < B { p[i] } else { 0 });
        let word = _pdep_u64(u64::from_le_bytes(word), code_mask(B));
        *o = (word | ((word & sign_bits) * extension)).to_le_bytes();
    }
    scalar::unpack(p_tail, bits, signedness, o_tail);
}

// The compiler vectorizes the plain loops well where every element has its own scale.

#[target_feature(enable = "avx2")]
pub(super) fn quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [u8]) {
    scalar::quantize_each(x, maps, out);
}

#[target_feature(enable = "avx2")]
pub(super) fn dequantize_each(
    codes: &[u8],
    signedness: Signedness,
    maps: EachMap<'_>,
    out: &mut [f32],
) {
    scalar::dequantize_each(codes, signedness, maps, out);
}

#[target_feature(enable = "avx2")]
pub(super) fn fake_quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [f32]) {
    scalar::fake_quantize_each(x, maps, out);
}
