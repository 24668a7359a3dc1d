//! Ranges and parameters from streams of activations, batch by batch in bounded memory.

use crate::error::{QuantError, Result, check_len};
use crate::groups::{Groups, Run};
use crate::histogram::{Histogram, HistogramSpan};
use crate::mse::mse_optimal_weighted;
use crate::params::{QuantParams, Range, scale_and_zero_point};
use crate::scheme::QuantScheme;

/// Something that watches batches of values and then says how to quantize them.
///
/// ```
/// use quant_core::{Bits, MinMax, MovingAverage, Observer, QuantScheme};
/// let scheme = QuantScheme::affine(Bits::B8);
/// let mut observers: [Box<dyn Observer>; 2] = [Box::new(MinMax::new()), Box::new(MovingAverage::new(0.5)?)];
/// for observer in &mut observers {
///     observer.observe(&[-1.0, 3.0])?;
///     observer.observe(&[0.0, 1.0])?;
/// }
/// assert_eq!(observers[0].scale_and_zero_point(&scheme)?, (4.0 / 255.0, 64));
/// assert_eq!(observers[1].scale_and_zero_point(&scheme)?, (2.5 / 255.0, 51));
/// # Ok::<(), quant_core::QuantError>(())
/// ```
pub trait Observer {
    /// Takes a batch into account.
    ///
    /// # Errors
    /// [`QuantError::NonFinite`] for a NaN or an infinity; the batch is not counted then.
    fn observe(&mut self, values: &[f32]) -> Result<()>;

    /// The scale and zero point to quantize what was seen.
    ///
    /// # Errors
    /// [`QuantError::NoData`] before the first value.
    fn scale_and_zero_point(&self, scheme: &QuantScheme) -> Result<(f32, i32)>;
}

fn finite_range(values: &[f32]) -> Result<Option<Range>> {
    match values.iter().enumerate().find(|(_, x)| !x.is_finite()) {
        Some((index, &actual)) => Err(QuantError::NonFinite { index, actual }),
        None if values.is_empty() => Ok(None),
        None => {
            let ends = (f32::INFINITY, f32::NEG_INFINITY);
            let (min, max) = values
                .iter()
                .fold(ends, |(lo, hi), &x| (lo.min(x), hi.max(x)));
            Range::new(min, max).map(Some)
        }
    }
}

fn from_range(range: Option<Range>, scheme: &QuantScheme) -> Result<(f32, i32)> {
    range
        .map(|r| scale_and_zero_point(r, scheme))
        .ok_or(QuantError::NoData)
}

/// The smallest and the largest value of all batches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MinMax {
    range: Option<Range>,
}

impl MinMax {
    /// An observer that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The range of the values seen.
    pub const fn range(&self) -> Option<Range> {
        self.range
    }
}

impl Observer for MinMax {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        if let Some(new) = finite_range(values)? {
            self.range = Some(match self.range {
                Some(old) => Range::new(old.min().min(new.min()), old.max().max(new.max()))?,
                None => new,
            });
        }
        Ok(())
    }

    fn scale_and_zero_point(&self, scheme: &QuantScheme) -> Result<(f32, i32)> {
        from_range(self.range, scheme)
    }
}

/// A running average of the batches' smallest and largest values: `old + (new - old) * rate`.
///
/// # Source
/// PyTorch's `MovingAverageMinMaxObserver`, whose `averaging_constant` (0.01) is the rate.
#[derive(Debug, Clone, PartialEq)]
pub struct MovingAverage {
    rate: f32,
    range: Option<Range>,
}

impl MovingAverage {
    /// An observer with this rate.
    ///
    /// # Errors
    /// [`QuantError::Rate`] outside 0 (excluded) to 1.
    pub fn new(rate: f32) -> Result<Self> {
        if rate > 0.0 && rate <= 1.0 {
            Ok(Self { rate, range: None })
        } else {
            Err(QuantError::Rate { actual: rate })
        }
    }

    /// The averaged range.
    pub const fn range(&self) -> Option<Range> {
        self.range
    }
}

impl Observer for MovingAverage {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        if let Some(new) = finite_range(values)? {
            let mix = |old: f32, new: f32| old + (new - old) * self.rate;
            self.range = Some(match self.range {
                Some(old) => Range::new(mix(old.min(), new.min()), mix(old.max(), new.max()))?,
                None => new,
            });
        }
        Ok(())
    }

    fn scale_and_zero_point(&self, scheme: &QuantScheme) -> Result<(f32, i32)> {
        from_range(self.range, scheme)
    }
}

/// The range that holds a percentage of the values: see [`Histogram::percentile`].
#[derive(Debug, Clone, PartialEq)]
pub struct Percentile {
    percentile: f64,
    histogram: Histogram,
}

impl Percentile {
    /// Over a histogram of 2048 bins, at most 32,768.
    ///
    /// # Errors
    /// [`QuantError::Percentile`] outside 0 to 100.
    pub fn new(percentile: f64, span: HistogramSpan) -> Result<Self> {
        Self::with_histogram(percentile, Histogram::new(span, 2048, 32_768)?)
    }

    /// Over this histogram.
    ///
    /// # Errors
    /// [`QuantError::Percentile`] outside 0 to 100.
    pub fn with_histogram(percentile: f64, histogram: Histogram) -> Result<Self> {
        if (0.0..=100.0).contains(&percentile) {
            Ok(Self {
                percentile,
                histogram,
            })
        } else {
            Err(QuantError::Percentile { actual: percentile })
        }
    }

    /// The histogram of what was seen.
    pub const fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}

impl Observer for Percentile {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.add(values)
    }

    fn scale_and_zero_point(&self, scheme: &QuantScheme) -> Result<(f32, i32)> {
        Ok(scale_and_zero_point(
            self.histogram.percentile(self.percentile)?,
            scheme,
        ))
    }
}

