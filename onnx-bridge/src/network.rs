//! The quantized network that takes a weight's place.

use ndarray::{Array2, ArrayView2, Ix2};
use quant_core::{Granularity, QuantScheme, QuantizedTensor};
use tn_formats::{
    MatrixModes, QuantizedTtMatrix, QuantizedTucker, Strategy, Truncation, TtMatrix, TtQuantizer,
    Tucker,
};

use crate::choice::{CoreGranularity, LayerChoice, NetworkChoice, Quantization};
use crate::skip::SkipReason;
use crate::table::CodedTable;
use crate::table_train::TableTrain;

/// A quantized network that stands for a matrix `W [M, N]`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Network {
    /// A TT-matrix; the low-rank factorization is the split one of two cores.
    Tt(QuantizedTtMatrix),
    /// A core and two factors.
    Tucker(QuantizedTucker),
    /// The matrix itself.
    Dense(QuantizedTensor),
    /// A table whose rows are unpacked one by one.
    Table(CodedTable),
    /// A table whose rows are products of slices of cores.
    TableTrain(TableTrain),
}

impl Network {
    /// Decomposes and quantizes a matrix.
    ///
    /// # Shapes
    /// `w` is `[M, N]`.
    ///
    /// # Numerics
    /// Deterministic: the same matrix and choice give the same codes.
    ///
    /// # Errors
    /// [`SkipReason::Misfit`] where the choice cannot hold this matrix.
    pub fn build(w: ArrayView2<'_, f32>, choice: &LayerChoice) -> Result<Self, SkipReason> {
        let quantization = choice.quantization();
        Ok(match choice.network() {
            NetworkChoice::Dense => {
                let values: Vec<f32> = w.iter().copied().collect();
                Self::Dense(quantize(&values, w.shape(), [0, 1], quantization)?)
            }
            NetworkChoice::Tt { modes, truncation } => {
                modes.check(w.nrows(), w.ncols()).map_err(misfit)?;
                let (train, _) = TtMatrix::decompose(w, modes, truncation).map_err(misfit)?;
                Self::quantize_train(&train, quantization, choice.strategy())?
            }
            NetworkChoice::Tucker { truncation } => {
                let (tucker, _) = Tucker::decompose(w.into_dyn(), truncation).map_err(misfit)?;
                let core = tucker.core();
                let core_values: Vec<f32> = core.iter().copied().collect();
                let core = quantize(&core_values, core.shape(), [0, 1], quantization)?;
                // Contracted axis of a factor: U_2 [N, r] takes N in, U_1 [M, r] takes r in.
                let factors =
                    tucker
                        .factors()
                        .iter()
                        .zip([[0, 1], [1, 0]])
                        .map(|(factor, axes)| {
                            let values: Vec<f32> = factor.iter().copied().collect();
                            quantize(&values, factor.shape(), axes, quantization)
                        });
                let factors = factors.collect::<Result<_, _>>()?;
                Self::Tucker(QuantizedTucker::from_parts(core, factors).map_err(misfit)?)
            }
        })
    }

    /// Quantizes the cores of a train.
    ///
    /// # Errors
    /// [`SkipReason::Misfit`] where a core does not take the quantization.
    pub fn quantize_train(
        train: &TtMatrix<f32>,
        quantization: &Quantization,
        strategy: Strategy,
    ) -> Result<Self, SkipReason> {
        quantize_cores(train, quantization, (strategy, ScaleAxis::Output)).map(Self::Tt)
    }

