//! Solving with a symmetric positive definite matrix, in f64, rows of the right side in parallel.

use ndarray::Array2;
use rayon::prelude::*;

use super::metric::{cholesky, dot};

/// `X` of `X A = B`, for `A` symmetric positive definite.
///
/// # Shapes
/// `a`: `[K, K]`, of which the lower triangle is read, and overwritten by its factor; `b`: `[M, K]`; so is the result.
pub(crate) fn solve_right(mut a: Array2<f64>, b: Array2<f64>) -> Array2<f64> {
    let k = a.nrows();
    let mean = a.diag().iter().sum::<f64>() / k.max(1) as f64;
    cholesky(&mut a, mean.abs().max(f64::MIN_POSITIVE) * 1e-12);
    let lower = a.as_slice().unwrap_or(&[]);
    let dim = b.dim();
    let mut x: Vec<f64> = b.into_iter().collect();
    x.par_chunks_mut(k.max(1)).for_each(|row| {
        for i in 0..k {
            row[i] = (row[i] - dot(&lower[i * k..i * k + i], &row[..i])) / lower[i * k + i];
        }
        for i in (0..k).rev() {
            let value = row[i] / lower[i * k + i];
            row[i] = value;
            let column = &lower[i * k..i * k + i];
            row[..i]
                .iter_mut()
                .zip(column)
                .for_each(|(r, l)| *r -= value * l);
        }
    });
    Array2::from_shape_vec(dim, x).expect("as many numbers as before")
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
            let x = solve_right(a.clone(), b.clone());
            let worst = (x.dot(&a) - &b).iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            assert!(worst < 1e-9, "{k}: {worst}");
        }
    }
}
