//! From float cores to quantized ones, and back.

use quant_core::{QuantScheme, QuantizedTensor};

use crate::budgets;
use crate::error::{Error, Result};
use crate::gauge::{Gauge, Rotation};
use crate::matrix::TtMatrix;
use crate::quantized::{QuantizedTensorTrain, QuantizedTtMatrix, QuantizedTucker};
use crate::scalar::Real;
use crate::strategy::{Outcome, QuantizationError, Strategy, quantize_cores};
use crate::train::TensorTrain;
use crate::tucker::Tucker;

/// Quantizes the cores of a train.
///
/// The source document's example: cores (1, 16, 8), (8, 16, 4), (4, 16, 1) at 8 bits, symmetric. 704 parameters are 22528
/// bits as `f32` and 5632 as codes; three scales of 32 bits bring the ratio from 4 down to the document's 3.93.
///
/// ```
/// use ndarray::Array3;
/// use quant_core::{Bits, QuantScheme};
/// use tn_formats::{TensorTrain, TtCore, TtQuantizer};
/// let core = |r, n, s| TtCore::new(Array3::from_shape_fn((r, n, s), |(i, j, k)| ((i + 3 * j + 5 * k) as f32).sin()));
/// let train = TensorTrain::from_cores(vec![core(1, 16, 8)?, core(8, 16, 4)?, core(4, 16, 1)?])?;
///
/// let quantized = TtQuantizer::new(QuantScheme::symmetric(Bits::B8)).quantize(&train)?;
/// let total = quantized.report().total();
/// assert_eq!((total.parameters, total.float_bits, total.code_bits), (704, 22528, 5632));
/// assert_eq!(total.scale_bits, 3 * 32);
/// assert_eq!(format!("{:.2}", total.ratio()), "3.93");
/// assert_eq!(total.ratio_of_codes(), 4.0);
///
/// let back = quantized.dequantize();
/// assert_eq!(back.ranks(), train.ranks());
/// for ((core, restored), q) in train.cores().iter().zip(back.cores()).zip(quantized.cores()) {
///     let half_step = q.params().scales()[0] / 2.0 * 1.0001;
///     assert!(core.as_slice().iter().zip(restored.as_slice()).all(|(a, b)| (a - b).abs() <= half_step));
/// }
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TtQuantizer {
    scheme: QuantScheme,
    each: Option<Vec<QuantScheme>>,
    strategy: Strategy,
    budget: Option<usize>,
}

impl TtQuantizer {
    /// Each core on its own, as it comes ([`Strategy::Independent`], the source document's quantizer). For the smallest
    /// error at the same bytes, go on with `.with_strategy(Strategy::BEST)`.
    pub fn new(scheme: QuantScheme) -> Self {
        Self {
            scheme,
            each: None,
            strategy: Strategy::Independent,
            budget: None,
        }
    }

    /// One scheme for each core, in order, in place of one for all of them; a byte budget knows only the one for all.
    #[must_use]
    pub fn with_core_schemes(mut self, schemes: Vec<QuantScheme>) -> Self {
        self.each = Some(schemes);
        self
    }

    /// The same quantizer with another strategy. Whatever the strategy, the result is never worse than
    /// [`Strategy::Independent`]'s.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Bits per core instead of the scheme's: as many as fit into `bytes` for all cores together, each further bit where it
    /// lowers the error of the tensor most per byte; one width for all cores where that comes out better. At least 2 bits per
    /// core, whatever the budget.
    #[must_use]
    pub fn with_byte_budget(mut self, bytes: usize) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// The scheme of every core.
    pub fn scheme(&self) -> &QuantScheme {
        &self.scheme
    }

    /// How the cores are quantized.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Quantizes a train.
    ///
    /// # Errors
    /// [`crate::Error::Quant`] when a core holds a number that is not finite or the scheme's axis does not exist,
    /// [`crate::Error::Length`] for schemes that are not one for each core.
    pub fn quantize<T: Real>(&self, train: &TensorTrain<T>) -> Result<QuantizedTensorTrain> {
        Ok(self.quantize_measured(train)?.0)
    }

    /// Quantizes a train and says how far the result is from it.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    ///
    /// ```
    /// use ndarray::Array;
    /// use quant_core::{Bits, QuantScheme};
    /// use tn_formats::{Strategy, TensorTrain, Truncation, TtQuantizer};
    /// let a = Array::from_shape_fn((8, 9, 10), |(i, j, k)| 1.0f32 / (1 + i + 2 * j + k) as f32).into_dyn();
    /// let (train, _) = TensorTrain::decompose(a.view(), &Truncation::MaxRank(4))?;
    /// let quantizer = TtQuantizer::new(QuantScheme::symmetric(Bits::B4));
    /// let (simple, independent) = quantizer.quantize_measured(&train)?;
    /// let (better, compensated) = quantizer.with_strategy(Strategy::BEST).quantize_measured(&train)?;
    /// assert_eq!(simple.byte_len(), better.byte_len());
    /// assert!(compensated.relative < 0.5 * independent.relative);
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn quantize_measured<T: Real>(
        &self,
        train: &TensorTrain<T>,
    ) -> Result<(QuantizedTensorTrain, QuantizationError)> {
        let shapes = |t: &TensorTrain<f64>| {
            t.cores()
                .iter()
                .map(|c| c.view().shape().to_vec())
                .collect()
        };
        let outcome = self.run(&train.cast(), &shapes)?;
        let cores = QuantizedTensorTrain::from_cores(outcome.cores)?;
        Ok((cores, outcome.error))
    }

