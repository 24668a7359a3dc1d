//! The scale and zero point of the least squared error, found exactly.

use crate::error::{QuantError, Result, check_len};
use crate::params::{Range, scale_and_zero_point};
use crate::scheme::QuantScheme;

/// A scale, a zero point, and the sum of squared errors they leave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MseOptimum {
    /// Real units per step.
    pub scale: f32,
    /// The code of 0.
    pub zero_point: i32,
    /// The weighted sum of squared errors.
    pub squared_error: f64,
}

/// The scale (and for an affine scheme the zero point) that leaves `values` the least squared error.
///
/// # Numerics
/// For fixed codes the error is a parabola in the scale s, and a code changes only where s = |x| / (j + 1/2). The search
/// visits these breakpoints in order and takes the least of the parabolas between them, so it finds the global optimum
/// over all s > 0 and not a point of a grid. What it need not visit: s so small that the clipped values alone cost more
/// than the best error known; s so large that no code beyond half the range is used (half of such an s does as well with
/// doubled codes); and intervals [a, b] around a point m whose bound excludes them: with e(s) the root of the error,
/// `e(m) <= e(s) + |s - m| ||q(s)||` and `s ||q(s)|| <= ||x|| + e(s)`. An affine scheme is searched for every zero point
/// whose range can pay. f64 throughout, so optimal to about 1e-12 of the sum of squares; the optimum is rounded to the f32
/// scale that measures best. Deterministic. Time about n log n times the codes in use per value, and that for every zero point of an affine scheme.
///
/// # Errors
/// [`QuantError::NonFinite`] for a NaN or an infinity.
///
/// ```
/// use quant_core::{Bits, QuantScheme, mse_optimal};
/// let best = mse_optimal(&[-1.0, -0.6, 0.6, 1.0], &QuantScheme::symmetric(Bits::B2))?;
/// // Codes -1, 0, 1: rather all four values off by 0.2 than two of them by 0.4.
/// assert!((best.scale - 0.8).abs() < 1e-6);
/// assert!((best.squared_error - 0.16).abs() < 1e-6);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub fn mse_optimal(values: &[f32], scheme: &QuantScheme) -> Result<MseOptimum> {
    search(values, None, scheme)
}

/// [`mse_optimal`] with a weight for every value, such as a histogram's counts or a Hessian's diagonal.
///
/// # Errors
/// As [`mse_optimal`]; [`QuantError::Length`] unless there is one weight per value, [`QuantError::NonFinite`] also for a
/// weight that is negative or not finite.
pub fn mse_optimal_weighted(
    values: &[f32],
    weights: &[f32],
    scheme: &QuantScheme,
) -> Result<MseOptimum> {
    check_len("weights", values.len(), weights.len())?;
    match weights
        .iter()
        .enumerate()
        .find(|(_, w)| !(w.is_finite() && **w >= 0.0))
    {
        Some((index, &actual)) => Err(QuantError::NonFinite { index, actual }),
        None => search(values, Some(weights), scheme),
    }
}

fn search(values: &[f32], weights: Option<&[f32]>, scheme: &QuantScheme) -> Result<MseOptimum> {
    if let Some((index, &actual)) = values.iter().enumerate().find(|(_, x)| !x.is_finite()) {
        return Err(QuantError::NonFinite { index, actual });
    }
    let weight = |i: usize| weights.map_or(1.0, |w| f64::from(w[i]));
    let mut points: Vec<(f64, f64)> = values
        .iter()
        .enumerate()
        .map(|(i, &x)| (f64::from(x), weight(i)))
        .collect();
    points.retain(|&(x, w)| x != 0.0 && w > 0.0);
    let (min, max) = values
        .iter()
        .fold((0f32, 0f32), |(lo, hi), &x| (lo.min(x), hi.max(x)));
    let (scale, zero_point) = scale_and_zero_point(Range::hull(min, max), scheme);
    if points.is_empty() {
        return Ok(MseOptimum {
            scale,
            zero_point,
            squared_error: 0.0,
        });
    }
    let problem = Problem::new(points);
    let (min_code, max_code) = (scheme.min_code(), scheme.max_code());
    let steps = |zero_point: i32| {
        (
            f64::from(min_code - zero_point),
            f64::from(max_code - zero_point),
        )
    };
    let slack = problem.total * f64::from(f32::EPSILON).powi(2);
    let mut best = Best {
        error: f64::INFINITY,
        slack,
        candidates: Vec::new(),
    };
    let fallback = problem.fit(f64::from(scale), steps(zero_point)).error;
    best.offer(f64::from(scale), zero_point, fallback);
    // Nearest zero points first: a good error early excludes most of the others.
    let mut zero_points: Vec<i32> = match scheme.symmetric_zero_point() {
        Some(fixed) => vec![fixed],
        None => (min_code..=max_code).collect(),
    };
    zero_points.sort_by_key(|z| (z - zero_point).abs());
    for &z in &zero_points {
        problem.descend(z, steps(z), &mut best);
    }
    for &z in &zero_points {
        problem.search(z, steps(z), &mut best);
    }
    Ok(problem.round(&best, steps).unwrap_or(MseOptimum {
        scale,
        zero_point,
        squared_error: fallback,
    }))
}

