//! Solving with a symmetric positive definite matrix, in f64, rows of the right side in parallel.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::metric::{cholesky, dot};

/// `X` of `X A = B`, for `A` symmetric positive definite.
///
/// # Shapes
/// `a`: `[K, K]`, of which the lower triangle is read; `b`: `[M, K]`; so is the result.
pub(crate) fn solve_right(a: ArrayView2<'_, f64>, b: &Array2<f64>) -> Array2<f64> {
    let k = a.nrows();
    let mut lower = Array2::from_shape_fn((k, k), |(i, j)| if j <= i { a[[i, j]] } else { 0.0 });
    let mean = a.diag().iter().sum::<f64>() / k.max(1) as f64;
    cholesky(&mut lower, mean.abs().max(f64::MIN_POSITIVE) * 1e-12);
    let upper = lower.t().as_standard_layout().to_owned();
    let (lower, upper) = (
        lower.as_slice().unwrap_or(&[]),
        upper.as_slice().unwrap_or(&[]),
    );
    let mut x: Vec<f64> = b.iter().copied().collect();
    x.par_chunks_mut(k.max(1)).for_each(|row| {
        for i in 0..k {
            row[i] = (row[i] - dot(&lower[i * k..i * k + i], &row[..i])) / lower[i * k + i];
        }
        for i in (0..k).rev() {
            row[i] = (row[i] - dot(&upper[i * k + i + 1..(i + 1) * k], &row[i + 1..k]))
                / upper[i * k + i];
        }
    });
    Array2::from_shape_vec(b.dim(), x).expect("as many numbers as before")
}

#[cfg(test)]
mod tests {
    use super::super::metric::tests::sample;
    use super::*;

    #[test]
    fn the_solution_solves() {
        for k in [1, 5, 70, 130] {
            let (b, mut a) = sample(3, k);
            a.diag_mut().iter_mut().for_each(|d| *d += 0.1);
            let b = b.mapv(f64::from);
            let x = solve_right(a.view(), &b);
            let worst = (x.dot(&a) - &b).iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            assert!(worst < 1e-9, "{k}: {worst}");
        }
    }
}
