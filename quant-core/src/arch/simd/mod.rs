//! Sixteen lanes at once, whatever the registers are: the kernels of [`super::gemm`] and [`super::row_quantize`] are
//! written once over [`Simd`] and compiled for every instruction set.
//!
//! A value of a type that implements [`Simd`] is the proof that the processor has the features: [`run`] makes one only
//! inside a function compiled for them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::{Isa, Kind};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Sixteen 32-bit words, aligned as the widest register.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lanes<T>(pub(crate) [T; LANES]);

impl<T: Copy + Default> Default for Lanes<T> {
    fn default() -> Self {
        Self([T::default(); LANES])
    }
}

/// Vectors of sixteen lanes. Every operation gives the same bits on every instruction set.
pub(crate) trait Simd: Copy {
    /// Sixteen `f32`.
    type F: Copy;
    /// Sixteen 32-bit integers, or 64 bytes.
    type I: Copy;
    /// Vectors of columns that a tile of a product has.
    const VECTORS: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, v: Self::F, out: &mut [f32; LANES]);
    /// The first lanes, zeros where `x` is shorter.
    fn load_part(self, x: &[f32]) -> Self::F;
    /// As many lanes as `out` holds.
    fn store_part(self, v: Self::F, out: &mut [f32]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` where one is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where one is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn splat_int(self, x: u32) -> Self::I;
    fn load_int(self, x: &[u32; LANES]) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// Each lane shifted right by `n < 32`, zeros from the left.
    fn shift_right(self, a: Self::I, n: u32) -> Self::I;
    /// Signed lanes as `f32`, rounded to nearest even.
    fn to_float(self, a: Self::I) -> Self::F;
    /// Adds to each lane the sum of four products of an unsigned and a signed byte, wrapping.
    fn dot(self, sum: Self::I, unsigned: Self::I, signed: Self::I) -> Self::I;
    /// The value of a code of at most 4 bits: `table[(word >> shift) & mask]`, `table` having the period `mask + 1` and
    /// being `code - zero`.
    fn small_code(
        self,
        word: Self::I,
        shift: u32,
        mask: u32,
        table: Self::F,
        zero: Self::F,
    ) -> Self::F;
}

/// A kernel with its arguments.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, simd: S);
}

/// Runs a kernel on an instruction set.
pub(crate) fn run(isa: Isa, kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn on_avx2(kernel: impl Kernel) {
        kernel.run(avx2::Avx2::new());
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn on_avx512(kernel: impl Kernel) {
        kernel.run(avx512::Avx512::new());
    }
    match isa.0 {
        Kind::Scalar => kernel.run(portable::Portable),
        // SAFETY (both): an `Isa` of this kind exists only where `Isa::available` found its features.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { on_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { on_avx512(kernel) },
        // NEON is part of the base of this architecture: the compiler vectorizes the arrays.
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => kernel.run(portable::Portable),
    }
}

/// Vectors as their elements.
pub(crate) fn flat(lanes: &[Lanes<f32>]) -> &[f32] {
    // SAFETY: `Lanes` is an array and nothing else, without padding.
    unsafe { std::slice::from_raw_parts(lanes.as_ptr().cast(), lanes.len() * LANES) }
}