/// The range of least Kullback-Leibler divergence: see [`Histogram::entropy`].
#[derive(Debug, Clone, PartialEq)]
pub struct Entropy {
    quantized_bins: usize,
    histogram: Histogram,
}

impl Entropy {
    /// Over a histogram of 2048 bins, at most 8192, with 128 levels; the cost grows with the square of the bins.
    ///
    /// # Errors
    /// None with these numbers.
    pub fn new() -> Result<Self> {
        Ok(Self::with_histogram(
            128,
            Histogram::new(HistogramSpan::Symmetric, 2048, 8192)?,
        ))
    }

    /// Over this histogram, with this many levels.
    pub const fn with_histogram(quantized_bins: usize, histogram: Histogram) -> Self {
        Self {
            quantized_bins,
            histogram,
        }
    }

    /// The histogram of what was seen.
    pub const fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}

impl Observer for Entropy {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.add(values)
    }

    fn scale_and_zero_point(&self, scheme: &QuantScheme) -> Result<(f32, i32)> {
        Ok(scale_and_zero_point(
            self.histogram.entropy(self.quantized_bins)?,
            scheme,
        ))
    }
}

/// The parameters of least squared error over the histogram's bins: see [`crate::mse_optimal`].
///
/// # Numerics
/// Exact for the histogram, whose bins stand for their middles; for a tensor at hand [`crate::mse_optimal`] is exact.
#[derive(Debug, Clone, PartialEq)]
pub struct MseObserver {
    histogram: Histogram,
}

impl MseObserver {
    /// Over a histogram of 2048 bins, at most 8192.
    ///
    /// # Errors
    /// None with these numbers.
    pub fn new() -> Result<Self> {
        Ok(Self::with_histogram(Histogram::new(
            HistogramSpan::Symmetric,
            2048,
            8192,
        )?))
    }

    /// Over this histogram.
    pub const fn with_histogram(histogram: Histogram) -> Self {
        Self { histogram }
    }

    /// The histogram of what was seen.
    pub const fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}

impl Observer for MseObserver {
    fn observe(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.add(values)
    }

    fn scale_and_zero_point(&self, scheme: &QuantScheme) -> Result<(f32, i32)> {
        if self.histogram.counts().is_empty() {
            return Err(QuantError::NoData);
        }
        let weights: Vec<f32> = self.histogram.counts().iter().map(|&c| c as f32).collect();
        let best = mse_optimal_weighted(&self.histogram.centers(), &weights, scheme)?;
        Ok((best.scale, best.zero_point))
    }
}

/// One observer per group of a scheme, for batches of one shape.
///
/// ```
/// use quant_core::{Bits, Granularity, GroupObserver, MinMax, QuantScheme};
/// let scheme = QuantScheme::symmetric(Bits::B8).with_granularity(Granularity::per_axis(1));
/// let mut channels = GroupObserver::new(&[2, 3], scheme, MinMax::new())?;
/// channels.observe(&[1.0, -2.0, 0.5, 1.27, 0.0, 2.54])?;
/// assert_eq!(channels.params()?.scales(), [0.01, 2.0 / 127.0, 0.02]);
/// # Ok::<(), quant_core::QuantError>(())
/// ```
#[derive(Debug, Clone)]
pub struct GroupObserver<O> {
    groups: Groups,
    scheme: QuantScheme,
    observers: Vec<O>,
}

impl<O: Observer + Clone> GroupObserver<O> {
    /// A copy of `observer` for every group of `shape`.
    ///
    /// # Errors
    /// [`QuantError::Axis`] if the shape lacks the scheme's axis.
    pub fn new(shape: &[usize], scheme: QuantScheme, observer: O) -> Result<Self> {
        let groups = Groups::new(shape, scheme.granularity())?;
        let observers = vec![observer; groups.count()];
        Ok(Self {
            groups,
            scheme,
            observers,
        })
    }
}

impl<O: Observer> GroupObserver<O> {
    /// Takes a batch of the shape into account.
    ///
    /// # Errors
    /// [`QuantError::Length`] if it does not fill the shape, [`QuantError::NonFinite`] for a NaN or an infinity; the
    /// batch is not counted then.
    pub fn observe(&mut self, values: &[f32]) -> Result<()> {
        check_len("data", self.groups.len(), values.len())?;
        finite_range(values)?;
        let mut result = Ok(());
        let mut watch = |observer: &mut O, part: &[f32]| {
            if result.is_ok() {
                result = observer.observe(part);
            }
        };
        // Gathered first, so that every observer sees its share of a batch at once.
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); self.observers.len()];
        self.groups.for_each(|run| match run {
            Run::Shared { start, len, group } => {
                parts[group].extend_from_slice(&values[start..start + len])
            }
            Run::Each { start, len, group } => {
                let shares = parts[group..group + len].iter_mut();
                shares
                    .zip(&values[start..start + len])
                    .for_each(|(part, &x)| part.push(x));
            }
        });
        self.observers
            .iter_mut()
            .zip(&parts)
            .for_each(|(observer, part)| watch(observer, part));
        result
    }

    /// The observers, one per group.
    pub fn observers(&self) -> &[O] {
        &self.observers
    }

    /// The parameters of all groups.
    ///
    /// # Errors
    /// [`QuantError::NoData`] if a group has seen no value.
    pub fn params(&self) -> Result<QuantParams> {
        let all = self
            .observers
            .iter()
            .map(|o| o.scale_and_zero_point(&self.scheme));
        let (scales, zero_points) = all.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        QuantParams::new(self.scheme, scales, zero_points)
    }
}
