//! A quantized tensor that cannot be inconsistent.

use crate::affine::{dequantize_bytes, quantize_bytes, widen};
use crate::error::{QuantError, Result, check_len};
use crate::groups::element_count;
use crate::pack::{check_padding, pack, packed_len, unpack};
use crate::params::QuantParams;
use crate::scheme::{QuantScheme, Signedness};

/// Shape, scheme, parameters and packed codes of a tensor; the parts always fit each other.
///
/// ```
/// use quant_core::{Bits, QuantScheme, QuantizedTensor};
/// let weights = [0.9f32, -0.3, 0.1, 0.6];
/// let q = QuantizedTensor::quantize(&weights, &[2, 2], &QuantScheme::symmetric(Bits::B4))?;
/// assert_eq!(q.codes(), [7, -2, 1, 5]);
/// assert_eq!(q.packed_bytes(), [0xe7, 0x51]);
/// assert_eq!(q.byte_len(), 2 + 4); // four nibbles and one scale
/// let back = q.dequantize();
/// assert!(weights.iter().zip(&back).all(|(w, b)| (w - b).abs() <= 0.5 * q.params().scales()[0]));
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedTensor {
    shape: Vec<usize>,
    params: QuantParams,
    packed: Vec<u8>,
}

impl QuantizedTensor {
    /// Quantizes `data` with each group's min-max parameters.
    ///
    /// # Shapes
    /// `data` is row-major of `shape`.
    ///
    /// # Numerics
    /// [`QuantParams::min_max`], then [`crate::quantize`].
    ///
    /// # Errors
    /// [`QuantError::Length`], [`QuantError::Axis`] and [`QuantError::NonFinite`] as [`QuantParams::min_max`].
    pub fn quantize(data: &[f32], shape: &[usize], scheme: &QuantScheme) -> Result<Self> {
        let params = QuantParams::min_max(data, shape, scheme)?;
        Self::quantize_with(data, shape, params)
    }

    /// Quantizes `data` with given parameters.
    ///
    /// # Errors
    /// As [`crate::quantize`].
    pub fn quantize_with(data: &[f32], shape: &[usize], params: QuantParams) -> Result<Self> {
        check_len("data", element_count(shape)?, data.len())?;
        let mut codes = vec![0; data.len()];
        quantize_bytes(data, shape, &params, &mut codes)?;
        let packed = pack(&codes, params.scheme().bits());
        Ok(Self {
            shape: shape.to_vec(),
            params,
            packed,
        })
    }

    /// A tensor of these codes.
    ///
    /// # Shapes
    /// `codes` is row-major of `shape`; `params` has one scale per group of it.
    ///
    /// # Errors
    /// [`QuantError::Length`] or [`QuantError::Axis`] if the parts do not fit the shape, [`QuantError::Code`] for a
    /// code outside the scheme.
    pub fn from_codes(shape: &[usize], params: QuantParams, codes: &[i32]) -> Result<Self> {
        check_len("codes", params.groups(shape)?.len(), codes.len())?;
        check_codes(codes.iter().copied(), params.scheme())?;
        let bytes: Vec<u8> = codes.iter().map(|&c| c as u8).collect();
        let packed = pack(&bytes, params.scheme().bits());
        Ok(Self {
            shape: shape.to_vec(),
            params,
            packed,
        })
    }

    /// A tensor of codes that are packed already, as [`crate::pack`] packs them.
    ///
    /// # Errors
    /// As [`QuantizedTensor::from_codes`], and [`QuantError::Padding`] if the last byte's unused bits are not zero.
    pub fn from_packed(shape: &[usize], params: QuantParams, packed: Vec<u8>) -> Result<Self> {
        let len = params.groups(shape)?.len();
        let scheme = *params.scheme();
        check_len("packed bytes", packed_len(len, scheme.bits()), packed.len())?;
        check_padding(&packed, scheme.bits(), len)?;
        let codes = unpack(&packed, scheme.bits(), scheme.signedness(), len)?;
        check_codes(
            codes.iter().map(|&c| widen(c, scheme.signedness())),
            &scheme,
        )?;
        Ok(Self {
            shape: shape.to_vec(),
            params,
            packed,
        })
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scheme.
    pub const fn scheme(&self) -> &QuantScheme {
        self.params.scheme()
    }

    /// Scales and zero points.
    pub const fn params(&self) -> &QuantParams {
        &self.params
    }

    /// The packed codes, [`packed_len`] bytes.
    pub fn packed_bytes(&self) -> &[u8] {
        &self.packed
    }

    /// The bytes of storing it: packed codes, scales and zero points.
    pub fn byte_len(&self) -> usize {
        self.packed.len() + self.params.byte_len()
    }

    /// One byte per code, row-major: two's complement for signed codes.
    pub fn code_bytes(&self) -> Vec<u8> {
        let scheme = self.scheme();
        match unpack(&self.packed, scheme.bits(), scheme.signedness(), self.len()) {
            Ok(codes) => codes,
            Err(_) => unreachable!("the packed length was checked at construction"),
        }
    }

    /// The codes as numbers, row-major.
    pub fn codes(&self) -> Vec<i32> {
        let signedness: Signedness = self.scheme().signedness();
        self.code_bytes()
            .into_iter()
            .map(|c| widen(c, signedness))
            .collect()
    }

    /// The numbers the codes stand for, row-major.
    ///
    /// # Numerics
    /// `(code - zero_point) * scale` in f32, as [`crate::dequantize`].
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        match dequantize_bytes(&self.code_bytes(), &self.shape, &self.params, &mut out) {
            Ok(()) => out,
            Err(_) => unreachable!("the parts were checked against each other at construction"),
        }
    }
}

fn check_codes(codes: impl Iterator<Item = i32>, scheme: &QuantScheme) -> Result<()> {
    let (min, max) = (scheme.min_code(), scheme.max_code());
    match codes.enumerate().find(|(_, c)| !(min..=max).contains(c)) {
        Some((index, actual)) => Err(QuantError::Code {
            index,
            actual,
            min,
            max,
        }),
        None => Ok(()),
    }
}
