//! Two registers of 256 bits.
//!
//! SAFETY (everywhere): a value of [`Avx2`] is made only in functions compiled for AVX2 and FMA; the pointers are those of
//! arrays of the length read or written.

use std::arch::x86_64::*;

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn new() -> Self {
        Self(())
    }
}

#[inline(always)]
fn halves<T>(x: &[T; LANES]) -> [&[T; 8]; 2] {
    let (a, b) = x.split_at(8);
    match (a.first_chunk(), b.first_chunk()) {
        (Some(a), Some(b)) => [a, b],
        _ => unreachable!("sixteen is twice eight"),
    }
}

/// Four products of unsigned and signed bytes in each lane, in words of 16 bits so that nothing saturates.
#[inline(always)]
fn dot8(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    unsafe {
        let even = _mm256_madd_epi16(
            _mm256_and_si256(unsigned, _mm256_set1_epi16(0xff)),
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(signed)),
        );
        let odd = _mm256_madd_epi16(
            _mm256_srli_epi16::<8>(unsigned),
            _mm256_srai_epi16::<8>(signed),
        );
        _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
    }
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    const VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [unsafe { _mm256_set1_ps(x) }; 2]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        let [a, b] = halves(x);
        unsafe { [_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr())] }
    }
    #[inline(always)]
    fn store(self, v: Self::F, out: &mut [f32; LANES]) {
        let (a, b) = out.split_at_mut(8);
        for (out, v) in [a, b].into_iter().zip(v) {
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
        }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        let mut whole = [0.0; LANES];
        let n = x.len().min(LANES);
        whole[..n].copy_from_slice(&x[..n]);
        self.load(&whole)
    }
    #[inline(always)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        let mut whole = [0.0; LANES];
        self.store(v, &mut whole);
        let n = out.len().min(LANES);
        out[..n].copy_from_slice(&whole[..n]);
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }
    #[inline(always)]
    fn splat_int(self, x: u32) -> Self::I {
        [unsafe { _mm256_set1_epi32(x as i32) }; 2]
    }
    #[inline(always)]
    fn load_int(self, x: &[u32; LANES]) -> Self::I {
        let [a, b] = halves(x);
        unsafe {
            [
                _mm256_loadu_si256(a.as_ptr().cast()),
                _mm256_loadu_si256(b.as_ptr().cast()),
            ]
        }
    }
    #[inline(always)]
    fn and(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { [_mm256_and_si256(a[0], b[0]), _mm256_and_si256(a[1], b[1])] }
    }
    #[inline(always)]
    fn shift_right(self, a: Self::I, n: u32) -> Self::I {
        unsafe {
            let n = _mm256_set1_epi32(n as i32);
            [_mm256_srlv_epi32(a[0], n), _mm256_srlv_epi32(a[1], n)]
        }
    }
    #[inline(always)]
    fn to_float(self, a: Self::I) -> Self::F {
        unsafe { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }
    #[inline(always)]
    fn dot(self, sum: Self::I, unsigned: Self::I, signed: Self::I) -> Self::I {
        [
            dot8(sum[0], unsigned[0], signed[0]),
            dot8(sum[1], unsigned[1], signed[1]),
        ]
    }
    #[inline(always)]
    fn small_code(
        self,
        word: Self::I,
        shift: u32,
        mask: u32,
        _table: Self::F,
        zero: Self::F,
    ) -> Self::F {
        let code = self.and(self.shift_right(word, shift), self.splat_int(mask));
        self.sub(self.to_float(code), zero)
    }
}
