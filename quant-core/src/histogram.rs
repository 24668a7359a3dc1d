//! Histograms of streams in bounded memory, and the ranges ONNX Runtime's calibrators read off them.

use crate::error::{QuantError, Result};
use crate::params::Range;

/// What the bins of a [`Histogram`] cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistogramSpan {
    /// `-threshold ..= threshold`.
    Symmetric,
    /// The magnitudes, `0 ..= threshold`.
    Magnitude,
}

/// Counts of values in bins of equal width; grows with the data, as ONNX Runtime's collector does.
///
/// # Numerics
/// The threshold is the first batch's largest magnitude. A batch that goes beyond it adds bins of the same width (on
/// both sides for a symmetric span). When that would exceed the most bins, neighbours are merged in pairs first, as
/// often as needed: the memory stays bounded and the counts exact.
///
/// # Source
/// `HistogramCollector` of `onnxruntime.quantization.calibrate`, which has no upper limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    span: HistogramSpan,
    bins: usize,
    max_bins: usize,
    counts: Vec<u64>,
    threshold: f64,
    min: f32,
    max: f32,
}

impl Histogram {
    /// An empty histogram that starts with `bins` bins and never has more than `max_bins`.
    ///
    /// # Errors
    /// [`QuantError::Bins`] unless `2 <= bins <= max_bins`, both even.
    pub fn new(span: HistogramSpan, bins: usize, max_bins: usize) -> Result<Self> {
        if bins < 2 || bins > max_bins || !bins.is_multiple_of(2) || !max_bins.is_multiple_of(2) {
            return Err(QuantError::Bins { bins, max_bins });
        }
        let (min, max) = (f32::INFINITY, f32::NEG_INFINITY);
        Ok(Self {
            span,
            bins,
            max_bins,
            counts: Vec::new(),
            threshold: 0.0,
            min,
            max,
        })
    }

    /// A histogram with these counts, of values between `range`'s ends, in bins up to `threshold`.
    ///
    /// # Errors
    /// [`QuantError::Bins`] unless there are at least 2 bins, an even number of them for a symmetric span;
    /// [`QuantError::Range`] for a threshold that is not positive and finite.
    pub fn from_counts(
        span: HistogramSpan,
        counts: Vec<u64>,
        threshold: f32,
        range: Range,
    ) -> Result<Self> {
        let bins = counts.len();
        if bins < 2 || (span == HistogramSpan::Symmetric && !bins.is_multiple_of(2)) {
            return Err(QuantError::Bins {
                bins,
                max_bins: bins,
            });
        }
        if !(threshold.is_finite() && threshold > 0.0) {
            return Err(QuantError::Range {
                min: -threshold,
                max: threshold,
            });
        }
        let threshold = f64::from(threshold);
        Ok(Self {
            span,
            bins,
            max_bins: bins,
            counts,
            threshold,
            min: range.min(),
            max: range.max(),
        })
    }

