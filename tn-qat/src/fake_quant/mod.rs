//! Fake quantization: the forward pass of a quantizer in floating point, and gradients for what it does not let through.

mod init;
mod schedule;
#[cfg(test)]
mod tests;

use quant_core::{Granularity, Groups, QuantParams, QuantScheme, QuantizedTensor, Run};
use tn_formats::Real;

pub use init::{StepInit, Steps};
pub use schedule::{QatPhase, QatSchedule};

use crate::error::{Result, check_len};

/// The smallest step the forward pass uses, whatever an optimizer left behind.
const SMALLEST_STEP: f64 = f32::MIN_POSITIVE as f64;

/// Fake quantization of one tensor under one scheme, with learned steps and zero points.
///
/// Forward, with step `s`, zero point `z` rounded to an integer, and codes from `q_min` to `q_max`:
///
/// ```text
/// v = w / s      q = round_half_even(clamp(v, q_min - z, q_max - z))      ŵ = q s
/// ```
///
/// which equals [`quant_core::fake_quantize`] bit for bit in f32. Backward, for a gradient `g` of `ŵ`:
///
/// | `v` | gradient of `w` | of `s` | of `z` |
/// |---|---|---|---|
/// | within the clip range (ends included) | `g` | `g (q - v)` | 0 |
/// | outside | 0 | `g q` | `-g s` |
///
/// The gradients of `s` and `z` are summed over their group and multiplied by `1 / sqrt(n q_max)`, n elements in a group.
///
/// # Source
/// Straight-through with clipping and the step's gradient: Esser et al. 2020, arXiv 1902.08153, equations 3 and 4,
/// section 2.2 for the factor. The learned offset: Bhalgat et al. 2020, arXiv 2004.09576 (LSQ+), with the offset as an
/// integer zero point, so that the result is what ONNX's `DequantizeLinear` computes.
///
/// ```
/// use quant_core::{Bits, QuantScheme};
/// use tn_qat::FakeQuant;
/// let fq = FakeQuant::new(QuantScheme::symmetric(Bits::B4), &[3])?;
/// let (w, steps) = ([0.30f32, -0.74, 9.0], [0.5]);
/// let mut out = [0.0; 3];
/// fq.forward(&w, &steps, None, &mut out)?;
/// assert_eq!(out, [0.5, -0.5, 3.5]);
/// let (mut g, mut ds) = ([1.0f32, 1.0, 1.0], [0.0]);
/// fq.backward(&w, &steps, None, &mut g, &mut ds, None)?;
/// assert_eq!(g, [1.0, 1.0, 0.0]);
/// let expected = ((1.0 - 0.6) + (-1.0 + 1.48) + 7.0) / (3.0f32 * 7.0).sqrt();
/// assert!((ds[0] - expected).abs() < 1e-6);
/// # Ok::<(), tn_qat::QatError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct FakeQuant {
    scheme: QuantScheme,
    shape: Vec<usize>,
    groups: Groups,
}

/// One group's numbers in the element type.
#[derive(Clone, Copy)]
struct Clip<T> {
    step: T,
    lo: T,
    hi: T,
}

impl<T: Real> Clip<T> {
    /// `(v, clamped v, code relative to the zero point)`.
    #[inline(always)]
    fn map(self, w: T, magic: T) -> (T, T, T) {
        let v = w / self.step;
        let clamped = v.max(self.lo).min(self.hi);
        (v, clamped, (clamped + magic) - magic)
    }
}

/// Adding and subtracting it rounds to integers, halves to even: 1.5 times the first power of two whose spacing is 1.
fn magic<T: Real>() -> T {
    T::narrow(0.75 / T::UNIT_ROUNDOFF)
}

impl FakeQuant {
    /// A fake quantizer for tensors of `shape`.
    ///
    /// # Errors
    /// [`crate::QatError::Quant`] when the shape lacks the scheme's axis.
    pub fn new(scheme: QuantScheme, shape: &[usize]) -> Result<Self> {
        let groups = Groups::new(shape, scheme.granularity())?;
        Ok(Self {
            scheme,
            shape: shape.to_vec(),
            groups,
        })
    }

    /// The scheme.
    pub fn scheme(&self) -> &QuantScheme {
        &self.scheme
    }

    /// Number of steps.
    pub fn groups(&self) -> usize {
        self.groups.count()
    }

    /// The factor on gradients of steps and zero points, `1 / sqrt(n q_max)`.
    pub fn gradient_factor(&self) -> f64 {
        let q_max =
            f64::from(self.scheme.max_code() - self.fixed_zero_point().unwrap_or(0)).max(1.0);
        1.0 / (self.groups.group_len().max(1) as f64 * q_max).sqrt()
    }

