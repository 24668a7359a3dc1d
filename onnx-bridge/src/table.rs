//! Tables on few levels, every row with scales of its own; of low rank, every row of the left factor.

use ndarray::{Array2, ArrayView2, Axis, s};
use tn_formats::{Truncation, linalg};

use crate::blocks::{BlockFormat, BlockMatrix, Levels};
use crate::choice::{CoreGranularity, MappingChoice, Quantization};
use crate::plan::{Effort, Metric, quantize};
use crate::skip::SkipReason;

/// A table, or the two factors of one.
#[derive(Debug, Clone, PartialEq)]
pub struct CodedTable {
    left: BlockMatrix,
    right: Option<BlockMatrix>,
}

impl CodedTable {
    /// The rows themselves, or those of the left factor.
    pub fn left(&self) -> &BlockMatrix {
        &self.left
    }

    /// The right factor of a table of low rank.
    pub fn right(&self) -> Option<&BlockMatrix> {
        self.right.as_ref()
    }

    /// The table that the codes stand for.
    pub fn to_dense(&self) -> Array2<f32> {
        let left = dense(&self.left);
        match &self.right {
            // Inner sizes are equal: checked on building.
            Some(right) => left.dot(&dense(right)),
            None => left,
        }
    }

    /// The bytes of its codes and scales in the file.
    pub fn bytes(&self) -> u64 {
        let [rows, columns] = self.left.shape();
        let right = self.right.as_ref().map_or(0, |right| {
            let [rows, columns] = right.shape();
            right.format().matrix_bytes(rows, columns)
        });
        self.left.format().table_bytes(rows, columns) + right
    }

    /// Every row in codes.
    ///
    /// # Errors
    /// [`SkipReason::Misfit`] for a quantization that tables do not take.
    pub(crate) fn rows(
        table: ArrayView2<'_, f32>,
        quantization: &Quantization,
    ) -> Result<Self, SkipReason> {
        let format = format(quantization, table.ncols())?;
        let metric = Metric::identity(table.ncols());
        // Columns are independent in this norm: nothing is fed from one to the next.
        let left = quantize(table, &metric, format, Effort::Nearest).map_err(misfit)?;
        Ok(Self { left, right: None })
    }

    /// Two factors, the table as near as possible where rows count by their importance.
    ///
    /// # Numerics
    /// The right factor is the leading eigenvectors of `Tᵀ diag(importance) T`, turned so that its rows are flat; each row
    /// of the left one is then solved against its codes.
    ///
    /// # Errors
    /// As [`CodedTable::rows`], and for an importance that is not one number for each row.
    pub(crate) fn low_rank(
        table: ArrayView2<'_, f32>,
        importance: Option<&[f64]>,
        truncation: &Truncation,
        quantization: &Quantization,
    ) -> Result<Self, SkipReason> {
        let (rows, columns) = table.dim();
        if let Some(found) = importance.map(<[f64]>::len).filter(|&n| n != rows) {
            return Err(misfit(format!(
                "expected an importance of {rows} rows, found {found}"
            )));
        }
        let gram = gram(table, importance)?;
        let (values, vectors) = linalg::eigh(gram.view()).map_err(|e| misfit(e.to_string()))?;
        let rank = rank(truncation, values.as_slice().unwrap_or(&[]), rows + columns)?;
        let basis = vectors.slice(s![.., ..rank]).dot(&flat(rank));
        let right = basis.t().mapv(|v| v as f32);
        let metric = Metric::identity(columns);
        let right = quantize(
            right.view(),
            &metric,
            format(quantization, columns)?,
            EFFORT,
        )
        .map_err(misfit)?;
        let left = against(table, dense(&right).view(), format(quantization, rank)?)?;
        Ok(Self {
            left,
            right: Some(right),
        })
    }
}

/// The work that goes into a rounding.
const EFFORT: Effort = Effort::Refined(1);

/// Rows that are taken in together.
const ROWS: usize = 4096;

fn misfit(problem: String) -> SkipReason {
    SkipReason::Misfit { problem }
}

fn dense(matrix: &BlockMatrix) -> Array2<f32> {
    Array2::from_shape_vec(matrix.shape(), matrix.dequantize())
        .expect("a block matrix has as many values as its shape")
}

