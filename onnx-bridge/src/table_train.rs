//! Tables as trains: a row is the product of one slice of each core.

use ndarray::{Array2, ArrayView2, CowArray, s};
use quant_core::{Granularity, QuantParams, QuantizedTensor};
use tn_formats::{
    Layout, MatrixModes, QuantizedTtMatrix, Strategy, Truncation, TtMatrix, factorize_balanced,
    padded_size,
};

use crate::choice::{CoreGranularity, LayerChoice, NetworkChoice, Quantization, Spec};
use crate::network::{ScaleAxis, quantize_cores};
use crate::skip::SkipReason;

/// The cores of a table where nobody says how many.
const ORDER: usize = 3;

/// The least that an index of a row mode counts, in parts of the mean.
const LEAST: f64 = 1e-3;

/// A table `[rows, columns]` as a train in quantized cores.
///
/// Row i of the table is row i of the train's matrix. That one has as many rows as the product of the row modes, which may
/// be more: the padding counts as zero when the table is decomposed, and is never looked up.
///
/// # Source
/// TT-Rec: Yin et al. 2021, arXiv 2101.11714.
#[derive(Debug, Clone, PartialEq)]
pub struct TableTrain {
    train: QuantizedTtMatrix,
    rows: usize,
}

impl TableTrain {
    /// The train of the padded table.
    pub fn train(&self) -> &QuantizedTtMatrix {
        &self.train
    }

    /// Rows by columns, without the padding.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.train.modes().cols()]
    }

    /// The rows of the train's matrix that are no rows of the table.
    pub fn padding(&self) -> usize {
        self.train.modes().rows() - self.rows
    }

    /// The table that the codes stand for.
    ///
    /// # Numerics
    /// The dequantized `f32` cores are contracted in `f64` and rounded once.
    pub fn to_dense(&self) -> Array2<f32> {
        let padded = self.train.dequantize().cast::<f64>().to_dense();
        padded.slice(s![..self.rows, ..]).mapv(|v| v as f32)
    }

    /// Decomposes a table and quantizes its cores, each solved for and rounded against the others; where rows have an
    /// importance, nearest where that is large.
    ///
    /// # Numerics
    /// Importance enters as one factor for each row mode, of how much the rows of an index of that mode count together:
    /// slices are multiplied by its root before the table is decomposed, and divided by it in the scales of the codes, of which
    /// every slice then has its own.
    ///
    /// # Errors
    /// [`SkipReason::Misfit`] where the modes do not hold the table, where the train has no fewer numbers than it, and for an
    /// importance that is not one number for each row.
    pub(crate) fn build(
        table: ArrayView2<'_, f32>,
        importance: Option<&[f64]>,
        (modes, truncation): (&MatrixModes, &Truncation),
        quantization: &Quantization,
    ) -> Result<Self, SkipReason> {
        let (rows, columns) = table.dim();
        check(modes, [rows, columns])?;
        let roots = match importance {
            Some(importance) if importance.len() == rows => roots(importance, modes.row_modes()),
            Some(importance) => {
                return Err(SkipReason::Misfit {
                    problem: format!(
                        "expected an importance of {rows} rows, found {}",
                        importance.len()
                    ),
                });
            }
            None => Vec::new(),
        };
        let mut padded = CowArray::from(table);
        if modes.rows() != rows || !roots.is_empty() {
            let mut changed = Array2::zeros((modes.rows(), columns));
            changed.slice_mut(s![..rows, ..]).assign(&table);
            for (i, mut row) in changed.outer_iter_mut().enumerate() {
                row *= weight(&roots, modes.row_modes(), i);
            }
            padded = CowArray::from(changed);
        }
        let (train, _) = TtMatrix::decompose(padded.view(), modes, truncation).map_err(misfit)?;
        let numbers: usize = train.cores().iter().map(|core| core.view().len()).sum();
        if numbers >= rows * columns {
            return Err(SkipReason::Misfit {
                problem: format!(
                    "expected a train of fewer numbers than the table's {}, found {numbers}",
                    rows * columns
                ),
            });
        }
        let slices = Quantization {
            granularity: match quantization.granularity {
                CoreGranularity::Core if roots.is_empty() => CoreGranularity::Core,
                CoreGranularity::Core | CoreGranularity::Axis => CoreGranularity::Axis,
                blocks => blocks,
            },
            ..*quantization
        };
        let train = quantize_cores(&train, &slices, (Strategy::BEST, ScaleAxis::Row))?;
        let train = match roots.is_empty() {
            true => train,
            false => divided(&train, &roots)?,
        };
        Ok(Self { train, rows })
    }
}

