//! Scales and zero points, and how ranges become them.

use serde::{Deserialize, Serialize};

use crate::error::{QuantError, Result, check_len};
use crate::groups::{Groups, Run};
use crate::scheme::{Mapping, QuantScheme, SymmetricRange};

/// A closed interval of finite numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "(f32, f32)", into = "(f32, f32)")]
pub struct Range {
    min: f32,
    max: f32,
}

impl Range {
    /// The interval `[min, max]`.
    ///
    /// # Errors
    /// [`QuantError::Range`] unless both ends are finite and `min <= max`.
    pub fn new(min: f32, max: f32) -> Result<Self> {
        if min.is_finite() && max.is_finite() && min <= max {
            Ok(Self { min, max })
        } else {
            Err(QuantError::Range { min, max })
        }
    }

    /// The interval between two finite numbers, and 0.
    pub(crate) fn hull(a: f32, b: f32) -> Self {
        Self {
            min: a.min(b).min(0.0),
            max: a.max(b).max(0.0),
        }
    }

    /// The lower end.
    pub const fn min(&self) -> f32 {
        self.min
    }

    /// The upper end.
    pub const fn max(&self) -> f32 {
        self.max
    }

    /// The largest magnitude.
    pub fn max_abs(&self) -> f32 {
        self.min.abs().max(self.max.abs())
    }
}

impl TryFrom<(f32, f32)> for Range {
    type Error = QuantError;
    fn try_from((min, max): (f32, f32)) -> Result<Self> {
        Self::new(min, max)
    }
}

impl From<Range> for (f32, f32) {
    fn from(range: Range) -> Self {
        (range.min, range.max)
    }
}

/// The scale and zero point that represent `range` under `scheme`.
///
/// # Numerics
/// In f32, as ONNX's `DynamicQuantizeLinear` computes them. The range is widened to hold 0. Affine:
/// `scale = (max - min) / (q_max - q_min)`, `zero_point = saturate(round_half_even(q_min - min / scale))`. Symmetric:
/// the largest magnitude over `2^(b-1) - 1` (restricted) or `2^(b-1)` (full). The empty range `[0, 0]` gets scale 1;
/// a scale that would underflow becomes the smallest normal number.
pub fn scale_and_zero_point(range: Range, scheme: &QuantScheme) -> (f32, i32) {
    let half = scheme.bits().levels() / 2;
    match scheme.mapping() {
        Mapping::Symmetric(kind) => {
            let steps = if kind == SymmetricRange::Full {
                half
            } else {
                half - 1
            };
            let zero_point = scheme.symmetric_zero_point().unwrap_or(0);
            (usable_scale(range.max_abs() / steps as f32), zero_point)
        }
        Mapping::Affine => {
            let (min, max) = (range.min.min(0.0), range.max.max(0.0));
            let (q_min, q_max) = (scheme.min_code() as f32, scheme.max_code() as f32);
            let width = max - min;
            let scale = if width.is_finite() {
                width / (q_max - q_min)
            } else {
                ((f64::from(max) - f64::from(min)) / f64::from(q_max - q_min)) as f32
            };
            let scale = usable_scale(scale);
            let zero_point = (q_min - min / scale).clamp(q_min, q_max).round_ties_even();
            (scale, zero_point as i32)
        }
    }
}

fn usable_scale(scale: f32) -> f32 {
    if scale == 0.0 {
        1.0
    } else {
        scale.max(f32::MIN_POSITIVE)
    }
}

/// The scales and zero points of one tensor under one scheme.
///
/// ```
/// use quant_core::{Bits, QuantParams, QuantScheme};
/// let params = QuantParams::min_max(&[-1.0, 0.5, 2.0], &[3], &QuantScheme::affine(Bits::B8))?;
/// assert_eq!(params.scales(), [3.0 / 255.0]);
/// assert_eq!(params.zero_points(), [85]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawParams", into = "RawParams")]
pub struct QuantParams {
    scheme: QuantScheme,
    scales: Vec<f32>,
    zero_points: Vec<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParams {
    scheme: QuantScheme,
    scales: Vec<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zero_points: Option<Vec<i32>>,
}

impl TryFrom<RawParams> for QuantParams {
    type Error = QuantError;
    fn try_from(raw: RawParams) -> Result<Self> {
        match raw.zero_points {
            Some(zero_points) => Self::new(raw.scheme, raw.scales, zero_points),
            None => Self::from_scales(raw.scheme, raw.scales),
        }
    }
}

impl From<QuantParams> for RawParams {
    fn from(params: QuantParams) -> Self {
        let zero_points = params
            .scheme
            .has_zero_points()
            .then_some(params.zero_points);
        Self {
            scheme: params.scheme,
            scales: params.scales,
            zero_points,
        }
    }
}

impl QuantParams {
    /// Parameters of these scales and zero points, one of each per group.
    ///
    /// # Errors
    /// [`QuantError::Scale`] for a scale that is not positive and finite, [`QuantError::ZeroPoint`] for a zero point
    /// outside the codes (of a symmetric scheme: other than its fixed one), [`QuantError::Length`] if there are not
    /// as many of one as of the other.
    pub fn new(scheme: QuantScheme, scales: Vec<f32>, zero_points: Vec<i32>) -> Result<Self> {
        check_len("zero points", scales.len(), zero_points.len())?;
        if let Some((index, &actual)) = scales
            .iter()
            .enumerate()
            .find(|(_, s)| !(s.is_finite() && **s > 0.0))
        {
            return Err(QuantError::Scale { index, actual });
        }
        let (min, max) = match scheme.symmetric_zero_point() {
            Some(fixed) => (fixed, fixed),
            None => (scheme.min_code(), scheme.max_code()),
        };
        if let Some((index, &actual)) = zero_points
            .iter()
            .enumerate()
            .find(|(_, z)| !(min..=max).contains(*z))
        {
            return Err(QuantError::ZeroPoint {
                index,
                actual,
                min,
                max,
            });
        }
        Ok(Self {
            scheme,
            scales,
            zero_points,
        })
    }

