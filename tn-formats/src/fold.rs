//! What the inputs' second moment does to a core: a factor of its own on the column mode, folded into one side of the core's
//! metric.

use ndarray::{Array2, Array3, ArrayView3, IxDyn};

use crate::linalg::mm;
use crate::matrix::TtMatrix;
use crate::modes::{Layout, MatrixModes};
use crate::scalar::norm_sq;
use crate::train::{TensorTrain, TtCore};
use crate::tucker::mode_product;

/// Largest side of a folded metric; a core beyond it is rounded as if its inputs were white.
const LARGEST_SIDE: usize = 2048;
/// Share of the mean added to the diagonal of a factor.
const FLOOR: f64 = 1e-4;

/// The column mode's factor of the second moment at one core `[r, m n, r']`, mean diagonal 1.
pub(crate) struct CoreWeight {
    pub(crate) row_mode: usize,
    pub(crate) factor: Option<Array2<f64>>,
}

impl CoreWeight {
    /// White inputs.
    pub(crate) fn none(mode: usize) -> Self {
        Self {
            row_mode: mode,
            factor: None,
        }
    }

    /// The core with the factor multiplied into its column mode.
    pub(crate) fn weigh(&self, core: &TtCore<f64>) -> TtCore<f64> {
        let Some(factor) = &self.factor else {
            return core.clone();
        };
        let (r, n, e) = core.view().dim();
        let cut = core
            .view()
            .into_shape_with_order(IxDyn(&[r * self.row_mode, factor.nrows(), e]));
        let product = mode_product(cut.expect("the factor fits"), 1, factor.view());
        let flat = product
            .into_shape_with_order((r * n, e))
            .expect("same number of elements");
        TtCore::from_unfolding(flat, r, n, e)
    }

    /// How a core of these ranks is folded.
    pub(crate) fn fold(&self, core: &TtCore<f64>) -> Fold {
        let (r, n, e) = core.view().dim();
        let (m, inner) = match &self.factor {
            Some(factor) => (self.row_mode, factor.nrows()),
            None => (n, 1),
        };
        let side = match &self.factor {
            None => Side::Neither,
            Some(_) if r.min(e) * inner > LARGEST_SIDE => Side::Neither,
            Some(_) if r <= e => Side::Left,
            Some(_) => Side::Right,
        };
        let (m, inner) = if side == Side::Neither {
            (n, 1)
        } else {
            (m, inner)
        };
        Fold {
            dims: (r, m, inner, e),
            side,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Neither,
    Left,
    Right,
}

/// A core `[r, m, n, r']` as `[r n, m, r']` or `[r, m, n r']`, or as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fold {
    dims: (usize, usize, usize, usize),
    side: Side,
}

impl Fold {
    /// The folded shape.
    pub(crate) fn dim(&self) -> (usize, usize, usize) {
        let (r, m, n, e) = self.dims;
        match self.side {
            Side::Left => (r * n, m, e),
            Side::Neither | Side::Right => (r, m, n * e),
        }
    }

    /// Where an element of the folded core is stored.
    #[inline]
    pub(crate) fn index(&self, i: usize, j: usize, k: usize) -> usize {
        let (_, m, n, e) = self.dims;
        match self.side {
            Side::Left => ((i / n * m + j) * n + i % n) * e + k,
            Side::Neither | Side::Right => (i * m + j) * n * e + k,
        }
    }

    /// `[r, m n, r']` folded.
    pub(crate) fn fold(&self, core: ArrayView3<'_, f64>) -> Array3<f64> {
        let (r, m, n, e) = self.dims;
        let core = core.as_standard_layout();
        let four = core
            .view()
            .into_shape_with_order((r, m, n, e))
            .expect("same number of elements");
        let four = match self.side {
            Side::Left => four.permuted_axes([0, 2, 1, 3]),
            Side::Neither | Side::Right => four,
        };
        let four = four.as_standard_layout().into_owned();
        four.into_shape_with_order(self.dim())
            .expect("same number of elements")
    }

    /// The elements of a folded array in the order they are stored.
    pub(crate) fn stored<E: Copy + Default>(&self, folded: &Array3<E>) -> Vec<E> {
        let mut out = vec![E::default(); folded.len()];
        for ((i, j, k), &x) in folded.indexed_iter() {
            out[self.index(i, j, k)] = x;
        }
        out
    }