    /// Counts a batch.
    ///
    /// # Errors
    /// [`QuantError::NonFinite`] for a NaN or an infinity; nothing of the batch is counted then.
    pub fn add(&mut self, values: &[f32]) -> Result<()> {
        if let Some((index, &actual)) = values.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(QuantError::NonFinite { index, actual });
        }
        let (min, max) = values
            .iter()
            .fold((self.min, self.max), |(lo, hi), &x| (lo.min(x), hi.max(x)));
        if values.is_empty() {
            return Ok(());
        }
        (self.min, self.max) = (min, max);
        self.reach(f64::from(min.abs().max(max.abs())));
        let (first, last) = (self.first_edge(), self.counts.len() - 1);
        let per_bin = self.counts.len() as f64 / (self.threshold - first).max(f64::MIN_POSITIVE);
        for &x in values {
            let x = match self.span {
                HistogramSpan::Symmetric => f64::from(x),
                HistogramSpan::Magnitude => f64::from(x.abs()),
            };
            // The estimate may be off by one; the edges decide.
            let mut bin = (((x - first) * per_bin) as usize).min(last);
            if bin > 0 && x < self.edge(bin) {
                bin -= 1;
            } else if bin < last && x >= self.edge(bin + 1) {
                bin += 1;
            }
            self.counts[bin] += 1;
        }
        Ok(())
    }

    /// Adds bins until they reach `largest`.
    fn reach(&mut self, largest: f64) {
        if self.counts.is_empty() {
            self.counts = vec![0; self.bins];
            self.threshold = largest;
        }
        if largest <= self.threshold {
            return;
        }
        if self.threshold == 0.0 {
            // All values were 0 and stand in the bin whose lower edge that is.
            let zeros: u64 = self.counts.iter().sum();
            self.counts.fill(0);
            self.threshold = largest;
            let zero = self.zero_bin();
            self.counts[zero] = zeros;
            return;
        }
        let sides = match self.span {
            HistogramSpan::Symmetric => 2,
            HistogramSpan::Magnitude => 1,
        };
        loop {
            let width = (self.threshold - self.first_edge()) / self.counts.len() as f64;
            let more = ((largest - self.threshold) / width).floor() + 1.0;
            if more * f64::from(sides) + self.counts.len() as f64 <= self.max_bins as f64 {
                let more = more as usize;
                let mut counts = vec![0; self.counts.len() + sides as usize * more];
                let start = if sides == 2 { more } else { 0 };
                counts[start..start + self.counts.len()].copy_from_slice(&self.counts);
                self.counts = counts;
                self.threshold += more as f64 * width;
                return;
            }
            self.merge_pairs(width);
        }
    }

    /// Halves the number of bins, first made divisible so that 0 stays an edge.
    fn merge_pairs(&mut self, width: f64) {
        let unit = match self.span {
            HistogramSpan::Symmetric => 4,
            HistogramSpan::Magnitude => 2,
        };
        let spare = (unit - self.counts.len() % unit) % unit;
        if spare > 0 {
            let start = if unit == 4 { spare / 2 } else { 0 };
            let mut counts = vec![0; self.counts.len() + spare];
            counts[start..start + self.counts.len()].copy_from_slice(&self.counts);
            self.threshold += (spare - start) as f64 * width;
            self.counts = counts;
        }
        self.counts = self
            .counts
            .chunks(2)
            .map(|pair| pair.iter().sum())
            .collect();
    }

    fn first_edge(&self) -> f64 {
        match self.span {
            HistogramSpan::Symmetric => -self.threshold,
            HistogramSpan::Magnitude => 0.0,
        }
    }

    fn zero_bin(&self) -> usize {
        match self.span {
            HistogramSpan::Symmetric => self.counts.len() / 2,
            HistogramSpan::Magnitude => 0,
        }
    }

    /// Edge `i` of `counts().len() + 1`.
    fn edge(&self, i: usize) -> f64 {
        let first = self.first_edge();
        if i == self.counts.len() {
            return self.threshold;
        }
        first + i as f64 * ((self.threshold - first) / self.counts.len() as f64)
    }

    /// The counts, lowest bin first; empty before the first batch.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The upper edge of the last bin.
    pub fn threshold(&self) -> f32 {
        self.threshold as f32
    }

    /// The smallest and largest value seen, if any was.
    pub fn range(&self) -> Option<Range> {
        Range::new(self.min, self.max).ok()
    }

    /// The middle of every bin.
    pub fn centers(&self) -> Vec<f32> {
        (0..self.counts.len())
            .map(|i| (0.5 * (self.edge(i) + self.edge(i + 1))) as f32)
            .collect()
    }

    /// The range between two edges, cut to the values seen.
    fn between(&self, left: f64, right: f64) -> Result<Range> {
        let cut = |edge: f64| (edge as f32).max(self.min).min(self.max);
        Range::new(cut(left), cut(right))
    }

    /// The edges of the bins between which `percentile` percent of the values lie: of the magnitudes for
    /// [`HistogramSpan::Magnitude`], else with the rest cut half and half on both sides.
    ///
    /// # Errors
    /// [`QuantError::Percentile`] outside 0 to 100, [`QuantError::NoData`] before the first value.
    ///
    /// # Source
    /// `HistogramCollector.compute_percentile` of ONNX Runtime.
    pub fn percentile_bins(&self, percentile: f64) -> Result<(usize, usize)> {
        if !(0.0..=100.0).contains(&percentile) {
            return Err(QuantError::Percentile { actual: percentile });
        }
        let total: u64 = self.counts.iter().sum();
        if total == 0 {
            return Err(QuantError::NoData);
        }
        // The first bin whose cumulative share is not less, summed as numpy sums shares.
        let first = |share: f64| {
            let mut sum = 0.0;
            let found = self.counts.iter().position(|&c| {
                sum += c as f64 / total as f64;
                sum >= share
            });
            found.unwrap_or(self.counts.len())
        };
        let cut = (100.0 - percentile) / 200.0;
        Ok(match self.span {
            HistogramSpan::Magnitude => (0, first(percentile / 100.0)),
            HistogramSpan::Symmetric => (first(cut), first(1.0 - cut)),
        })
    }

    /// The range of [`Histogram::percentile_bins`], cut to the values seen; symmetric about 0 for magnitudes.
    ///
    /// # Errors
    /// As [`Histogram::percentile_bins`].
    pub fn percentile(&self, percentile: f64) -> Result<Range> {
        let (left, right) = self.percentile_bins(percentile)?;
        match self.span {
            HistogramSpan::Symmetric => self.between(self.edge(left), self.edge(right)),
            HistogramSpan::Magnitude => self.between(-self.edge(right), self.edge(right)),
        }
    }

    /// The edges of the bins around 0 that lose least to `quantized_bins` levels, by Kullback-Leibler divergence.
    ///
    /// # Numerics
    /// f64. The first of equal minima.
    ///
    /// # Errors
    /// [`QuantError::Bins`] unless `2 <= quantized_bins <= counts().len()`, [`QuantError::Span`] for a histogram of
    /// magnitudes, [`QuantError::NoData`] before the first value.
    ///
    /// # Source
    /// `HistogramCollector.get_entropy_threshold` of ONNX Runtime, after Migacz, "8-bit inference with TensorRT" (2017).
    pub fn entropy_bins(&self, quantized_bins: usize) -> Result<(usize, usize)> {
        if self.span != HistogramSpan::Symmetric {
            return Err(QuantError::Span);
        }
        if self.counts.iter().all(|&c| c == 0) {
            return Err(QuantError::NoData);
        }
        let bins = self.counts.len();
        if quantized_bins < 2 || quantized_bins > bins {
            return Err(QuantError::Bins {
                bins: quantized_bins,
                max_bins: bins,
            });
        }
        let middle = bins / 2;
        let candidates =
            (quantized_bins / 2..=middle).map(|i| (middle - i, (middle + i + 1).min(bins)));
        let mut best = (f64::INFINITY, (0, 0));
        for (start, end) in candidates {
            let divergence = divergence(&self.counts, start, end, quantized_bins);
            if best.1 == (0, 0) || divergence < best.0 {
                best = (divergence, (start, end));
            }
        }
        Ok(best.1)
    }

    /// The range of [`Histogram::entropy_bins`], cut to the values seen.
    ///
    /// # Errors
    /// As [`Histogram::entropy_bins`].
    pub fn entropy(&self, quantized_bins: usize) -> Result<Range> {
        let (left, right) = self.entropy_bins(quantized_bins)?;
        self.between(self.edge(left), self.edge(right))
    }
}

