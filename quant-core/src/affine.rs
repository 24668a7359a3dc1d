//! ONNX's affine map between numbers and codes, over whole tensors.

use crate::error::{Result, check_len};
use crate::groups::Run;
use crate::params::QuantParams;
use crate::scheme::Signedness;

/// One group's map: `code = saturate(round_half_even(x / scale) + zero_point)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Affine {
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
    /// The smallest and the largest code.
    pub(crate) min: i32,
    pub(crate) max: i32,
}

impl Affine {
    /// The code of `x`. Infinities saturate; NaN becomes the zero point.
    #[inline(always)]
    pub(crate) fn code(self, x: f32) -> i32 {
        let (lo, hi) = (
            (self.min - self.zero_point) as f32,
            (self.max - self.zero_point) as f32,
        );
        // A cast of NaN is 0.
        (x / self.scale).round_ties_even().clamp(lo, hi) as i32 + self.zero_point
    }

    /// The number a code stands for.
    #[inline(always)]
    pub(crate) fn value(self, code: i32) -> f32 {
        (code - self.zero_point) as f32 * self.scale
    }
}

impl QuantParams {
    pub(crate) fn affine(&self, group: usize) -> Affine {
        Affine {
            scale: self.scales()[group],
            zero_point: self.zero_points()[group],
            min: self.scheme().min_code(),
            max: self.scheme().max_code(),
        }
    }
}

/// Calls `f(element, its group's map)` for all elements in order.
fn for_each_element(
    params: &QuantParams,
    shape: &[usize],
    mut f: impl FnMut(usize, Affine),
) -> Result<()> {
    params.groups(shape)?.for_each(|run| match run {
        Run::Shared { start, len, group } => {
            let affine = params.affine(group);
            (start..start + len).for_each(|i| f(i, affine));
        }
        Run::Each { start, len, group } => {
            (0..len).for_each(|i| f(start + i, params.affine(group + i)))
        }
    });
    Ok(())
}

/// Quantizes `data` to code bytes.
pub(crate) fn quantize_bytes(
    data: &[f32],
    shape: &[usize],
    params: &QuantParams,
    out: &mut [u8],
) -> Result<()> {
    let len = params.groups(shape)?.len();
    check_len("data", len, data.len())?;
    check_len("codes", len, out.len())?;
    for_each_element(params, shape, |i, affine| {
        out[i] = affine.code(data[i]) as u8
    })
}

/// Dequantizes code bytes.
pub(crate) fn dequantize_bytes(
    codes: &[u8],
    shape: &[usize],
    params: &QuantParams,
    out: &mut [f32],
) -> Result<()> {
    let len = params.groups(shape)?.len();
    check_len("codes", len, codes.len())?;
    check_len("data", len, out.len())?;
    let signedness = params.scheme().signedness();
    for_each_element(params, shape, |i, affine| {
        out[i] = affine.value(widen(codes[i], signedness))
    })
}

/// A code byte as a number.
#[inline(always)]
pub(crate) fn widen(code: u8, signedness: Signedness) -> i32 {
    match signedness {
        Signedness::Signed => i32::from(code as i8),
        Signedness::Unsigned => i32::from(code),
    }
}

/// The codes of `data`: ONNX's `QuantizeLinear`, `y = saturate(round_half_even(x / scale) + zero_point)`.
///
/// # Shapes
/// `data` is row-major of `shape`, and so is the result.
///
/// # Numerics
/// f32: divide, round, then add. Infinities saturate, NaN becomes the zero point.
///
/// # Errors
/// [`crate::QuantError::Length`] if `data` does not fill `shape` or there is not one scale per group,
/// [`crate::QuantError::Axis`] if the shape lacks the scheme's axis.
///
/// ```
/// use quant_core::{Bits, QuantParams, QuantScheme, quantize};
/// let params = QuantParams::from_scales(QuantScheme::symmetric(Bits::B8), vec![2.0])?;
/// // Halves go to even; what is too large saturates.
/// assert_eq!(quantize(&[1.0, 3.0, 5.0, 1e9], &[4], &params)?, [0, 2, 2, 127]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub fn quantize(data: &[f32], shape: &[usize], params: &QuantParams) -> Result<Vec<i32>> {
    check_len("data", params.groups(shape)?.len(), data.len())?;
    let mut codes = vec![0; data.len()];
    for_each_element(params, shape, |i, affine| codes[i] = affine.code(data[i]))?;
    Ok(codes)
}

/// The numbers that codes stand for: ONNX's `DequantizeLinear`, `(code - zero_point) * scale`.
///
/// # Shapes
/// `codes` is row-major of `shape`, and so is the result.
///
/// # Numerics
/// The difference is exact, the product rounded once to f32. Codes outside the scheme are taken as they are.
///
/// # Errors
/// As [`quantize`].
pub fn dequantize(codes: &[i32], shape: &[usize], params: &QuantParams) -> Result<Vec<f32>> {
    check_len("codes", params.groups(shape)?.len(), codes.len())?;
    let mut out = vec![0.0; codes.len()];
    for_each_element(params, shape, |i, affine| out[i] = affine.value(codes[i]))?;
    Ok(out)
}

/// `data` after a round trip through codes: `dequantize(quantize(data))` without storing the codes.
///
/// # Shapes, Numerics, Errors
/// As [`quantize`] and [`dequantize`].
///
/// ```
/// use quant_core::{Bits, QuantParams, QuantScheme, fake_quantize};
/// let params = QuantParams::from_scales(QuantScheme::symmetric(Bits::B4), vec![0.5])?;
/// assert_eq!(fake_quantize(&[0.3, -0.7, 9.0], &[3], &params)?, [0.5, -0.5, 3.5]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub fn fake_quantize(data: &[f32], shape: &[usize], params: &QuantParams) -> Result<Vec<f32>> {
    check_len("data", params.groups(shape)?.len(), data.len())?;
    let mut out = vec![0.0; data.len()];
    for_each_element(params, shape, |i, affine| {
        out[i] = affine.value(affine.code(data[i]))
    })?;
    Ok(out)
}