/// The root of how much an index of each row mode counts, relative to the mean index of that mode.
fn roots(importance: &[f64], modes: &[usize]) -> Vec<Vec<f32>> {
    let all: f64 = importance.iter().sum();
    let mut stride = modes.iter().product::<usize>();
    let counted = |&mode: &usize| {
        stride /= mode;
        let mut counts = vec![0.0; mode];
        for (row, count) in importance.iter().enumerate() {
            counts[row / stride % mode] += count;
        }
        let mean = all / mode as f64;
        let root = |count: f64| (count / mean).max(LEAST).sqrt() as f32;
        counts.into_iter().map(root).collect()
    };
    modes.iter().map(counted).collect()
}

/// The product of the roots of a row; 1 without any.
fn weight(roots: &[Vec<f32>], modes: &[usize], row: usize) -> f32 {
    let mut rest = row;
    let digits = roots.iter().zip(modes).rev().map(|(roots, mode)| {
        let root = roots[rest % mode];
        rest /= mode;
        root
    });
    digits.product()
}

/// The same codes, the scales of every slice divided by its root.
fn divided(train: &QuantizedTtMatrix, roots: &[Vec<f32>]) -> Result<QuantizedTtMatrix, SkipReason> {
    let before = train.cores().len() - roots.len();
    let cores = train.cores().iter().enumerate().map(|(k, core)| {
        let Some(roots) = k.checked_sub(before).map(|mode| &roots[mode]) else {
            return Ok(core.clone());
        };
        let params = core.params();
        // `[r, m, n, r']`, of which axis 1 has all its scales.
        let inner = match params.scheme().granularity() {
            Granularity::PerAxis { .. } => 1,
            Granularity::PerBlock { axis, block_size } => {
                let mut shape = core.shape().to_vec();
                shape[axis] = shape[axis].div_ceil(block_size.get());
                shape[2] * shape[3]
            }
            Granularity::PerTensor => usize::MAX,
        };
        let scales = params.scales().iter().enumerate();
        let scales = scales.map(|(i, scale)| scale / roots[i / inner % roots.len()]);
        let params = QuantParams::new(
            *params.scheme(),
            scales.collect(),
            params.zero_points().to_vec(),
        )?;
        QuantizedTensor::from_codes(core.shape(), params, &core.codes())
    });
    let cores = cores.collect::<Result<_, quant_core::QuantError>>();
    let cores = cores.map_err(|e| SkipReason::Misfit {
        problem: e.to_string(),
    })?;
    QuantizedTtMatrix::from_cores(train.modes().clone(), cores).map_err(misfit)
}

/// The choice of a train for a table: modes as they are asked for, or three balanced ones for the rows, padded where these have
/// no balanced factors, and three for the columns.
///
/// # Errors
/// [`SkipReason::Misfit`] where the modes do not hold the table.
pub(crate) fn choice(
    spec: &Spec,
    [rows, columns]: [usize; 2],
    truncation: Truncation,
) -> Result<LayerChoice, SkipReason> {
    let layout = spec.layout.unwrap_or(Layout::Interleaved);
    let (row_modes, col_modes) = spec.modes.clone().unwrap_or_else(|| {
        let order = spec.order.unwrap_or(ORDER);
        (
            padded_size(rows, order).1,
            factorize_balanced(columns, order),
        )
    });
    let modes = MatrixModes::new(layout, row_modes, col_modes).map_err(misfit)?;
    check(&modes, [rows, columns])?;
    Ok(LayerChoice::new(
        NetworkChoice::Tt { modes, truncation },
        spec.quantization,
    ))
}

/// The columns have to come out exactly; of the rows, no index of the first mode may be padding alone.
fn check(modes: &MatrixModes, [rows, columns]: [usize; 2]) -> Result<(), SkipReason> {
    let slice: usize = modes.row_modes()[1..].iter().product();
    let held = rows.div_ceil(slice) == modes.row_modes()[0];
    if held && modes.cols() == columns {
        return Ok(());
    }
    Err(SkipReason::Misfit {
        problem: format!(
            "expected row modes whose product is {rows} or more by less than the product of all but the first, and column \
             modes whose product is {columns}, found {:?} and {:?}",
            modes.row_modes(),
            modes.col_modes()
        ),
    })
}

fn misfit(error: tn_formats::Error) -> SkipReason {
    SkipReason::Misfit {
        problem: error.to_string(),
    }
}
