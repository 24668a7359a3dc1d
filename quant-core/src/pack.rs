//! Codes as bytes: ONNX's packing of 2 and 4 bits, and the same rule for every other width.
//!
//! Code `i` of width `b` stands in bits `i b .. (i + 1) b` of the byte string, counted from the lowest bit of the first
//! byte. For 4 and 2 bits this is ONNX's order (first element in the lowest bits), 8 bits are the bytes themselves, and
//! 3, 5, 6 and 7 bits are a dense stream. The last byte is padded with zero bits.
//!
//! A *code byte* is one code in a byte of its own: two's complement for signed codes, else the plain number.

use crate::arch::Isa;
use crate::error::{QuantError, Result, check_len};
use crate::scheme::{Bits, Signedness};

/// The bytes that `len` codes of width `bits` take: `ceil(len * bits / 8)`.
///
/// ```
/// use quant_core::{Bits, packed_len};
/// assert_eq!(packed_len(5, Bits::B4), 3);
/// assert_eq!(packed_len(9, Bits::B3), 4);
/// ```
pub const fn packed_len(len: usize, bits: Bits) -> usize {
    let b = bits.get() as usize;
    (len / 8) * b + ((len % 8) * b).div_ceil(8)
}

/// Packs code bytes into `out`; of each byte only the low `bits` bits count.
///
/// # Shapes
/// `out` holds [`packed_len`]`(codes.len(), bits)` bytes.
///
/// # Errors
/// [`QuantError::Length`] if `out` has another length.
pub fn pack_into(codes: &[u8], bits: Bits, out: &mut [u8]) -> Result<()> {
    Isa::best().pack(codes, bits, out)
}

/// Packs code bytes: see [`pack_into`].
///
/// ```
/// use quant_core::{Bits, pack};
/// // ONNX: the first element in the low nibble, -1 as 0xf.
/// assert_eq!(pack(&[1, -1i8 as u8, 7], Bits::B4), [0xf1, 0x07]);
/// ```
pub fn pack(codes: &[u8], bits: Bits) -> Vec<u8> {
    let mut out = vec![0; packed_len(codes.len(), bits)];
    match pack_into(codes, bits, &mut out) {
        Ok(()) => out,
        Err(_) => unreachable!("the output has the packed length"),
    }
}

/// Unpacks as many code bytes as `out` holds, with the sign extended for signed codes.
///
/// # Shapes
/// `packed` holds [`packed_len`]`(out.len(), bits)` bytes.
///
/// # Errors
/// [`QuantError::Length`] if `packed` has another length.
pub fn unpack_into(
    packed: &[u8],
    bits: Bits,
    signedness: Signedness,
    out: &mut [u8],
) -> Result<()> {
    Isa::best().unpack(packed, bits, signedness, out)
}

/// Unpacks `len` code bytes: see [`unpack_into`].
///
/// # Errors
/// [`QuantError::Length`] if `packed` does not hold exactly `len` codes.
pub fn unpack(packed: &[u8], bits: Bits, signedness: Signedness, len: usize) -> Result<Vec<u8>> {
    check_len("packed bytes", packed_len(len, bits), packed.len())?;
    let mut out = vec![0; len];
    unpack_into(packed, bits, signedness, &mut out)?;
    Ok(out)
}

/// Checks that the bits after the last of `len` codes are zero.
pub(crate) fn check_padding(packed: &[u8], bits: Bits, len: usize) -> Result<()> {
    let used = (len % 8) * usize::from(bits.get()) % 8;
    match packed.last() {
        Some(&actual) if used != 0 && actual >> used != 0 => Err(QuantError::Padding {
            bits: 8 - used,
            actual,
        }),
        _ => Ok(()),
    }
}
