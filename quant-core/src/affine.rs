//! ONNX's affine map between numbers and codes, over whole tensors.

use crate::arch::{self, EachMap, Isa};
use crate::error::{Result, check_len};
use crate::groups::Run;
use crate::params::QuantParams;
use crate::scheme::{QuantScheme, Signedness};

/// One group's map: `code = saturate(round_half_even(x / scale) + zero_point)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AffineMap {
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
    /// The smallest and the largest code.
    pub(crate) min: i32,
    pub(crate) max: i32,
}

impl AffineMap {
    /// The map with this scale and zero point onto the codes of `scheme`.
    ///
    /// # Errors
    /// [`crate::QuantError::Scale`] unless the scale is positive and finite, [`crate::QuantError::ZeroPoint`] for a zero point the
    /// scheme does not allow.
    pub fn new(scale: f32, zero_point: i32, scheme: &QuantScheme) -> Result<Self> {
        let params = QuantParams::new(*scheme, vec![scale], vec![zero_point])?;
        Ok(params.affine(0))
    }

    /// The range of codes, in whole steps from the zero point.
    #[inline(always)]
    pub(crate) fn steps(self) -> (f32, f32) {
        (
            (self.min - self.zero_point) as f32,
            (self.max - self.zero_point) as f32,
        )
    }

    /// The code of `x`. Infinities saturate; NaN becomes the zero point.
    #[inline(always)]
    pub fn code(self, x: f32) -> i32 {
        let (lo, hi) = self.steps();
        // A cast of NaN is 0.
        (x / self.scale).round_ties_even().clamp(lo, hi) as i32 + self.zero_point
    }

    /// The number a code stands for, `(code - zero_point) * scale`.
    #[inline(always)]
    pub fn value(self, code: i32) -> f32 {
        (code - self.zero_point) as f32 * self.scale
    }
}

impl QuantParams {
    pub(crate) fn affine(&self, group: usize) -> AffineMap {
        AffineMap {
            scale: self.scales()[group],
            zero_point: self.zero_points()[group],
            min: self.scheme().min_code(),
            max: self.scheme().max_code(),
        }
    }

    pub(crate) fn each(&self, group: usize, len: usize) -> EachMap<'_> {
        EachMap {
            scales: &self.scales()[group..group + len],
            zero_points: &self.zero_points()[group..group + len],
            min: self.scheme().min_code(),
            max: self.scheme().max_code(),
        }
    }
}

/// Quantizes `data` to code bytes.
pub(crate) fn quantize_bytes(
    data: &[f32],
    shape: &[usize],
    params: &QuantParams,
    out: &mut [u8],
) -> Result<()> {
    let groups = params.groups(shape)?;
    check_len("data", groups.len(), data.len())?;
    check_len("codes", groups.len(), out.len())?;
    let isa = Isa::best();
    groups.for_each(|run| match run {
        Run::Shared { start, len, group } => {
            let at = start..start + len;
            arch::quantize(isa, &data[at.clone()], params.affine(group), &mut out[at]);
        }
        Run::Each { start, len, group } => {
            let at = start..start + len;
            arch::quantize_each(
                isa,
                &data[at.clone()],
                params.each(group, len),
                &mut out[at],
            );
        }
    });
    Ok(())
}

/// Dequantizes code bytes.
pub(crate) fn dequantize_bytes(
    codes: &[u8],
    shape: &[usize],
    params: &QuantParams,
    out: &mut [f32],
) -> Result<()> {
    let groups = params.groups(shape)?;
    check_len("codes", groups.len(), codes.len())?;
    check_len("data", groups.len(), out.len())?;
    let (isa, signedness) = (Isa::best(), params.scheme().signedness());
    groups.for_each(|run| match run {
        Run::Shared { start, len, group } => {
            let at = start..start + len;
            arch::dequantize(
                isa,
                &codes[at.clone()],
                signedness,
                params.affine(group),
                &mut out[at],
            );
        }
        Run::Each { start, len, group } => {
            let at = start..start + len;
            arch::dequantize_each(
                isa,
                &codes[at.clone()],
                signedness,
                params.each(group, len),
                &mut out[at],
            );
        }
    });
    Ok(())
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
    let mut codes = vec![0; data.len()];
    quantize_bytes(data, shape, params, &mut codes)?;
    let signedness = params.scheme().signedness();
    Ok(codes.into_iter().map(|c| widen(c, signedness)).collect())
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
    let groups = params.groups(shape)?;
    check_len("codes", groups.len(), codes.len())?;
    let mut out = vec![0.0; codes.len()];
    groups.for_each_element(|i, group| out[i] = params.affine(group).value(codes[i]));
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
    let mut out = vec![0.0; data.len()];
    fake_quantize_into(data, shape, params, &mut out)?;
    Ok(out)
}

/// [`fake_quantize`] into a slice as long as `data`.
///
/// # Errors
/// As [`fake_quantize`], and [`crate::QuantError::Length`] if `out` has another length.
pub fn fake_quantize_into(
    data: &[f32],
    shape: &[usize],
    params: &QuantParams,
    out: &mut [f32],
) -> Result<()> {
    let groups = params.groups(shape)?;
    check_len("data", groups.len(), data.len())?;
    check_len("output", groups.len(), out.len())?;
    let isa = Isa::best();
    groups.for_each(|run| match run {
        Run::Shared { start, len, group } => {
            let at = start..start + len;
            arch::fake_quantize(isa, &data[at.clone()], params.affine(group), &mut out[at]);
        }
        Run::Each { start, len, group } => {
            let at = start..start + len;
            arch::fake_quantize_each(
                isa,
                &data[at.clone()],
                params.each(group, len),
                &mut out[at],
            );
        }
    });
    Ok(())
}

/// How `x / scale` is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Division {
    /// Divided and rounded once: ONNX.
    #[default]
    Exact,
    /// Times the rounded reciprocal: PyTorch's `fake_quantize`. May differ next to a half step.
    Reciprocal,
}

/// [`fake_quantize`] with a chosen division; [`Division::Reciprocal`] gives PyTorch's bits for all numbers (a NaN, which
/// PyTorch makes the smallest code, becomes the zero point here).
///
/// # Errors
/// As [`fake_quantize`].
pub fn fake_quantize_with(
    data: &[f32],
    shape: &[usize],
    params: &QuantParams,
    division: Division,
) -> Result<Vec<f32>> {
    if division == Division::Exact {
        return fake_quantize(data, shape, params);
    }
    let groups = params.groups(shape)?;
    check_len("data", groups.len(), data.len())?;
    let mut out = vec![0.0; data.len()];
    let one = |x: f32, map: AffineMap| {
        let (lo, hi) = map.steps();
        (x * (1.0 / map.scale)).round_ties_even().clamp(lo, hi) as i32 as f32 * map.scale
    };
    groups.for_each_element(|i, group| out[i] = one(data[i], params.affine(group)));
    Ok(out)
}
