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

/// Quantization without division: `x * (65536 / scale) + 65536 * zero_point + 1/2` as an integer has the code above 16 bits
/// of fraction. Codes are packed with saturation, to signed or unsigned bytes.
///
/// As long as the code is within a byte, this integer lies within 2.5 units of what the exact quotient gives: the factor is
/// off by at most 2^-24 of 256 steps, or one unit, the fused sum and its conversion by one together, and rounding the
/// quotient to f32 moves it by at most half a unit, onto a half at worst. So away from halves all round alike; a block with a
/// fraction within 4 units of a half is left to the division. So is one with NaN or a number 32768 steps away: their
/// integer is 0x8000_0000, whose fraction counts as near a half.
#[derive(Clone, Copy)]
struct FixedPoint<const SIGNED: bool> {
    factor: __m512,
    bias: __m512,
    /// The smallest and the largest code, in bytes.
    lo: __m512i,
    hi: __m512i,
    /// The upper words of two vectors.
    upper: __m512i,
    /// What brings eight bytes each of two vectors, in turn, into their order.
    order: __m512i,
}

impl<const SIGNED: bool> FixedPoint<SIGNED> {
    /// Where the reciprocal and all products that count are normal numbers.
    const SCALES: std::ops::Range<f32> = 1e-30..1e30;
    /// A half, and 4 units so that a fraction near a half wraps to less than 8.
    const BIAS: f32 = 32768.0 + 4.0;
    /// The bits of a fraction that are zero near a half.
    const FAR: i32 = 0xfff8;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(map: AffineMap) -> Self {
        // Opaque, or the compiler makes several instructions of the one each stands for.
        let upper: [u16; 32] = std::array::from_fn(|i| (2 * i + 1) as u16);
        let upper = std::hint::black_box(upper.map(u16::to_le_bytes));
        let order = std::hint::black_box([0u64, 2, 4, 6, 1, 3, 5, 7].map(u64::to_le_bytes));
        let bytes = |words: &[u8]| load_bytes_part(words);
        Self {
            factor: _mm512_set1_ps(65536.0 * (1.0 / map.scale)),
            bias: _mm512_set1_ps(65536.0 * map.zero_point as f32 + Self::BIAS),
            lo: _mm512_set1_epi8(map.min as i8),
            hi: _mm512_set1_epi8(map.max as i8),
            upper: bytes(upper.as_flattened()),
            order: bytes(order.as_flattened()),
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn steps(&self, x: &[f32; 16]) -> __m512i {
        _mm512_cvtps_epi32(_mm512_fmadd_ps(load_f32(x), self.factor, self.bias))
    }

    /// 64 code bytes, unless one is too near a half.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn codes(&self, x: &[f32; 64]) -> Option<__m512i> {
        let (x, _) = x.as_chunks::<16>();
        let (a, b) = (self.steps(&x[0]), self.steps(&x[1]));
        let (c, d) = (self.steps(&x[2]), self.steps(&x[3]));
        // The least fraction of four lanes; the words above the fractions do not count.
        let least = _mm512_min_epu16(_mm512_min_epu16(a, b), _mm512_min_epu16(c, d));
        if _mm512_testn_epi32_mask(least, _mm512_set1_epi32(Self::FAR)) != 0 {
            return None;
        }
        let low = _mm512_permutex2var_epi16(a, self.upper, b);
        let high = _mm512_permutex2var_epi16(c, self.upper, d);
        Some(if SIGNED {
            let codes = _mm512_permutexvar_epi64(self.order, _mm512_packs_epi16(low, high));
            _mm512_max_epi8(self.lo, _mm512_min_epi8(self.hi, codes))
        } else {
            let codes = _mm512_permutexvar_epi64(self.order, _mm512_packus_epi16(low, high));
            _mm512_max_epu8(self.lo, _mm512_min_epu8(self.hi, codes))
        })
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize(x: &[f32], map: AffineMap, out: &mut [u8]) {
    if !FixedPoint::<true>::SCALES.contains(&map.scale) {
        quantize_by_division(x, map, out);
    } else if map.max <= i32::from(i8::MAX) {
        quantize_by_product::<true>(x, map, out);
    } else {
        quantize_by_product::<false>(x, map, out);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantize_by_product<const SIGNED: bool>(x: &[f32], map: AffineMap, out: &mut [u8]) {
    // Four loads for one store: it is the loads that should not straddle cache lines.
    let head = x.as_ptr().align_offset(64).min(x.len());
    let (x_head, x) = x.split_at(head);
    let (o_head, out) = out.split_at_mut(head);
    quantize_by_division(x_head, map, o_head);
    let (x, x_tail) = x.as_chunks::<64>();
    let (o, o_tail) = out.as_chunks_mut::<64>();
    let fixed = FixedPoint::<SIGNED>::new(map);
    for (x, o) in x.iter().zip(o) {
        prefetch(x);
        match fixed.codes(x) {
            Some(codes) => store_bytes(o, codes),
            None => quantize_by_division(x, map, o),
        }
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
