//! The parts of a Tucker network to codes.

use ndarray::Array2;
use quant_core::{Bits, QuantScheme, QuantizedTensor};

use super::{quantize_values, schemes_of};
use crate::budgets::{Cost, choices};
use crate::error::{Error, Result};
use crate::gauge::{Gauge, Rotation};
use crate::quantized::QuantizedTucker;
use crate::scalar::Real;
use crate::strategy::{QuantizationError, Strategy, noise_variance};
use crate::tucker::Tucker;

/// Quantizes the core and every factor of a Tucker network.
///
/// ```
/// use ndarray::Array;
/// use quant_core::{Bits, QuantScheme};
/// use tn_formats::{Truncation, Tucker, TuckerQuantizer};
/// let a = Array::from_shape_fn((8, 8, 8), |(i, j, k)| 1.0f32 / (1 + i + j + k) as f32).into_dyn();
/// let (tucker, _) = Tucker::decompose(a.view(), &Truncation::MaxRank(3))?;
/// let quantized = TuckerQuantizer::new(QuantScheme::symmetric(Bits::B8)).quantize(&tucker)?;
/// let back = quantized.dequantize().to_dense();
/// assert!((&back - &a).iter().all(|d| d.abs() < 0.02));
/// assert_eq!(quantized.report().total().scale_bits, 4 * 32);
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TuckerQuantizer {
    scheme: QuantScheme,
    strategy: Strategy,
    budget: Option<usize>,
    each: Option<Vec<QuantScheme>>,
}

impl TuckerQuantizer {
    /// Core and factors each on their own, as they come.
    pub fn new(scheme: QuantScheme) -> Self {
        Self {
            scheme,
            strategy: Strategy::Independent,
            budget: None,
            each: None,
        }
    }

    /// A scheme for the core, then one for each factor, in place of the one for all; a byte budget knows only the one for all.
    #[must_use]
    pub fn with_part_schemes(mut self, schemes: Vec<QuantScheme>) -> Self {
        self.each = Some(schemes);
        self
    }

    /// The same quantizer with another strategy, never worse than [`Strategy::Independent`]. For a Tucker network
    /// [`Strategy::Compensated`] means the best gauge; its parts are not solved for again.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Bits for the core and for each factor instead of the scheme's: as many as fit into `bytes` for all together, each further
    /// bit where it lowers the error of the tensor most per byte; one width for all where that comes out better. At least 2 bits
    /// each, whatever the budget.
    ///
    /// ```
    /// use ndarray::Array;
    /// use quant_core::{Bits, QuantScheme};
    /// use tn_formats::{Strategy, Truncation, Tucker, TuckerQuantizer};
    /// let a = Array::from_shape_fn((16, 16, 16), |(i, j, k)| 1.0f32 / (1 + i + 2 * j + k) as f32).into_dyn();
    /// let (tucker, _) = Tucker::decompose(a.view(), &Truncation::MaxRank(4))?;
    /// let alike = TuckerQuantizer::new(QuantScheme::symmetric(Bits::B4)).with_strategy(Strategy::BEST);
    /// let (coarse, error) = alike.quantize_measured(&tucker)?;
    /// let (chosen, less) = alike.with_byte_budget(coarse.byte_len()).quantize_measured(&tucker)?;
    /// assert!(chosen.byte_len() <= coarse.byte_len() && less.relative <= error.relative);
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    #[must_use]
    pub fn with_byte_budget(mut self, bytes: usize) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// Quantizes a network.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`](crate::TtQuantizer::quantize).
    pub fn quantize<T: Real>(&self, tucker: &Tucker<T>) -> Result<QuantizedTucker> {
        Ok(self.quantize_measured(tucker)?.0)
    }

    /// Quantizes a network and says how far the result is from it.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`](crate::TtQuantizer::quantize).
    pub fn quantize_measured<T: Real>(
        &self,
        tucker: &Tucker<T>,
    ) -> Result<(QuantizedTucker, QuantizationError)> {
        let factors = tucker.factors().iter().map(|f| f.mapv(Real::widen));
        let tucker = Tucker::from_parts(tucker.core().mapv(Real::widen), factors.collect())?;
        let widths = match self.budget {
            None => {
                let parts = tucker.factors().len() + 1;
                vec![schemes_of(self.scheme, self.each.as_deref(), parts)?]
            }
            Some(bytes) => {
                let start = match self.gauges().last() {
                    Some(&gauge) => &tucker.gauge(gauge)?,
                    None => &tucker,
                };
                choices(&costs(start, self.scheme)?, self.scheme, bytes)
            }
        };
        let mut best: Option<(QuantizedTucker, QuantizationError)> = None;
        for schemes in widths {
            let next = self.best_gauge(&tucker, &schemes)?;
            if best
                .as_ref()
                .is_none_or(|best| next.1.relative < best.1.relative)
            {
                best = Some(next);
            }
        }
        best.ok_or(Error::Empty {
            what: "list of candidate widths",
        })
    }

