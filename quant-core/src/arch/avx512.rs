//! Kernels for AVX-512 with BW, VL, VBMI and VNNI.
//!
//! Vectors of 16 floats or 64 bytes; what is left at the end of a slice goes through masked loads and stores.

use std::arch::x86_64::*;

use super::{EachMap, scalar};
use crate::affine::AffineMap;
use crate::scheme::Signedness;

mod pack;
mod product;
pub(super) use pack::{pack, unpack};
pub(super) use product::{dot, tile_f32, tile_i32};

/// The first `n <= 16` lanes.
fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// The first `n <= 64` lanes.
fn mask64(n: usize) -> __mmask64 {
    ((1u128 << n) - 1) as __mmask64
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(x: &[f32; 16]) -> __m512 {
    // SAFETY: the array has the 64 bytes read.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// The first 16 elements of `x`, zeros where it is shorter.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32_part(x: &[f32]) -> __m512 {
    // SAFETY: the mask covers no element beyond the slice.
    unsafe { _mm512_maskz_loadu_ps(mask16(x.len().min(16)), x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_f32(out: &mut [f32; 16], v: __m512) {
    // SAFETY: the array has the 64 bytes written.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
}

/// Stores as many of the 16 lanes as `out` holds.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_f32_part(out: &mut [f32], v: __m512) {
    // SAFETY: the mask covers no element beyond the slice.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask16(out.len().min(16)), v) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn load_u8x16(x: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the 16 bytes read.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn load_u8x16_part(x: &[u8]) -> __m128i {
    // SAFETY: the mask covers no byte beyond the slice.
    unsafe { _mm_maskz_loadu_epi8(mask16(x.len().min(16)), x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn store_u8x16_part(out: &mut [u8], v: __m128i) {
    // SAFETY: the mask covers no byte beyond the slice.
    unsafe { _mm_mask_storeu_epi8(out.as_mut_ptr().cast(), mask16(out.len().min(16)), v) }
}

#[inline]
#[target_feature(enable = "avx512bw,avx512vl")]
fn store_u8x16(out: &mut [u8; 16], v: __m128i) {
    // SAFETY: the array has the 16 bytes written.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), v) }
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn load_bytes(x: &[u8; 64]) -> __m512i {
    // SAFETY: the array has the 64 bytes read.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The first 64 bytes of `x`, zeros where it is shorter.
#[inline]
#[target_feature(enable = "avx512bw")]
fn load_bytes_part(x: &[u8]) -> __m512i {
    // SAFETY: the mask covers no byte beyond the slice.
    unsafe { _mm512_maskz_loadu_epi8(mask64(x.len().min(64)), x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn store_bytes(out: &mut [u8; 64], v: __m512i) {
    // SAFETY: the array has the 64 bytes written.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
}

/// Stores as many of the 64 bytes as `out` holds. Masked stores of bytes are slow on some processors.
#[inline]
#[target_feature(enable = "avx512bw")]
fn store_bytes_part(out: &mut [u8], v: __m512i) {
    // SAFETY: the mask covers no byte beyond the slice.
    unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), mask64(out.len().min(64)), v) }
}

/// An [`AffineMap`] in registers.
#[derive(Clone, Copy)]
struct Map {
    scale: __m512,
    lo: __m512,
    hi: __m512,
    zero_point: __m512i,
}

impl Map {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(map: AffineMap) -> Self {
        let (lo, hi) = map.steps();
        Self {
            scale: _mm512_set1_ps(map.scale),
            lo: _mm512_set1_ps(lo),
            hi: _mm512_set1_ps(hi),
            zero_point: _mm512_set1_epi32(map.zero_point),
        }
    }

    /// Whole steps from the zero point, within the range; 0 for NaN.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn steps(&self, x: __m512) -> __m512i {
        // NaN fails the comparison with itself and its lane becomes 0.
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x);
        let y = _mm512_div_ps(x, self.scale);
        let y = _mm512_max_ps(_mm512_min_ps(y, self.hi), self.lo);
        _mm512_maskz_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
            number, y,
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn codes(&self, x: __m512) -> __m128i {
        _mm512_cvtepi32_epi8(_mm512_add_epi32(self.steps(x), self.zero_point))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn values(&self, codes: __m512i) -> __m512 {
        _mm512_mul_ps(
            _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, self.zero_point)),
            self.scale,
        )
    }
}

/// Quantization without division: `x * (65536 / scale) + 1/2` as an integer has the code's steps above 16 bits of fraction.
///
/// The exact quotient, its rounding to f32 and this integer lie within 5 units of each other (the factor, the fused sum and
/// the quotient are each off by at most 2^-24 of 256 steps, or one unit, the integer by half of one). So away from halves
/// all round alike; a block with a fraction within 8 units of a half is left to the division. NaN gives the integer
/// 0x8000_0000, whose bits 16 to 23 are 0 steps.
#[derive(Clone, Copy)]
struct FixedPoint {
    factor: __m512,
    bias: __m512,
    lo: __m512,
    hi: __m512,
    zero_point: __m512i,
    thirds: __m512i,
}

impl FixedPoint {
    /// Where the reciprocal and all products that count are normal numbers.
    const SCALES: std::ops::Range<f32> = 1e-30..1e30;
    /// A half, and 8 units so that a fraction near a half wraps to less than 16.
    const BIAS: f32 = 32768.0 + 8.0;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(map: AffineMap) -> Self {
        let (lo, hi) = map.steps();
        // Byte 2 of every lane. Opaque, or the compiler makes four instructions of the one it stands for.
        let thirds = std::hint::black_box(std::array::from_fn(|i| (4 * i + 2) as u8));
        Self {
            factor: _mm512_set1_ps(65536.0 * (1.0 / map.scale)),
            bias: _mm512_set1_ps(Self::BIAS),
            lo: _mm512_set1_ps(65536.0 * lo + Self::BIAS),
            hi: _mm512_set1_ps(65536.0 * hi + Self::BIAS),
            zero_point: _mm512_set1_epi8(map.zero_point as i8),
            thirds: load_bytes(&thirds),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn steps(&self, x: &[f32; 16]) -> __m512i {
        // A NaN is the second operand, which minimum and maximum return.
        let y = _mm512_fmadd_ps(load_f32(x), self.factor, self.bias);
        _mm512_cvtps_epi32(_mm512_max_ps(self.lo, _mm512_min_ps(self.hi, y)))
    }

    /// 64 code bytes, unless one is too near a half.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn codes(&self, x: &[f32; 64]) -> Option<__m512i> {
        let (x, _) = x.as_chunks::<16>();
        let (a, b) = (self.steps(&x[0]), self.steps(&x[1]));
        let (c, d) = (self.steps(&x[2]), self.steps(&x[3]));
        // The least fraction of four lanes; the words above the fractions do not count.
        let least = _mm512_min_epu16(_mm512_min_epu16(a, b), _mm512_min_epu16(c, d));
        if _mm512_testn_epi32_mask(least, _mm512_set1_epi32(0xfff0)) != 0 {
            return None;
        }
        let low = _mm512_permutex2var_epi8(a, self.thirds, b);
        let high = _mm512_permutex2var_epi8(c, self.thirds, d);
        let steps = _mm512_inserti64x4::<1>(low, _mm512_castsi512_si256(high));
        Some(_mm512_add_epi8(steps, self.zero_point))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) fn quantize(x: &[f32], map: AffineMap, out: &mut [u8]) {
    // Four loads for one store: it is the loads that should not straddle cache lines.
    let head = x.as_ptr().align_offset(64).min(x.len());
    let (x_head, x) = x.split_at(head);
    let (o_head, out) = out.split_at_mut(head);
    quantize_by_division(x_head, map, o_head);
    let (x, x_tail) = x.as_chunks::<64>();
    let (o, o_tail) = out.as_chunks_mut::<64>();
    if FixedPoint::SCALES.contains(&map.scale) {
        let fixed = FixedPoint::new(map);
        for (x, o) in x.iter().zip(o) {
            prefetch(x);
            match fixed.codes(x) {
                Some(codes) => store_bytes(o, codes),
                None => quantize_by_division(x, map, o),
            }
        }
    } else {
        quantize_by_division(x.as_flattened(), map, o.as_flattened_mut());
    }
    quantize_by_division(x_tail, map, o_tail);
}

/// Asks for the four cache lines 1 KiB beyond.
#[inline(always)]
fn prefetch(x: &[f32; 64]) {
    for line in 0..4 {
        // SAFETY: a hint; it may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(x.as_ptr().wrapping_add(256 + 16 * line).cast()) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantize_by_division(x: &[f32], map: AffineMap, out: &mut [u8]) {
    let map = Map::new(map);
    let (x, x_tail) = x.as_chunks::<16>();
    let (o, o_tail) = out.as_chunks_mut::<16>();
    for (x, o) in x.iter().zip(o) {
        store_u8x16(o, map.codes(load_f32(x)));
    }
    if !x_tail.is_empty() {
        store_u8x16_part(o_tail, map.codes(load_f32_part(x_tail)));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn dequantize(codes: &[u8], signedness: Signedness, map: AffineMap, out: &mut [f32]) {
    match signedness {
        Signedness::Signed => dequantize_as::<true>(codes, map, out),
        Signedness::Unsigned => dequantize_as::<false>(codes, map, out),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen<const SIGNED: bool>(codes: __m128i) -> __m512i {
    if SIGNED {
        _mm512_cvtepi8_epi32(codes)
    } else {
        _mm512_cvtepu8_epi32(codes)
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn dequantize_as<const SIGNED: bool>(codes: &[u8], map: AffineMap, out: &mut [f32]) {
    let map = Map::new(map);
    let (c, c_tail) = codes.as_chunks::<16>();
    let (o, o_tail) = out.as_chunks_mut::<16>();
    for (c, o) in c.iter().zip(o) {
        store_f32(o, map.values(widen::<SIGNED>(load_u8x16(c))));
    }
    store_f32_part(o_tail, map.values(widen::<SIGNED>(load_u8x16_part(c_tail))));
}

#[target_feature(enable = "avx512f")]
pub(super) fn fake_quantize(x: &[f32], map: AffineMap, out: &mut [f32]) {
    let map = Map::new(map);
    let (x, x_tail) = x.as_chunks::<16>();
    let (o, o_tail) = out.as_chunks_mut::<16>();
    let fake = |x| _mm512_mul_ps(_mm512_cvtepi32_ps(map.steps(x)), map.scale);
    for (x, o) in x.iter().zip(o) {
        store_f32(o, fake(load_f32(x)));
    }
    store_f32_part(o_tail, fake(load_f32_part(x_tail)));
}

// The compiler vectorizes the plain loops well where every element has its own scale.

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [u8]) {
    scalar::quantize_each(x, maps, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn dequantize_each(
    codes: &[u8],
    signedness: Signedness,
    maps: EachMap<'_>,
    out: &mut [f32],
) {
    scalar::dequantize_each(codes, signedness, maps, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn fake_quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [f32]) {
    scalar::fake_quantize_each(x, maps, out);
}
