//! One register of 512 bits.
//!
//! SAFETY (everywhere): a value of [`Avx512`] is made only in functions compiled for AVX-512 F, BW, VL and VNNI; the pointers
//! are those of arrays of the length read or written, or the mask covers no element beyond the slice.

use std::arch::x86_64::*;

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn new() -> Self {
        Self(())
    }
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n.min(LANES)) - 1) as __mmask16
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const VECTORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        unsafe { _mm512_maskz_loadu_ps(mask(x.len()), x.as_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask(out.len()), v) }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn splat_int(self, x: u32) -> Self::I {
        unsafe { _mm512_set1_epi32(x as i32) }
    }
    #[inline(always)]
    fn load_int(self, x: &[u32; LANES]) -> Self::I {
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn shift_right(self, a: Self::I, n: u32) -> Self::I {
        unsafe { _mm512_srlv_epi32(a, _mm512_set1_epi32(n as i32)) }
    }
    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn dot(self, sum: Self::I, unsigned: Self::I, signed: Self::I) -> Self::I {
        unsafe { _mm512_dpbusd_epi32(sum, unsigned, signed) }
    }
    #[inline(always)]
    fn small_code(
        self,
        word: Self::I,
        shift: u32,
        _mask: u32,
        table: Self::F,
        _zero: Self::F,
    ) -> Self::F {
        unsafe { _mm512_permutexvar_ps(self.shift_right(word, shift), table) }
    }
}
