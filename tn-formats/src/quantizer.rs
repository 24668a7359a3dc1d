//! From float cores to quantized ones, and back.

use ndarray::ArrayView2;
use quant_core::{QuantScheme, QuantizedTensor};

use crate::budgets;
use crate::compensate::CoreRounding;
use crate::error::{Error, Result};
use crate::fold::InputNorm;
use crate::matrix::TtMatrix;
use crate::quantized::{QuantizedTensorTrain, QuantizedTtMatrix};
use crate::scalar::Real;
use crate::strategy::{Outcome, Plan, QuantizationError, Strategy, quantize_cores};
use crate::train::TensorTrain;

mod tucker;

pub use tucker::TuckerQuantizer;

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
    strategy: Strategy,
    rounding: CoreRounding,
    budget: Option<usize>,
    each: Option<Vec<QuantScheme>>,
}

impl TtQuantizer {
    /// Each core on its own, as it comes ([`Strategy::Independent`], the source document's quantizer). For the smallest
    /// error at the same bytes, go on with `.with_strategy(Strategy::BEST)`.
    pub fn new(scheme: QuantScheme) -> Self {
        Self {
            scheme,
            strategy: Strategy::Independent,
            rounding: CoreRounding::default(),
            budget: None,
            each: None,
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

    /// Another way of rounding a core in [`Strategy::Compensated`].
    #[must_use]
    pub fn with_rounding(mut self, rounding: CoreRounding) -> Self {
        self.rounding = rounding;
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
        let outcome = self.run(&train.cast(), &shapes, None)?;
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
        let outcome = self.run_matrix(train, None)?;
        let codes = QuantizedTtMatrix::from_cores(train.modes().clone(), outcome.cores)?;
        Ok((codes, outcome.error))
    }

    /// Quantizes a matrix train for the inputs it will see: what counts is `E ||(W - W~) x||²`, given the second moment
    /// `C = E[x xᵀ]`. The error is relative in the norm `tr(W C Wᵀ)^(1/2)`.
    ///
    /// # Shapes
    /// `second_moment` is `[N, N]` for a matrix of N columns.
    ///
    /// # Numerics
    /// The norm that is compared is exact, by dense matrices in `f64`. Cores are solved for and rounded under the closest
    /// product of one factor per column mode (with two split cores: C itself). [`Strategy::Compensated`] tries the plain
    /// norm too and takes what is better in the weighted one.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::NotFinite`] for the second moment, else as [`TtQuantizer::quantize`].
    ///
    /// ```
    /// use ndarray::Array2;
    /// use quant_core::{Bits, QuantScheme};
    /// use tn_formats::{MatrixModes, Strategy, Truncation, TtMatrix, TtQuantizer};
    /// let w = Array2::from_shape_fn((24, 20), |(i, j)| ((i * j) as f64 * 0.3).sin());
    /// let c = Array2::from_diag(&ndarray::Array1::from_shape_fn(20, |k| 0.5f64.powi(k as i32)));
    /// let modes = MatrixModes::low_rank(24, 20)?;
    /// let (train, _) = TtMatrix::decompose(w.view(), &modes, &Truncation::MaxRank(8))?;
    /// let quantizer = TtQuantizer::new(QuantScheme::symmetric(Bits::B3)).with_strategy(Strategy::BEST);
    /// let (_, aware) = quantizer.quantize_matrix_weighted(&train, c.view())?;
    /// let (plain, _) = quantizer.quantize_matrix_measured(&train)?;
    /// let difference = plain.dequantize().cast::<f64>().to_dense() - train.to_dense();
    /// let size = |m: &Array2<f64>| (&m.dot(&c) * m).sum().sqrt();
    /// assert!(aware.relative < size(&difference) / size(&train.to_dense()));
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn quantize_matrix_weighted<T: Real>(
        &self,
        train: &TtMatrix<T>,
        second_moment: ArrayView2<'_, f64>,
    ) -> Result<(QuantizedTtMatrix, QuantizationError)> {
        let (_, n) = train.shape();
        if second_moment.dim() != (n, n) {
            return Err(Error::Shape {
                what: "second moment",
                expected: vec![n, n],
                found: second_moment.shape().to_vec(),
            });
        }
        if second_moment.iter().any(|x| !x.is_finite()) {
            return Err(Error::NotFinite {
                what: "second moment",
            });
        }
        let norm = InputNorm::new(&train.cast(), second_moment.to_owned());
        let outcome = self.run_matrix(train, Some(&norm))?;
        let codes = QuantizedTtMatrix::from_cores(train.modes().clone(), outcome.cores)?;
        Ok((codes, outcome.error))
    }

    /// What the strategy tries on a matrix train, and the error of each: every core as it comes first, then the gauges, then
    /// what was asked for. [`TtQuantizer::quantize_matrix`] takes the best.
    ///
    /// # Errors
    /// As [`TtQuantizer::quantize`].
    pub fn compare_matrix<T: Real>(&self, train: &TtMatrix<T>) -> Result<Vec<QuantizationError>> {
        Ok(self.run_matrix(train, None)?.tried)
    }

    fn run_matrix<T: Real>(
        &self,
        train: &TtMatrix<T>,
        norm: Option<&InputNorm>,
    ) -> Result<Outcome> {
        let modes = train.modes().core_modes();
        let shapes = |t: &TensorTrain<f64>| {
            let cores = t.cores().iter().zip(&modes);
            cores
                .map(|(c, &(m, n))| vec![c.left_rank(), m, n, c.right_rank()])
                .collect()
        };
        self.run(&train.to_train().cast(), &shapes, norm)
    }

    fn run(
        &self,
        train: &TensorTrain<f64>,
        shapes: &dyn Fn(&TensorTrain<f64>) -> Vec<Vec<usize>>,
        norm: Option<&InputNorm>,
    ) -> Result<Outcome> {
        let plan = Plan {
            strategy: self.strategy,
            rounding: self.rounding,
            norm,
        };
        let Some(bytes) = self.budget else {
            let schemes = schemes_of(self.scheme, self.each.as_deref(), train.order())?;
            return quantize_cores(train, shapes, &schemes, &plan);
        };
        let mut best: Option<Outcome> = None;
        for schemes in budgets::schemes_within(train, shapes, self.scheme, self.strategy, bytes)? {
            let candidate = quantize_cores(train, shapes, &schemes, &plan)?;
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

/// One scheme for each of `parts` cores or factors.
fn schemes_of(
    all: QuantScheme,
    each: Option<&[QuantScheme]>,
    parts: usize,
) -> Result<Vec<QuantScheme>> {
    match each {
        None => Ok(vec![all; parts]),
        Some(each) if each.len() == parts => Ok(each.to_vec()),
        Some(each) => Err(Error::Length {
            what: "schemes",
            expected: parts,
            found: each.len(),
        }),
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