    /// Parameters of these scales, each with the scheme's own zero point (for an affine scheme: 0, ONNX's default).
    ///
    /// # Errors
    /// [`QuantError::Scale`] for a scale that is not positive and finite.
    pub fn from_scales(scheme: QuantScheme, scales: Vec<f32>) -> Result<Self> {
        let zero_points = vec![scheme.symmetric_zero_point().unwrap_or(0); scales.len()];
        Self::new(scheme, scales, zero_points)
    }

    /// The parameters that represent one range per group: see [`scale_and_zero_point`].
    pub fn from_ranges(scheme: QuantScheme, ranges: &[Range]) -> Self {
        let (scales, zero_points) = ranges
            .iter()
            .map(|&r| scale_and_zero_point(r, &scheme))
            .unzip();
        Self {
            scheme,
            scales,
            zero_points,
        }
    }

    /// The parameters that cover all of `data`: each group's smallest and largest element.
    ///
    /// # Shapes
    /// `data` is row-major of `shape`; an empty group gets scale 1.
    ///
    /// # Numerics
    /// See [`scale_and_zero_point`].
    ///
    /// # Errors
    /// [`QuantError::Length`] if `data` does not fill `shape`, [`QuantError::Axis`] if the shape lacks the scheme's
    /// axis, [`QuantError::NonFinite`] for a NaN or an infinity.
    pub fn min_max(data: &[f32], shape: &[usize], scheme: &QuantScheme) -> Result<Self> {
        Ok(Self::from_ranges(
            *scheme,
            &min_max_ranges(data, shape, scheme)?,
        ))
    }

    /// The scheme.
    pub const fn scheme(&self) -> &QuantScheme {
        &self.scheme
    }

    /// One scale per group, real units per integer step; laid out as [`crate::scale_shape`] says.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// One zero point per group, the code of 0.
    pub fn zero_points(&self) -> &[i32] {
        &self.zero_points
    }

    /// The bytes of storing them: 4 per scale, and for an affine scheme the zero points packed like codes.
    pub fn byte_len(&self) -> usize {
        let zero_points = if self.scheme.has_zero_points() {
            crate::pack::packed_len(self.zero_points.len(), self.scheme.bits())
        } else {
            0
        };
        self.scales.len() * 4 + zero_points
    }

    /// The groups of `shape`, if these parameters have one scale for each.
    pub(crate) fn groups(&self, shape: &[usize]) -> Result<Groups> {
        let groups = Groups::new(shape, self.scheme.granularity())?;
        check_len("scales", groups.count(), self.scales.len())?;
        Ok(groups)
    }
}

/// The smallest and largest element of every group of a scheme.
///
/// # Errors
/// As [`QuantParams::min_max`].
pub fn min_max_ranges(data: &[f32], shape: &[usize], scheme: &QuantScheme) -> Result<Vec<Range>> {
    let groups = Groups::new(shape, scheme.granularity())?;
    check_len("data", groups.len(), data.len())?;
    if let Some((index, &actual)) = data.iter().enumerate().find(|(_, x)| !x.is_finite()) {
        return Err(QuantError::NonFinite { index, actual });
    }
    let mut ends = vec![(f32::INFINITY, f32::NEG_INFINITY); groups.count()];
    groups.for_each(|run| match run {
        Run::Shared { start, len, group } => {
            let part = &data[start..start + len];
            let (min, max) = part
                .iter()
                .fold(ends[group], |(lo, hi), &x| (lo.min(x), hi.max(x)));
            ends[group] = (min, max);
        }
        Run::Each { start, len, group } => {
            for (end, &x) in ends[group..group + len]
                .iter_mut()
                .zip(&data[start..start + len])
            {
                *end = (end.0.min(x), end.1.max(x));
            }
        }
    });
    let close = |(min, max): (f32, f32)| {
        if min <= max {
            Range { min, max }
        } else {
            Range { min: 0.0, max: 0.0 }
        }
    };
    Ok(ends.into_iter().map(close).collect())
}