    /// What is tried after the parts as they come; the most promising one last.
    fn gauges(&self) -> Vec<Gauge> {
        match self.strategy {
            Strategy::Independent => vec![],
            Strategy::Gauge(gauge) => vec![gauge],
            Strategy::Compensated { seed, .. } => vec![
                Gauge::Left,
                Gauge::Symmetric,
                Gauge::Rotated(Rotation::Hadamard { seed }),
            ],
        }
    }

    fn best_gauge(
        &self,
        tucker: &Tucker<f64>,
        schemes: &[QuantScheme],
    ) -> Result<(QuantizedTucker, QuantizationError)> {
        let mut best = attempt(tucker, tucker, schemes, Strategy::Independent)?;
        for gauge in self.gauges() {
            let used = Strategy::Gauge(gauge);
            let next = attempt(tucker, &tucker.gauge(gauge)?, schemes, used)?;
            if next.1.relative < best.1.relative && next.0.byte_len() <= best.0.byte_len() {
                best = next;
            }
        }
        Ok(best)
    }
}

/// Each part of `start` on its own, measured against `tucker`, which it is in another gauge.
fn attempt(
    tucker: &Tucker<f64>,
    start: &Tucker<f64>,
    schemes: &[QuantScheme],
    used: Strategy,
) -> Result<(QuantizedTucker, QuantizationError)> {
    let parts = rounded(start, schemes)?;
    let norm_sq = tucker.dot(tucker)?;
    let relative = |square: f64| {
        if norm_sq > 0.0 {
            (square.max(0.0) / norm_sq).sqrt()
        } else {
            0.0
        }
    };
    let predicted = relative(predicted_sq(start, &parts)?);
    let mut parts = parts.into_iter();
    let core = parts.next().ok_or(Error::Empty { what: "network" })?;
    let quantized = QuantizedTucker::from_parts(core, parts.collect())?;
    let (core, factors) = quantized.dequantize().into_parts();
    let factors = factors.into_iter().map(|f| f.mapv(f64::from));
    let back = Tucker::from_parts(core.mapv(f64::from), factors.collect())?;
    let square = norm_sq - 2.0 * tucker.dot(&back)? + back.dot(&back)?;
    let error = QuantizationError {
        relative: relative(square),
        predicted,
        used,
    };
    Ok((quantized, error))
}

/// The core, then the factors.
fn rounded(tucker: &Tucker<f64>, schemes: &[QuantScheme]) -> Result<Vec<QuantizedTensor>> {
    let core = tucker.core();
    let factors = tucker.factors().iter().map(|f| f.view().into_dyn());
    std::iter::once(core)
        .chain(factors)
        .zip(schemes)
        .map(|(part, scheme)| {
            let values = part.as_slice().expect("parts are row-major");
            quantize_values(values, part.shape(), scheme)
        })
        .collect()
}

/// The same network with another factor in one mode.
fn with_factor(tucker: &Tucker<f64>, mode: usize, factor: Array2<f64>) -> Result<Tucker<f64>> {
    let mut factors = tucker.factors().to_vec();
    factors[mode] = factor;
    Tucker::from_parts(tucker.core().to_owned(), factors)
}

/// `||X - Y||²` if every element of the core `G` and the factors `F_k` `[n_k, r_k]` had independent noise of variance `v = step²/12`:
/// `v_G prod_k ||F_k||² + sum_k v_k n_k ||G x F_j for all j but k||²`.
fn predicted_sq(tucker: &Tucker<f64>, parts: &[QuantizedTensor]) -> Result<f64> {
    let of_core: f64 = (tucker.factors().iter())
        .map(|f| f.iter().map(|x| x * x).sum::<f64>())
        .product();
    let mut sum = of_core * noise_variance(&parts[0]);
    for (mode, (factor, part)) in tucker.factors().iter().zip(&parts[1..]).enumerate() {
        let open = with_factor(tucker, mode, Array2::eye(factor.ncols()))?;
        sum += noise_variance(part) * factor.nrows() as f64 * open.dot(&open)?;
    }
    Ok(sum)
}

/// Squared error of the tensor, to first order, and bytes of the core and of every factor at every width.
fn costs(tucker: &Tucker<f64>, scheme: QuantScheme) -> Result<Vec<Vec<Cost>>> {
    let count = tucker.factors().len() + 1;
    let mut table = vec![Vec::with_capacity(Bits::ALL.len()); count];
    for bits in Bits::ALL {
        let parts = rounded(tucker, &vec![scheme.with_bits(bits); count])?;
        for (k, part) in parts.iter().enumerate() {
            let values = part.dequantize();
            let error = match k.checked_sub(1) {
                None => {
                    let mut core = tucker.core().to_owned();
                    for (x, y) in core.iter_mut().zip(&values) {
                        *x -= f64::from(*y);
                    }
                    Tucker::from_parts(core, tucker.factors().to_vec())?
                }
                Some(mode) => {
                    let mut factor = tucker.factors()[mode].clone();
                    for (x, y) in factor.iter_mut().zip(&values) {
                        *x -= f64::from(*y);
                    }
                    with_factor(tucker, mode, factor)?
                }
            };
            table[k].push((error.dot(&error)?, part.byte_len()));
        }
    }
    Ok(table)
}