    /// The sides of the core's metric with the factor folded in.
    pub(crate) fn sides(
        &self,
        left: &Array2<f64>,
        right: &Array2<f64>,
        weight: &CoreWeight,
    ) -> (Array2<f64>, Array2<f64>) {
        match (self.side, &weight.factor) {
            (Side::Left, Some(factor)) => (kronecker(left, factor), right.clone()),
            (Side::Right, Some(factor)) => (left.clone(), kronecker(factor, right)),
            _ => (left.clone(), right.clone()),
        }
    }
}

fn kronecker(a: &Array2<f64>, b: &Array2<f64>) -> Array2<f64> {
    let (m, n) = b.dim();
    Array2::from_shape_fn((a.nrows() * m, a.ncols() * n), |(i, j)| {
        a[[i / m, j / n]] * b[[i % m, j % n]]
    })
}

/// The norm `tr(W C Wᵀ)^(1/2)` that a quantized matrix is judged by, and its Kronecker approximation that cores are rounded in.
pub(crate) struct InputNorm {
    second_moment: Array2<f64>,
    modes: MatrixModes,
    dense: Array2<f64>,
    norm: f64,
    /// One per core.
    pub(crate) weights: Vec<CoreWeight>,
}

impl InputNorm {
    /// `second_moment` is `[N, N]` for the matrix's N columns.
    pub(crate) fn new(train: &TtMatrix<f64>, second_moment: Array2<f64>) -> Self {
        let modes = train.modes().clone();
        let inputs = modes.col_modes().to_vec();
        let pairs = modes.core_modes();
        let weights = pairs.iter().enumerate().map(|(k, &(m, n))| {
            let input = match modes.layout() {
                Layout::Interleaved => Some(k),
                Layout::Split => (k < inputs.len()).then_some(k),
            };
            CoreWeight {
                row_mode: if input.is_some() { m } else { m * n },
                factor: input
                    .filter(|&k| inputs[k] > 1)
                    .map(|k| mode_factor(&second_moment, &inputs, k)),
            }
        });
        let weights = weights.collect();
        let dense = train.to_dense();
        let mut norm = Self {
            second_moment,
            modes,
            dense: Array2::zeros(dense.dim()),
            norm: 1.0,
            weights,
        };
        norm.norm = norm.size(&dense);
        norm.dense = dense;
        norm
    }

    /// The weighted distance of a train of the same modes, relative to the matrix.
    pub(crate) fn relative(&self, other: TensorTrain<f64>) -> f64 {
        let other = TtMatrix::from_train(other, self.modes.clone())
            .expect("the cores keep their modes")
            .to_dense();
        if self.norm > 0.0 {
            self.size(&(other - &self.dense)) / self.norm
        } else {
            0.0
        }
    }

    fn size(&self, matrix: &Array2<f64>) -> f64 {
        let weighted = mm(matrix.view(), self.second_moment.view());
        let square: f64 = weighted.iter().zip(matrix).map(|(a, b)| a * b).sum();
        square.max(0.0).sqrt()
    }
}

/// The second moment of one input mode alone (a partial trace), mean diagonal 1, floored.
fn mode_factor(c: &Array2<f64>, modes: &[usize], k: usize) -> Array2<f64> {
    let n = modes[k];
    let after: usize = modes[k + 1..].iter().product();
    let before = c.nrows() / n / after;
    let mut sum = Array2::<f64>::zeros((n, n));
    for b in 0..before {
        for ((i, j), x) in sum.indexed_iter_mut() {
            let (row, col) = ((b * n + i) * after, (b * n + j) * after);
            *x += (0..after).map(|a| c[[row + a, col + a]]).sum::<f64>();
        }
    }
    let mean = sum.diag().sum() / n as f64;
    if mean <= 0.0 || norm_sq(sum.view()) == 0.0 {
        return Array2::eye(n);
    }
    let mut factor = (&sum + &sum.t()) * (0.5 / mean / (1.0 + FLOOR));
    factor
        .diag_mut()
        .mapv_inplace(|x| x + FLOOR / (1.0 + FLOOR));
    factor
}