    /// Quantizes a matrix train.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    pub fn quantize_matrix<T: Real>(&self, train: &TtMatrix<T>) -> Result<QuantizedTtMatrix> {
        Ok(self.quantize_matrix_measured(train)?.0)
    }

    /// Quantizes a matrix train and says how far the result is from it.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    pub fn quantize_matrix_measured<T: Real>(
        &self,
        train: &TtMatrix<T>,
    ) -> Result<(QuantizedTtMatrix, QuantizationError)> {
        let outcome = self.run_matrix(train)?;
        let codes = QuantizedTtMatrix::from_cores(train.modes().clone(), outcome.cores)?;
        Ok((codes, outcome.error))
    }

    /// What the strategy tries on a matrix train, and the error of each: every core as it comes first, then the gauges, then
    /// what was asked for. [`TtQuantizer::quantize_matrix`] takes the best.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    pub fn compare_matrix<T: Real>(&self, train: &TtMatrix<T>) -> Result<Vec<QuantizationError>> {
        Ok(self.run_matrix(train)?.tried)
    }

    fn run_matrix<T: Real>(&self, train: &TtMatrix<T>) -> Result<Outcome> {
        let modes = train.modes().core_modes();
        let shapes = |t: &TensorTrain<f64>| {
            let cores = t.cores().iter().zip(&modes);
            cores
                .map(|(c, &(m, n))| vec![c.left_rank(), m, n, c.right_rank()])
                .collect()
        };
        self.run(&train.to_train().cast(), &shapes)
    }

    fn run(
        &self,
        train: &TensorTrain<f64>,
        shapes: &dyn Fn(&TensorTrain<f64>) -> Vec<Vec<usize>>,
    ) -> Result<Outcome> {
        let Some(bytes) = self.budget else {
            let schemes = match &self.each {
                Some(each) if each.len() != train.order() => {
                    return Err(Error::Length {
                        what: "schemes of a train's cores",
                        expected: train.order(),
                        found: each.len(),
                    });
                }
                Some(each) => each.clone(),
                None => vec![self.scheme; train.order()],
            };
            return quantize_cores(train, shapes, &schemes, self.strategy);
        };
        let mut best: Option<Outcome> = None;
        for schemes in budgets::schemes_within(train, shapes, self.scheme, self.strategy, bytes)? {
            let candidate = quantize_cores(train, shapes, &schemes, self.strategy)?;
            if best
                .as_ref()
                .is_none_or(|b| candidate.error.relative < b.error.relative)
            {
                best = Some(candidate);
            }
        }
        best.ok_or(Error::Empty {
            what: "list of candidate widths",
        })
    }
}

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
}

impl TuckerQuantizer {
    /// Core and factors each on their own, as they come.
    pub fn new(scheme: QuantScheme) -> Self {
        Self {
            scheme,
            strategy: Strategy::Independent,
        }
    }

    /// The same quantizer with another strategy, never worse than [`Strategy::Independent`]. For a Tucker network
    /// [`Strategy::Compensated`] means the best gauge; its parts are not solved for again.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Quantizes a network.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    pub fn quantize<T: Real>(&self, tucker: &Tucker<T>) -> Result<QuantizedTucker> {
        Ok(self.quantize_measured(tucker)?.0)
    }

    /// Quantizes a network; the result, its relative error, and the strategy used in the end.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    pub fn quantize_measured<T: Real>(
        &self,
        tucker: &Tucker<T>,
    ) -> Result<(QuantizedTucker, f64, Strategy)> {
        let norm_sq = tucker.dot(tucker)?;
        let attempt = |start: &Tucker<T>, used: Strategy| -> Result<_> {
            let quantized = self.independent(start)?;
            let (core, factors) = quantized.dequantize().into_parts();
            let factors = factors
                .into_iter()
                .map(|f| f.mapv(|x| T::narrow(x.widen())))
                .collect();
            let back = Tucker::from_parts(core.mapv(|x| T::narrow(x.widen())), factors)?;
            let square = norm_sq - 2.0 * tucker.dot(&back)? + back.dot(&back)?;
            let error = if norm_sq > 0.0 {
                (square.max(0.0) / norm_sq).sqrt()
            } else {
                0.0
            };
            Ok((quantized, error, used))
        };
        let gauges = match self.strategy {
            Strategy::Independent => vec![],
            Strategy::Gauge(gauge) => vec![gauge],
            Strategy::Compensated { seed, .. } => {
                vec![
                    Gauge::Left,
                    Gauge::Symmetric,
                    Gauge::Rotated(Rotation::Hadamard { seed }),
                ]
            }
        };
        let mut best = attempt(tucker, Strategy::Independent)?;
        for gauge in gauges {
            let next = attempt(&tucker.gauge(gauge)?, Strategy::Gauge(gauge))?;
            if next.1 < best.1 && next.0.byte_len() <= best.0.byte_len() {
                best = next;
            }
        }
        Ok(best)
    }

    fn independent<T: Real>(&self, tucker: &Tucker<T>) -> Result<QuantizedTucker> {
        let core = tucker.core();
        let values = core.as_slice().expect("a core is row-major");
        let quantized = quantize_values(values, core.shape(), &self.scheme)?;
        let factors = tucker.factors().iter().map(|f| {
            quantize_values(
                f.as_slice().expect("a factor is row-major"),
                f.shape(),
                &self.scheme,
            )
        });
        QuantizedTucker::from_parts(quantized, factors.collect::<Result<_>>()?)
    }
}

/// Quantizes numbers of any type through `f32`.
pub(crate) fn quantize_values<T: Real>(
    values: &[T],
    shape: &[usize],
    scheme: &QuantScheme,
) -> Result<QuantizedTensor> {
    let values: Vec<f32> = values.iter().map(|x| x.widen() as f32).collect();
    Ok(QuantizedTensor::quantize(&values, shape, scheme)?)
}