    /// The quantizer of one row of a matrix quantized per row or in blocks of a row, and the range of its steps.
    pub(crate) fn row(&self, row: usize) -> Result<(FakeQuant, std::ops::Range<usize>)> {
        let rows = self.shape.first().copied().unwrap_or(1).max(1);
        let width = self.groups.len() / rows;
        let granularity = match self.scheme.granularity() {
            Granularity::PerBlock {
                axis: 1,
                block_size,
            } => Granularity::PerBlock {
                axis: 0,
                block_size,
            },
            _ => Granularity::PerTensor,
        };
        let groups = self.groups.count() / rows;
        let fake = FakeQuant::new(self.scheme.with_granularity(granularity), &[width])?;
        Ok((fake, row * groups..(row + 1) * groups))
    }

    fn fixed_zero_point(&self) -> Option<i32> {
        self.scheme.symmetric_zero_point()
    }

    fn check<T>(&self, w: usize, steps: &[T], zero_points: Option<&[T]>) -> Result<()> {
        check_len("elements of a fake-quantized tensor", self.groups.len(), w)?;
        check_len("steps", self.groups.count(), steps.len())?;
        if self.scheme.has_zero_points() {
            check_len(
                "zero points",
                self.groups.count(),
                zero_points.map_or(0, <[T]>::len),
            )?;
        }
        Ok(())
    }

    fn zero_point<T: Real>(&self, zero_points: Option<&[T]>, group: usize) -> T {
        match (self.fixed_zero_point(), zero_points) {
            (Some(z), _) => T::narrow(f64::from(z)),
            (None, Some(z)) => {
                let (lo, hi) = (
                    T::narrow(f64::from(self.scheme.min_code())),
                    T::narrow(f64::from(self.scheme.max_code())),
                );
                (z[group].max(lo).min(hi) + magic::<T>()) - magic::<T>()
            }
            (None, None) => T::zero(),
        }
    }

    fn clip<T: Real>(&self, steps: &[T], zero_points: Option<&[T]>, group: usize) -> Clip<T> {
        let z = self.zero_point(zero_points, group);
        Clip {
            step: steps[group].max(T::narrow(SMALLEST_STEP)),
            lo: T::narrow(f64::from(self.scheme.min_code())) - z,
            hi: T::narrow(f64::from(self.scheme.max_code())) - z,
        }
    }

    /// `out = ŵ`.
    ///
    /// # Shapes
    /// `w` and `out` have the elements of the shape; one step (and zero point) per group.
    ///
    /// # Numerics
    /// Divide, clamp, round half to even, multiply, each rounded once to `T`. A step below f32's smallest normal number
    /// counts as that number. NaN becomes the lowest code.
    ///
    /// # Errors
    /// [`crate::QatError::Length`].
    pub fn forward<T: Real>(
        &self,
        w: &[T],
        steps: &[T],
        zero_points: Option<&[T]>,
        out: &mut [T],
    ) -> Result<()> {
        self.check(w.len(), steps, zero_points)?;
        check_len("fake-quantized elements", w.len(), out.len())?;
        let magic = magic::<T>();
        self.groups.for_each(|run| match run {
            Run::Shared { start, len, group } => {
                let clip = self.clip(steps, zero_points, group);
                for (o, &w) in out[start..start + len]
                    .iter_mut()
                    .zip(&w[start..start + len])
                {
                    *o = clip.map(w, magic).2 * clip.step;
                }
            }
            Run::Each { start, len, group } => {
                for i in 0..len {
                    let clip = self.clip(steps, zero_points, group + i);
                    out[start + i] = clip.map(w[start + i], magic).2 * clip.step;
                }
            }
        });
        Ok(())
    }

