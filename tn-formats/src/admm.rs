//! Rounding a core by the alternating direction method of multipliers, with the grid as the constraint.

use ndarray::{Array2, Array3, ArrayView2};

use crate::error::Result;
use crate::lattice::{Metric, two_sided};
use crate::linalg::{eigh, mm};

/// The penalty as a share of the metric's mean eigenvalue.
const PENALTY: f64 = 0.1;

/// Minimises `<Y, M Y> - 2 <b, Y>` over the grid: the least-squares core and its rounding are drawn together step by step;
/// `visit` is shown every rounding.
///
/// # Errors
/// [`crate::Error::LinAlg`].
///
/// # Source
/// Cherniuk et al. 2023, arXiv 2308.04595, algorithm 1, with the exact solve in the metric's eigenbasis.
pub(crate) fn admm(
    metric: &Metric,
    b: &Array3<f64>,
    start: &Array3<f64>,
    iterations: u32,
    round: impl Fn(&Array3<f64>) -> Array3<f64>,
    mut visit: impl FnMut(&Array3<f64>),
) -> Result<()> {
    let (left_values, left) = eigh(metric.left.view())?;
    let (right_values, right) = eigh(metric.right.view())?;
    let mean = |m: &Array2<f64>| m.diag().sum() / m.nrows() as f64;
    let penalty = PENALTY * mean(&metric.left) * mean(&metric.right);
    let penalty = penalty.max(f64::MIN_POSITIVE.sqrt());
    let turn = |x: &Array3<f64>, l: ArrayView2<'_, f64>, r: ArrayView2<'_, f64>| {
        two_sided(x.view(), |m| mm(l, m), |m| mm(m, r))
    };
    let solve = |target: Array3<f64>| {
        let mut y = turn(&target, left.t(), right.view());
        for ((i, _, k), x) in y.indexed_iter_mut() {
            *x /= (left_values[i] * right_values[k]).max(0.0) + penalty;
        }
        turn(&y, left.view(), right.t())
    };
    let mut grid = round(start);
    let mut dual = Array3::<f64>::zeros(start.dim());
    for _ in 0..iterations {
        visit(&grid);
        let y = solve(b + &((&grid - &dual) * penalty));
        grid = round(&(&y + &dual));
        dual = dual + y - &grid;
    }
    visit(&grid);
    Ok(())
}
