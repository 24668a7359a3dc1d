//! The SIMD kernels and the one place that chooses among them.
//!
//! Every kernel exists as plain Rust in `scalar`, which is the oracle the tests hold the others to; `avx2`, `avx512` and
//! `neon` are optional. A kernel takes slices whose lengths the caller has checked, and is bounds-checked all the same
//! but for the loads and stores in the small helpers at the top of each file, whose arguments are arrays or masked by
//! the slice's length. Results are the same bits on every instruction set.
//!
//! `unsafe` in this crate stands here only: in those helpers, and in the dispatch below, where a call is sound because
//! an [`Isa`] can only be had for a processor that has the features.

use std::sync::OnceLock;

use crate::affine::AffineMap;
use crate::scheme::{Bits, Signedness};
use crate::tiles::{Block, PANEL};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(test, unix, not(miri)))]
mod guard;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

pub(crate) mod epilogue;
pub(crate) mod gemm;
pub(crate) mod quantize_rows;
pub(crate) mod simd;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// An instruction set this processor has; holding one is the proof.
///
/// | name | needs |
/// |---|---|
/// | `scalar` | nothing |
/// | `avx2` | AVX2, FMA, BMI2 |
/// | `avx512` | AVX-512 F, BW, VL, VBMI and VNNI (Ice Lake, Zen 4 and later) |
/// | `neon` | NEON and DOTPROD |
///
/// ```
/// use quant_core::kernels::Isa;
/// assert!(Isa::available().contains(&Isa::best()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(Kind);

impl Isa {
    /// Plain Rust.
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The fastest instruction set of this processor; what every function of the crate uses by itself.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::SCALAR))
    }

    /// All instruction sets of this processor that there are kernels for, slowest first.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut, reason = "some targets have only the scalar kernels")]
        let mut found = vec![Self::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi2");
            if avx2 {
                found.push(Isa(Kind::Avx2));
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && avx512 {
                found.push(Isa(Kind::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("dotprod")
        {
            found.push(Isa(Kind::Neon));
        }
        found
    }

    /// Its name in lower case.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }

    /// How the product kernels take activations: the signedness of the bytes in a quad.
    pub(crate) const fn quad_signedness(self) -> Signedness {
        match self.0 {
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => Signedness::Signed,
            _ => Signedness::Unsigned,
        }
    }

    /// The most rows of a tile of [`gemm::DenseTile`].
    pub(crate) const fn tile_rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 12,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 6,
            _ => 4,
        }
    }

    /// The most rows of a tile with two sums for each element: [`gemm::CodeTile`] and [`gemm::IntTile`].
    pub(crate) const fn block_rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 6,
            _ => 2,
        }
    }

    /// The most rows of activations a product kernel takes at once.
    pub(crate) const fn max_rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 12,
            _ => 4,
        }
    }
}

/// Defines safe functions that run the kernel of the same name in the module of the given instruction set.
macro_rules! dispatched {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)?;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name(isa: Isa, $($arg: $ty),*) $(-> $out)? {
            match isa.0 {
                Kind::Scalar => scalar::$name($($arg),*),
                // SAFETY (all three): an `Isa` of this kind exists only where `Isa::available` found its features.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2::$name($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => unsafe { avx512::$name($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                Kind::Neon => unsafe { neon::$name($($arg),*) },
            }
        }
    )*};
}

/// Maps that differ from element to element: one scale and zero point for each, and the range of codes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EachMap<'a> {
    pub(crate) scales: &'a [f32],
    pub(crate) zero_points: &'a [i32],
    pub(crate) min: i32,
    pub(crate) max: i32,
}

impl EachMap<'_> {
    #[inline(always)]
    fn at(&self, i: usize) -> AffineMap {
        AffineMap {
            scale: self.scales[i],
            zero_point: self.zero_points[i],
            min: self.min,
            max: self.max,
        }
    }
}

/// One tile of a product: some rows of activations against one panel of weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile<'a, A> {
    /// Activations, `[k / 4][rows]` quads of bytes or `[k][rows]` floats, k rounded up to a multiple of 4.
    pub(crate) a: &'a [A],
    /// 1 to [`Isa::max_rows`].
    pub(crate) rows: usize,
    /// `[k / 4][2]` blocks.
    pub(crate) panel: &'a [Block],
    /// How many of the panel's columns are stored, 1 to [`PANEL`].
    pub(crate) columns: usize,
    /// Elements from one row of the output to the next.
    pub(crate) stride: usize,
}

dispatched! {
    /// Code bytes of `x`. As long as each other: `x`, `out`.
    fn quantize(x: &[f32], map: AffineMap, out: &mut [u8]);
    /// Values of code bytes. As long as each other: `codes`, `out`.
    fn dequantize(codes: &[u8], signedness: Signedness, map: AffineMap, out: &mut [f32]);
    /// Values of the codes of `x`. As long as each other: `x`, `out`.
    fn fake_quantize(x: &[f32], map: AffineMap, out: &mut [f32]);
    /// As `quantize`, element `i` by map `i`.
    fn quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [u8]);
    /// As `dequantize`, element `i` by map `i`.
    fn dequantize_each(codes: &[u8], signedness: Signedness, maps: EachMap<'_>, out: &mut [f32]);
    /// As `fake_quantize`, element `i` by map `i`.
    fn fake_quantize_each(x: &[f32], maps: EachMap<'_>, out: &mut [f32]);
    /// Packs code bytes of 2 to 7 bits; `out` has the packed length.
    fn pack(codes: &[u8], bits: Bits, out: &mut [u8]);
    /// Unpacks code bytes of 2 to 7 bits; `packed` has the packed length.
    fn unpack(packed: &[u8], bits: Bits, signedness: Signedness, out: &mut [u8]);
    /// The sum of products, wrapping at 32 bits. As long as each other: `a`, `b`.
    fn dot(a: &[i8], b: &[i8]) -> i32;
    /// `out[r][c] = init[c] + sum_k a[r][k] * panel[k][c]`, wrapping at 32 bits.
    fn tile_i32(tile: Tile<'_, u32>, init: &[i32; PANEL], out: &mut [i32]);
    /// `out[r][c] = scales[c] * sum_k a[r][k] * (panel[k][c] - zero_points[c])`: fused multiply-adds in the order of k.
    fn tile_f32(tile: Tile<'_, f32>, zero_points: &[i32; PANEL], scales: &[f32; PANEL], out: &mut [f32]);
}