    /// Turns the gradient of `ŵ` into that of `w`, and adds the gradients of steps and zero points to theirs.
    ///
    /// # Shapes
    /// As [`FakeQuant::forward`]; `gradient` like `w`, `d_steps` and `d_zero_points` like their parameters.
    ///
    /// # Numerics
    /// The table above; sums over a group run in f64 over partial sums of 64 elements in `T`.
    ///
    /// # Errors
    /// [`crate::QatError::Length`].
    pub fn backward<T: Real>(
        &self,
        w: &[T],
        steps: &[T],
        zero_points: Option<&[T]>,
        gradient: &mut [T],
        d_steps: &mut [T],
        mut d_zero_points: Option<&mut [T]>,
    ) -> Result<()> {
        self.check(w.len(), steps, zero_points)?;
        check_len(
            "gradient of a fake-quantized tensor",
            w.len(),
            gradient.len(),
        )?;
        check_len("gradients of steps", steps.len(), d_steps.len())?;
        if let Some(dz) = d_zero_points.as_deref() {
            check_len("gradients of zero points", steps.len(), dz.len())?;
        }
        let factor = self.gradient_factor();
        let mut add = |group: usize, ds: f64, dz: f64| {
            d_steps[group] += T::narrow(ds * factor);
            if let Some(d) = d_zero_points.as_deref_mut() {
                d[group] += T::narrow(dz * factor);
            }
        };
        self.groups.for_each(|run| match run {
            Run::Shared { start, len, group } => {
                let clip = self.clip(steps, zero_points, group);
                let (mut ds, mut dz) = (0.0, 0.0);
                for (w, g) in w[start..start + len]
                    .chunks(64)
                    .zip(gradient[start..start + len].chunks_mut(64))
                {
                    let (s, z) = backward_chunk(clip, w, g);
                    ds += s.widen();
                    dz += z.widen();
                }
                add(group, ds, dz);
            }
            Run::Each { start, len, group } => {
                for i in 0..len {
                    let clip = self.clip(steps, zero_points, group + i);
                    let at = start + i..start + i + 1;
                    let (ds, dz) = backward_chunk(clip, &w[at.clone()], &mut gradient[at]);
                    add(group + i, ds.widen(), dz.widen());
                }
            }
        });
        Ok(())
    }

    /// The parameters whose integers and scales the forward pass uses.
    ///
    /// # Errors
    /// [`crate::QatError::Length`], and [`crate::QatError::Quant`] when a step is not a finite number.
    pub fn params(&self, steps: &[f32], zero_points: Option<&[f32]>) -> Result<QuantParams> {
        check_len("steps", self.groups.count(), steps.len())?;
        let scales: Vec<f32> = steps.iter().map(|s| s.max(SMALLEST_STEP as f32)).collect();
        Ok(if self.scheme.has_zero_points() {
            check_len(
                "zero points",
                self.groups.count(),
                zero_points.map_or(0, <[f32]>::len),
            )?;
            let zero_points = (0..scales.len())
                .map(|g| self.zero_point(zero_points, g) as i32)
                .collect();
            QuantParams::new(self.scheme, scales, zero_points)?
        } else {
            QuantParams::from_scales(self.scheme, scales)?
        })
    }

    /// The integers of the forward pass: dequantized, they are its output bit for bit.
    ///
    /// # Errors
    /// As [`FakeQuant::params`].
    pub fn quantize(
        &self,
        w: &[f32],
        steps: &[f32],
        zero_points: Option<&[f32]>,
    ) -> Result<QuantizedTensor> {
        check_len(
            "elements of a fake-quantized tensor",
            self.groups.len(),
            w.len(),
        )?;
        let params = self.params(steps, zero_points)?;
        Ok(QuantizedTensor::quantize_with(w, &self.shape, params)?)
    }
}

/// Masks `g` and returns the sums of `g dŵ/ds` and `g dŵ/dz`.
fn backward_chunk<T: Real>(clip: Clip<T>, w: &[T], g: &mut [T]) -> (T, T) {
    const LANES: usize = 8;
    let magic = magic::<T>();
    let one = |g: &mut T, w: T| {
        let (v, clamped, q) = clip.map(w, magic);
        let inside = v == clamped;
        let ds = *g * if inside { q - v } else { q };
        let dz = if inside { T::zero() } else { -*g * clip.step };
        *g = if inside { *g } else { T::zero() };
        (ds, dz)
    };
    let (mut ds, mut dz) = ([T::zero(); LANES], [T::zero(); LANES]);
    let (ws, w_rest) = w.as_chunks::<LANES>();
    let (gs, g_rest) = g.as_chunks_mut::<LANES>();
    for (g, w) in gs.iter_mut().zip(ws) {
        for k in 0..LANES {
            let (s, z) = one(&mut g[k], w[k]);
            ds[k] += s;
            dz[k] += z;
        }
    }
    for (g, &w) in g_rest.iter_mut().zip(w_rest) {
        let (s, z) = one(g, w);
        ds[0] += s;
        dz[0] += z;
    }
    let sum = |parts: [T; LANES]| parts.into_iter().fold(T::zero(), |a, b| a + b);
    (sum(ds), sum(dz))
}