/// The best found yet, and what is so near it that rounding the scale to f32 may decide.
#[derive(Debug, Clone)]
struct Best {
    error: f64,
    /// What rounding may add.
    slack: f64,
    /// Scale, zero point and error; at most [`Best::KEPT`].
    candidates: Vec<(f64, i32, f64)>,
}

impl Best {
    const KEPT: usize = 64;

    fn offer(&mut self, scale: f64, zero_point: i32, error: f64) {
        if error > self.error + self.slack {
            return;
        }
        self.error = self.error.min(error);
        if self.candidates.len() == Self::KEPT {
            self.candidates.sort_by(|a, b| a.2.total_cmp(&b.2));
            self.candidates.truncate(Self::KEPT / 2);
        }
        self.candidates.push((scale, zero_point, error));
    }
}

/// The error at one scale, and the parabola it lies on: `error(s) = total - 2 s cross + s^2 codes` while no code changes.
#[derive(Debug, Clone, Copy)]
struct Fit {
    error: f64,
    cross: f64,
    codes: f64,
}

struct Problem {
    /// Values and weights, the values not 0, the weights positive; the largest magnitudes first.
    points: Vec<(f64, f64)>,
    /// The weighted sum of squares.
    total: f64,
}

fn code(x: f64, scale: f64, (lo, hi): (f64, f64)) -> f64 {
    (x / scale).round_ties_even().clamp(lo, hi)
}

impl Problem {
    /// How many parabolas of a sweep are measured anew.
    const MEASURED: usize = 4;