    /// As [`Network::build`], for the inputs that the matrix will see: what counts is `E ||(W - W~) x||²`, given the second
    /// moment `E[x xᵀ]`. The network of [`Network::build`] is kept where it loses less in that norm and takes no more codes.
    ///
    /// # Shapes
    /// `w` is `[M, N]`, `second_moment` `[N, N]`.
    ///
    /// # Numerics
    /// A train is decomposed in the norm and its cores are rounded in it; a Tucker network is that of the matrix whose rank
    /// was cut in the norm, its arrays rounded as they come; a dense matrix is that of [`Network::build`].
    ///
    /// # Errors
    /// As [`Network::build`], and for a moment of another shape or with numbers that are not finite.
    pub fn fit(
        w: ArrayView2<'_, f32>,
        second_moment: ArrayView2<'_, f64>,
        choice: &LayerChoice,
    ) -> Result<Self, SkipReason> {
        let quantization = choice.quantization();
        let fitted = match choice.network() {
            NetworkChoice::Dense => return Self::build(w, choice),
            NetworkChoice::Tt { modes, truncation } => {
                let (train, _) = TtMatrix::decompose_weighted(w, second_moment, modes, truncation)
                    .map_err(misfit)?;
                let (codes, _) =
                    quantizer(&train, quantization, (Strategy::BEST, ScaleAxis::Output))?
                        .quantize_matrix_weighted(&train, second_moment)
                        .map_err(misfit)?;
                Self::Tt(codes)
            }
            NetworkChoice::Tucker { truncation } => {
                let most = match truncation {
                    // One rank for each side: the matrix has the smaller one.
                    Truncation::Ranks(ranks) => {
                        Truncation::MaxRank(ranks.iter().copied().min().unwrap_or(1))
                    }
                    other => other.clone(),
                };
                let modes = MatrixModes::low_rank(w.nrows(), w.ncols()).map_err(misfit)?;
                let (cut, _) = TtMatrix::decompose_weighted(w, second_moment, &modes, &most)
                    .map_err(misfit)?;
                let rank = Truncation::MaxRank(cut.ranks()[1]);
                let tucker = NetworkChoice::Tucker { truncation: rank };
                Self::build(
                    cut.to_dense().view(),
                    &LayerChoice::new(tucker, *quantization),
                )?
            }
        };
        let loss = |network: &Self| {
            let lost = (&w - &network.to_dense()).mapv(f64::from);
            (&lost.dot(&second_moment) * &lost).sum()
        };
        let plain = Self::build(w, choice)?;
        let simpler = plain.parameters() <= fitted.parameters() && loss(&plain) < loss(&fitted);
        Ok(if simpler { plain } else { fitted })
    }

    /// The matrix that the codes stand for.
    ///
    /// # Shapes
    /// `[M, N]`.
    ///
    /// # Numerics
    /// The dequantized `f32` cores are contracted in `f64` and rounded once.
    pub fn to_dense(&self) -> Array2<f32> {
        match self {
            Self::Tt(train) => train
                .dequantize()
                .cast::<f64>()
                .to_dense()
                .mapv(|v| v as f32),
            Self::Table(table) => table.to_dense(),
            Self::TableTrain(table) => table.to_dense(),
            Self::Dense(matrix) => {
                let shape = (matrix.shape()[0], matrix.shape()[1]);
                Array2::from_shape_vec(shape, matrix.dequantize())
                    .expect("a dense network is a matrix")
            }
            Self::Tucker(tucker) => {
                let network = tucker.dequantize();
                let wide = |a: ArrayView2<'_, f32>| a.mapv(f64::from);
                let core = wide(
                    network
                        .core()
                        .into_dimensionality::<Ix2>()
                        .expect("two factors have a matrix between"),
                );
                let [rows, cols] = [0, 1].map(|k| wide(network.factors()[k].view()));
                rows.dot(&core).dot(&cols.t()).mapv(|v| v as f32)
            }
        }
    }

    /// The arrays: a train's cores, a Tucker network's core and factors, the matrix; none of a [`CodedTable`], which has its own.
    pub fn arrays(&self) -> Vec<&QuantizedTensor> {
        match self {
            Self::Tt(train) => train.cores().iter().collect(),
            Self::TableTrain(table) => table.train().cores().iter().collect(),
            Self::Tucker(tucker) => std::iter::once(tucker.core())
                .chain(tucker.factors())
                .collect(),
            Self::Dense(matrix) => vec![matrix],
            Self::Table(_) => Vec::new(),
        }
    }