/// An orthogonal matrix of flat entries, that of the cosine transform: a row of the left factor turned by it has no entry
/// that sets the scale of all others.
fn flat(rank: usize) -> Array2<f64> {
    let n = rank as f64;
    Array2::from_shape_fn((rank, rank), |(i, j)| {
        let norm = if j == 0 { 1.0 } else { 2.0 };
        let angle = std::f64::consts::PI * (i as f64 + 0.5) * j as f64 / n;
        (norm / n).sqrt() * angle.cos()
    })
}

/// `Tᵀ diag(importance) T`.
fn gram(table: ArrayView2<'_, f32>, importance: Option<&[f64]>) -> Result<Array2<f64>, SkipReason> {
    let columns = table.ncols();
    let mut gram = Array2::<f64>::zeros((columns, columns));
    for (k, chunk) in table.axis_chunks_iter(Axis(0), ROWS).enumerate() {
        let mut weighted = chunk.to_owned();
        if let Some(importance) = importance {
            let own = &importance[k * ROWS..];
            for (mut row, &weight) in weighted.outer_iter_mut().zip(own) {
                row *= weight as f32;
            }
        }
        let part = linalg::matmul(weighted.t(), chunk).map_err(|e| misfit(e.to_string()))?;
        gram.zip_mut_with(&part, |g, p| *g += f64::from(*p));
    }
    // Rounding leaves it not quite symmetric.
    Ok((&gram + &gram.t()) / 2.0)
}

/// `L` with `L R` nearest to the table, rounded in the norm that `R` gives it.
fn against(
    table: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    format: BlockFormat,
) -> Result<BlockMatrix, SkipReason> {
    let failed = |e: tn_formats::Error| misfit(e.to_string());
    let inner = right.mapv(f64::from);
    let inner = inner.dot(&inner.t());
    let (values, vectors) = linalg::eigh(inner.view()).map_err(failed)?;
    let largest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let scaled = &vectors / &values.mapv(|v| v.max(1e-10 * largest));
    let solve = right.t().dot(&scaled.dot(&vectors.t()).mapv(|v| v as f32));
    let left = linalg::matmul(table, solve.view()).map_err(failed)?;
    let metric = Metric::new(inner.view(), 1e-4).map_err(misfit)?;
    quantize(left.view(), &metric, format, EFFORT).map_err(misfit)
}

/// The rank at which a truncation stops, for falling squared singular values.
fn rank(truncation: &Truncation, values: &[f64], size: usize) -> Result<usize, SkipReason> {
    let all = values.len();
    let wanted = match truncation {
        Truncation::MaxRank(rank) => *rank,
        Truncation::Ranks(ranks) => match ranks.as_slice() {
            [rank] => *rank,
            _ => {
                return Err(misfit(format!(
                    "expected one rank for a table, found {ranks:?}"
                )));
            }
        },
        Truncation::RelativeError(epsilon) => {
            let total: f64 = values.iter().map(|v| v.max(0.0)).sum();
            let mut left = total;
            let kept = values.iter().take_while(|v| {
                let more = left > epsilon * epsilon * total;
                left -= v.max(0.0);
                more
            });
            kept.count()
        }
        Truncation::Bytes(bytes) => bytes / 4 / size.max(1),
        _ => return Err(misfit("expected a rank, an error or bytes".into())),
    };
    Ok(wanted.clamp(1, all.max(1)))
}

/// The grid and the blocks for a number of bits: the finest grid of at most as many, a row to a scale where nobody says.
fn format(quantization: &Quantization, columns: usize) -> Result<BlockFormat, SkipReason> {
    if quantization.mapping == MappingChoice::Affine {
        return Err(misfit(
            "expected symmetric codes for a table, found affine ones".into(),
        ));
    }
    let fits = |levels: &Levels| levels.nominal_bits() <= quantization.bits.get();
    let levels = Levels::ALL.into_iter().rfind(fits);
    let block = match quantization.granularity {
        CoreGranularity::Core | CoreGranularity::Axis => columns,
        CoreGranularity::Block(size) => size.get(),
    };
    let format = BlockFormat {
        levels: levels.unwrap_or(Levels::L4),
        block,
    };
    Ok(format.fitted(columns))
}