    fn new(mut points: Vec<(f64, f64)>) -> Self {
        points.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()).then(b.0.total_cmp(&a.0)));
        let total = points.iter().map(|&(x, w)| w * x * x).sum();
        Self { points, total }
    }

    fn fit(&self, scale: f64, steps: (f64, f64)) -> Fit {
        let mut fit = Fit {
            error: 0.0,
            cross: 0.0,
            codes: 0.0,
        };
        for &(x, w) in &self.points {
            let q = code(x, scale, steps);
            let error = x - scale * q;
            fit.error += w * error * error;
            fit.cross += w * x * q;
            fit.codes += w * q * q;
        }
        fit
    }

    /// The scales beyond which nothing can be better than `best`: see [`mse_optimal`].
    fn bounds(&self, (lo, hi): (f64, f64), best: f64) -> (f64, f64) {
        let ends = |wanted: fn(f64) -> bool| {
            self.points
                .iter()
                .map(|p| p.0)
                .filter(|&x| wanted(x))
                .map(f64::abs)
                .fold(0.0, f64::max)
        };
        let (negative, positive) = (ends(|x| x < 0.0), ends(|x| x > 0.0));
        // Some value must use a code beyond half of its side, rounded down.
        let side = |end: f64, codes: f64| end / ((codes / 2.0).floor() + 0.5);
        let upper = side(negative, -lo).max(side(positive, hi));
        let clipped = |scale: f64| -> f64 {
            let mut sum = 0.0;
            for &(x, w) in &self.points {
                let over = (x - scale * hi).max(scale * lo - x);
                if over > 0.0 {
                    sum += w * over * over;
                }
            }
            sum
        };
        if clipped(upper) > best {
            return (upper, upper);
        }
        let (mut low, mut high) = (0.0, upper);
        for _ in 0..40 {
            let middle = 0.5 * (low + high);
            if clipped(middle) > best {
                low = middle
            } else {
                high = middle
            }
        }
        (low.max(upper * 1e-9), upper)
    }

    /// A first good answer: from some scales, re-fit and re-round until the error stays.
    fn descend(&self, zero_point: i32, steps: (f64, f64), best: &mut Best) {
        let (low, high) = self.bounds(steps, best.error);
        if low >= high {
            return;
        }
        for i in 0..8 {
            let mut scale = low + (high - low) * (f64::from(i) + 0.5) / 12.0;
            let mut last = f64::INFINITY;
            for _ in 0..4 {
                let fit = self.fit(scale, steps);
                best.offer(scale, zero_point, fit.error);
                if fit.codes == 0.0 || fit.cross <= 0.0 || fit.error >= last {
                    break;
                }
                last = fit.error;
                scale = fit.cross / fit.codes;
            }
        }
    }

    fn search(&self, zero_point: i32, steps: (f64, f64), best: &mut Best) {
        let (low, high) = self.bounds(steps, best.error);
        let mut intervals = vec![(low, high)];
        let limit = 2 * self.points.len() + 256;
        while let Some((a, b)) = intervals.pop() {
            if a >= b {
                continue;
            }
            let middle = 0.5 * (a + b);
            let fit = self.fit(middle, steps);
            best.offer(middle, zero_point, fit.error);
            let reach = 0.5 * (b - a);
            let least = (fit.error.sqrt() - reach / a * self.total.sqrt()) / (1.0 + reach / a);
            if least > 0.0 && least * least > best.error + best.slack {
                continue;
            }
            let breakpoints: f64 =
                self.points.iter().map(|p| p.0.abs()).sum::<f64>() * (1.0 / a - 1.0 / b);
            if breakpoints <= limit as f64 || reach < 1e-12 * b {
                self.sweep(a, b, zero_point, steps, best);
            } else {
                intervals.extend([(middle, b), (a, middle)]);
            }
        }
    }

    /// Visits every parabola between `a` and `b`.
    fn sweep(&self, a: f64, b: f64, zero_point: i32, steps: (f64, f64), best: &mut Best) {
        let mut changes = Vec::new();
        for &(x, w) in &self.points {
            // From b down to a the code's magnitude grows.
            let from = code(x, b, steps).abs();
            let to = code(x, a, steps).abs();
            let mut j = from;
            while j < to {
                changes.push((x.abs() / (j + 0.5), w * x.abs(), w * (2.0 * j + 1.0)));
                j += 1.0;
            }
        }
        changes.sort_unstable_by(|l, r| r.0.total_cmp(&l.0));
        let Fit {
            mut cross,
            mut codes,
            ..
        } = self.fit(b, steps);
        let mut high = b;
        // The least of the parabolas, by running sums.
        let mut least: Vec<(f64, f64)> = Vec::new();
        for &(low, more_cross, more_codes) in changes.iter().chain([&(a, 0.0, 0.0)]) {
            if codes > 0.0 && low < high {
                let scale = (cross / codes).clamp(low.max(a), high);
                let error = self.total + scale * (scale * codes - 2.0 * cross);
                if least.len() < Self::MEASURED || error < least[Self::MEASURED - 1].0 {
                    least.truncate(Self::MEASURED - 1);
                    least.insert(least.partition_point(|l| l.0 <= error), (error, scale));
                }
            }
            cross += more_cross;
            codes += more_codes;
            high = low;
        }
        // Running sums lose digits against the total: what looks best is measured.
        for (error, scale) in least {
            if error <= best.error + 1e-10 * self.total {
                best.offer(scale, zero_point, self.fit(scale, steps).error);
            }
        }
    }

    /// The f32 near one of the candidates that measures best.
    fn round(&self, best: &Best, steps: impl Fn(i32) -> (f64, f64)) -> Option<MseOptimum> {
        let near = best
            .candidates
            .iter()
            .filter(|c| c.2 <= best.error + best.slack);
        let floats = near.flat_map(|&(scale, zero_point, _)| {
            let bits = (scale as f32).max(f32::MIN_POSITIVE).to_bits();
            (-4i32..=4).map(move |d| (f32::from_bits(bits.saturating_add_signed(d)), zero_point))
        });
        floats
            .filter(|(scale, _)| scale.is_finite() && *scale >= f32::MIN_POSITIVE)
            .map(|(scale, zero_point)| {
                let squared_error = self.fit(f64::from(scale), steps(zero_point)).error;
                MseOptimum {
                    scale,
                    zero_point,
                    squared_error,
                }
            })
            .min_by(|a, b| a.squared_error.total_cmp(&b.squared_error))
    }
}