    /// The ranks: of a train all `d + 1`, of a Tucker network one for each factor, none of a dense matrix.
    pub fn ranks(&self) -> Vec<usize> {
        match self {
            Self::Tt(train) => train.ranks(),
            Self::TableTrain(table) => table.train().ranks(),
            Self::Tucker(tucker) => tucker.core().shape().to_vec(),
            Self::Dense(_) => Vec::new(),
            Self::Table(table) => match table.right() {
                Some(right) => vec![1, right.shape()[0], 1],
                None => Vec::new(),
            },
        }
    }

    /// The number of stored codes.
    pub fn parameters(&self) -> usize {
        let arrays: usize = self.arrays().iter().map(|a| a.len()).sum();
        match self {
            Self::Table(table) => std::iter::once(table.left())
                .chain(table.right())
                .map(|m| m.codes().len())
                .sum(),
            _ => arrays,
        }
    }
}

/// The axis of a core whose indices have scales of their own under [`CoreGranularity::Axis`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleAxis {
    /// The right rank, or the row mode where that rank is 1.
    Output,
    /// The row mode, or the axis of [`ScaleAxis::Output`] where a core has none.
    Row,
}

/// The cores of a train in codes, scales as their shapes say.
pub(crate) fn quantize_cores(
    train: &TtMatrix<f32>,
    quantization: &Quantization,
    how: (Strategy, ScaleAxis),
) -> Result<QuantizedTtMatrix, SkipReason> {
    let quantizer = quantizer(train, quantization, how)?;
    quantizer.quantize_matrix(train).map_err(misfit)
}

fn quantizer(
    train: &TtMatrix<f32>,
    quantization: &Quantization,
    (strategy, axis): (Strategy, ScaleAxis),
) -> Result<TtQuantizer, SkipReason> {
    let schemes = train.cores().iter().map(|core| {
        let shape = core.shape();
        let output = match axis {
            ScaleAxis::Row if shape[1] > 1 => 1,
            ScaleAxis::Row | ScaleAxis::Output if shape[3] > 1 => 3,
            ScaleAxis::Row | ScaleAxis::Output => 1,
        };
        let contracted = if shape[2] >= shape[0] { 2 } else { 0 };
        scheme([output, contracted], quantization)
    });
    let schemes = schemes.collect::<Result<Vec<_>, _>>()?;
    let quantizer = TtQuantizer::new(quantization.scheme(Granularity::PerTensor));
    Ok(quantizer.with_core_schemes(schemes).with_strategy(strategy))
}

fn misfit(error: tn_formats::Error) -> SkipReason {
    SkipReason::Misfit {
        problem: error.to_string(),
    }
}

/// The scheme of an array whose output axis and contracted axis are given: scales per axis stand on the first, blocks run
/// along the second.
fn scheme(
    [output, contracted]: [usize; 2],
    quantization: &Quantization,
) -> Result<QuantScheme, SkipReason> {
    let granularity = match quantization.granularity {
        CoreGranularity::Core => Granularity::PerTensor,
        CoreGranularity::Axis => Granularity::per_axis(output),
        CoreGranularity::Block(size) => {
            Granularity::per_block(contracted, size.get()).map_err(|e| SkipReason::Misfit {
                problem: e.to_string(),
            })?
        }
    };
    Ok(quantization.scheme(granularity))
}

fn quantize(
    values: &[f32],
    shape: &[usize],
    axes: [usize; 2],
    quantization: &Quantization,
) -> Result<QuantizedTensor, SkipReason> {
    let scheme = scheme(axes, quantization)?;
    QuantizedTensor::quantize(values, shape, &scheme).map_err(|e| SkipReason::Misfit {
        problem: e.to_string(),
    })
}