/// The divergence of the bins `start..end`, quantized, from the same bins with all outliers put at their ends.
fn divergence(counts: &[u64], start: usize, end: usize, quantized_bins: usize) -> f64 {
    let inside = &counts[start..end];
    let mut p: Vec<u64> = inside.to_vec();
    let last = p.len() - 1;
    p[0] += counts[..start].iter().sum::<u64>();
    p[last] += counts[end..].iter().sum::<u64>();
    let merged = inside.len() / quantized_bins;
    let mut q = vec![0u64; p.len()];
    for index in 0..quantized_bins {
        let part = index * merged..(index + 1) * merged;
        // The last level also takes the bins that are left, but spreads over its own.
        let taken = if index + 1 == quantized_bins {
            part.start..inside.len()
        } else {
            part.clone()
        };
        let sum: u64 = inside[taken].iter().sum();
        let used = p[part.clone()].iter().filter(|&&c| c != 0).count() as u64;
        if let Some(each) = sum.checked_div(used) {
            q[part].fill(each);
        }
    }
    match (smooth(&p), smooth(&q)) {
        (Some(p), Some(q)) => {
            let (p_sum, q_sum): (f64, f64) = (p.iter().sum(), q.iter().sum());
            p.iter()
                .zip(&q)
                .map(|(p, q)| (p / p_sum, q / q_sum))
                .map(|(p, q)| p * (p / q).ln())
                .sum()
        }
        _ => f64::INFINITY,
    }
}

/// Gives empty bins 0.0001 each and takes it off the others; nothing if all are empty or that is too much to take.
fn smooth(counts: &[u64]) -> Option<Vec<f64>> {
    const EPSILON: f64 = 1e-4;
    let zeros = counts.iter().filter(|&&c| c == 0).count();
    let others = counts.len() - zeros;
    let taken = EPSILON * zeros as f64 / others as f64;
    if others == 0 || taken >= 1.0 {
        return None;
    }
    Some(
        counts
            .iter()
            .map(|&c| if c == 0 { EPSILON } else { c as f64 - taken })
            .collect(),
    )
}
