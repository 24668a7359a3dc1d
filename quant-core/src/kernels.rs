//! The crate's kernels on slices, on a chosen instruction set.
//!
//! The functions of the crate's root use [`Isa::best`]; here a test or a bench can name another. All instruction sets give the
//! same bits.

pub use crate::affine::AffineMap;
use crate::arch;
pub use crate::arch::Isa;
use crate::error::{Result, check_len};
use crate::pack::packed_len;
use crate::scheme::{Bits, Signedness};

impl Isa {
    /// Quantizes `x` by one map to code bytes.
    ///
    /// # Numerics
    /// `saturate(round_half_even(x / scale) + zero_point)` in f32; infinities saturate, NaN becomes the zero point,
    /// denormals count as what they are.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] unless `x` and `out` are as long as each other.
    ///
    /// ```
    /// use quant_core::kernels::{AffineMap, Isa};
    /// use quant_core::{Bits, QuantScheme};
    /// let map = AffineMap::new(0.5, 0, &QuantScheme::symmetric(Bits::B8))?;
    /// let mut codes = [0u8; 4];
    /// Isa::best().quantize(&[0.25, 0.75, -100.0, f32::NAN], map, &mut codes)?;
    /// assert_eq!(codes.map(|c| c as i8), [0, 2, -127, 0]);
    /// # Ok::<(), quant_core::QuantError>(())
    /// ```
    pub fn quantize(self, x: &[f32], map: AffineMap, out: &mut [u8]) -> Result<()> {
        check_len("codes", x.len(), out.len())?;
        arch::quantize(self, x, map, out);
        Ok(())
    }

    /// Dequantizes code bytes by one map: `(code - zero_point) * scale`.
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] unless `codes` and `out` are as long as each other.
    pub fn dequantize(
        self,
        codes: &[u8],
        signedness: Signedness,
        map: AffineMap,
        out: &mut [f32],
    ) -> Result<()> {
        check_len("data", codes.len(), out.len())?;
        arch::dequantize(self, codes, signedness, map, out);
        Ok(())
    }

    /// [`Isa::quantize`], then [`Isa::dequantize`].
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] unless `x` and `out` are as long as each other.
    pub fn fake_quantize(self, x: &[f32], map: AffineMap, out: &mut [f32]) -> Result<()> {
        check_len("data", x.len(), out.len())?;
        arch::fake_quantize(self, x, map, out);
        Ok(())
    }

    /// Packs code bytes: see [`crate::pack_into`].
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] unless `out` has the packed length.
    pub fn pack(self, codes: &[u8], bits: Bits, out: &mut [u8]) -> Result<()> {
        check_len("packed bytes", packed_len(codes.len(), bits), out.len())?;
        match bits {
            Bits::B8 => out.copy_from_slice(codes),
            _ => arch::pack(self, codes, bits, out),
        }
        Ok(())
    }

    /// Unpacks code bytes: see [`crate::unpack_into`].
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] unless `packed` has the packed length of `out`.
    pub fn unpack(
        self,
        packed: &[u8],
        bits: Bits,
        signedness: Signedness,
        out: &mut [u8],
    ) -> Result<()> {
        check_len("packed bytes", packed_len(out.len(), bits), packed.len())?;
        match bits {
            Bits::B8 => out.copy_from_slice(packed),
            _ => arch::unpack(self, packed, bits, signedness, out),
        }
        Ok(())
    }

    /// The sum of products of signed bytes: see [`crate::dot`].
    ///
    /// # Errors
    /// [`crate::QuantError::Length`] unless `a` and `b` are as long as each other.
    pub fn dot(self, a: &[i8], b: &[i8]) -> Result<i32> {
        check_len("the second operand", a.len(), b.len())?;
        Ok(arch::dot(self, a, b))
    }
}
