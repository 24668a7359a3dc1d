//! Kernels for AVX-512 with BW, VL, VBMI and VNNI.
//!
//! Vectors of 16 floats or 64 bytes; what is left at the end of a slice goes through masked loads and stores.

use std::arch::x86_64::*;

use super::{EachMap, scalar};
use crate::affine::AffineMap;
use crate::scheme::{Bits, Signedness};

mod product;
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

/// The first 64 bytes of `x`, zeros where it is shorter.
#[inline]
#[target_feature(enable = "avx512bw")]
fn load_bytes(x: &[u8]) -> __m512i {
    // SAFETY: the mask covers no byte beyond the slice.
    unsafe { _mm512_maskz_loadu_epi8(mask64(x.len().min(64)), x.as_ptr().cast()) }
}

/// Stores as many of the 64 bytes as `out` holds.
#[inline]
#[target_feature(enable = "avx512bw")]
fn store_bytes(out: &mut [u8], v: __m512i) {
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize(x: &[f32], map: AffineMap, out: &mut [u8]) {
    let map = Map::new(map);
    let (x, x_tail) = x.as_chunks::<16>();
    let (o, o_tail) = out.as_chunks_mut::<16>();
    for (x, o) in x.iter().zip(o) {
        store_u8x16_part(o, map.codes(load_f32(x)));
    }
    store_u8x16_part(o_tail, map.codes(load_f32_part(x_tail)));
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

/// Eight codes of width `b` per 64-bit lane, from bytes to `b` dense bytes: pairs to 16 bits, pairs of those to 32, and
/// of those to 64; then the dense bytes of the eight lanes side by side.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn pack(codes: &[u8], bits: Bits, out: &mut [u8]) {
    let b = usize::from(bits.get());
    let mask = _mm512_set1_epi8((1i8 << (b - 1)) | ((1i8 << (b - 1)) - 1));
    // Bytes 1, 2^b of unsigned weights; words 1, 2^2b.
    let pair = _mm512_set1_epi16((1 << (8 + b)) as u16 as i16 | 1);
    let four = _mm512_set1_epi32((1 << (16 + 2 * b)) | 1);
    let half = _mm_cvtsi32_si128(4 * b as i32);
    let gather = load_bytes(&GATHER[b - 2]);
    let low = _mm512_set1_epi64(0xffff_ffff);
    for (codes, out) in codes.chunks(64).zip(out.chunks_mut(8 * b)) {
        let v = _mm512_and_si512(load_bytes(codes), mask);
        let v = _mm512_madd_epi16(_mm512_maddubs_epi16(pair, v), four);
        let high = _mm512_sll_epi64(_mm512_srli_epi64::<32>(v), half);
        let v = _mm512_or_si512(_mm512_and_si512(v, low), high);
        store_bytes(out, _mm512_permutexvar_epi8(gather, v));
    }
}

/// The way back: `b` dense bytes to each 64-bit lane, of which every byte takes the 8 bits at its code's offset.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub(super) fn unpack(packed: &[u8], bits: Bits, signedness: Signedness, out: &mut [u8]) {
    let b = usize::from(bits.get());
    let mask = _mm512_set1_epi8(((1u16 << b) - 1) as i8);
    // (c ^ s) - s extends the sign bit s; s = 0 leaves c.
    let sign = match signedness {
        Signedness::Signed => _mm512_set1_epi8(1 << (b - 1)),
        Signedness::Unsigned => _mm512_setzero_si512(),
    };
    let offsets = i64::from_le_bytes(std::array::from_fn(|i| (i * b) as u8));
    let offsets = _mm512_set1_epi64(offsets);
    let scatter = load_bytes(&SCATTER[b - 2]);
    for (packed, out) in packed.chunks(8 * b).zip(out.chunks_mut(64)) {
        let v = _mm512_permutexvar_epi8(scatter, load_bytes(packed));
        let v = _mm512_and_si512(_mm512_multishift_epi64_epi8(offsets, v), mask);
        store_bytes(out, _mm512_sub_epi8(_mm512_xor_si512(v, sign), sign));
    }
}

/// For each width from 2: where byte `i` of the dense string stands among eight 64-bit lanes.
static GATHER: [[u8; 64]; 6] = {
    let mut table = [[0; 64]; 6];
    let mut b = 2;
    while b < 8 {
        let mut i = 0;
        while i < 8 * b {
            table[b - 2][i] = (i / b * 8 + i % b) as u8;
            i += 1;
        }
        b += 1;
    }
    table
};

/// For each width from 2: which byte of the dense string goes to byte `i` of the lanes.
static SCATTER: [[u8; 64]; 6] = {
    let mut table = [[0; 64]; 6];
    let mut b = 2;
    while b < 8 {
        let mut i = 0;
        while i < 64 {
            table[b - 2][i] = if i % 8 < b {
                (i / 8 * b + i % 8) as u8
            } else {
                0
            };
            i += 1;
        }
        b += 1;
    }
    table
};

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
