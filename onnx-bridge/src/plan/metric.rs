//! The norm in which a weight's error is measured: `tr(E C Eᵀ)` for the second moment `C` of the layer's inputs.

use ndarray::{Array2, ArrayView2, s};
use tn_formats::linalg;

/// Rows of a block of the factorization; a triangle of it stays in the first-level cache.
const BLOCK: usize = 64;

/// A damped second moment with its columns in the order of falling energy, and its triangular factor in that order.
#[derive(Debug, Clone)]
pub struct Metric {
    moment: Array2<f32>,
    order: Vec<usize>,
    /// What was added to the diagonal of `C`.
    #[cfg_attr(
        not(feature = "tract"),
        expect(dead_code, reason = "plans alone ask for it")
    )]
    ridge: f64,
    /// `R` transposed: lower triangular, `C = R Rᵀ` with `R` upper triangular, in the order of `order`.
    factor: Array2<f32>,
    /// How much each row of a weight counts, in the mean 1, where they do not count the same.
    rows: Option<Vec<f32>>,
}

impl Metric {
    /// Factors `C + damping * mean(diag C) * I`.
    ///
    /// # Shapes
    /// `moment`: `[K, K]`, symmetric and positive semidefinite; only its lower triangle is read.
    ///
    /// # Numerics
    /// The factor is computed in f64 and kept in f32. A moment of zeros counts as the identity: every error weighs the
    /// same.
    ///
    /// # Errors
    /// A sentence, where the moment is not square or not finite.
    pub fn new(moment: ArrayView2<'_, f64>, damping: f64) -> Result<Self, String> {
        let (k, cols) = moment.dim();
        if k != cols {
            return Err(format!("expected a square moment, found {k} x {cols}"));
        }
        if let Some(v) = moment.iter().find(|v| !v.is_finite()) {
            return Err(format!("expected a finite moment, found {v}"));
        }
        let mean = moment.diag().iter().sum::<f64>() / k.max(1) as f64;
        let (mean, flat) = if mean > 0.0 { (mean, 0.0) } else { (1.0, 1.0) };
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|&a, &b| moment[[b, b]].total_cmp(&moment[[a, a]]).then(a.cmp(&b)));
        let ridge = damping.max(1e-6) * mean + flat;
        let at =
            |i: usize, j: usize| moment[[i.max(j), i.min(j)]] + if i == j { ridge } else { 0.0 };
        // C = R R^T with R upper triangular: the ordinary factor of the matrix read backwards.
        let mut lower = Array2::from_shape_fn((k, k), |(i, j)| {
            if j <= i {
                at(order[k - 1 - i], order[k - 1 - j])
            } else {
                0.0
            }
        });
        cholesky(&mut lower, ridge);
        let factor = Array2::from_shape_fn((k, k), |(j, i)| {
            if i <= j {
                lower[[k - 1 - i, k - 1 - j]] as f32
            } else {
                0.0
            }
        });
        drop(lower);
        let moment = Array2::from_shape_fn((k, k), |(i, j)| at(i, j) as f32);
        Ok(Self {
            moment,
            order,
            ridge,
            factor,
            rows: None,
        })
    }

    /// The identity over `K` inputs: what counts where there is no data.
    pub fn identity(k: usize) -> Self {
        let eye = Array2::from_shape_fn((k, k), |(i, j)| if i == j { 1.0 } else { 0.0 });
        Self {
            moment: eye.clone(),
            order: (0..k).collect(),
            ridge: 0.0,
            factor: eye,
            rows: None,
        }
    }

    /// The same over weights whose rows do not count alike: `tr(Eᵀ D E C)` with `D = diag(importance)`, its mean made 1.
    ///
    /// The rows of a table are looked up more often or less; rounding, which takes one row at a time, does not ask for it.
    #[must_use]
    pub fn with_rows(mut self, importance: &[f64]) -> Self {
        let mean = importance.iter().sum::<f64>() / importance.len().max(1) as f64;
        let scaled = |v: &f64| (v / mean) as f32;
        self.rows = (mean > 0.0).then(|| importance.iter().map(scaled).collect());
        self
    }

    /// How much the rows of a weight of `M` rows count, in the mean 1; `None` where they count the same.
    pub(crate) fn rows(&self, m: usize) -> Option<&[f32]> {
        self.rows.as_deref().filter(|rows| rows.len() == m)
    }

    /// `K`.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are no inputs at all.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The damped moment, in the order of the columns.
    pub fn moment(&self) -> ArrayView2<'_, f32> {
        self.moment.view()
    }

    /// The columns, those with most energy first.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// `Rᵀ`, lower triangular, rows and columns in the order of [`Metric::order`].
    pub(crate) fn factor(&self) -> ArrayView2<'_, f32> {
        self.factor.view()
    }

    /// `tr(E C Eᵀ)`, or `tr(Eᵀ D E C)` where rows do not count alike.
    ///
    /// # Shapes
    /// `error`: `[M, K]`.
    pub fn energy(&self, error: ArrayView2<'_, f32>) -> f64 {
        let weighted = error.dot(&self.moment);
        let rows = self.rows(error.nrows());
        let pairs = weighted.outer_iter().zip(error.outer_iter());
        let energies = pairs.enumerate().map(|(i, (a, b))| {
            let one = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
            let row: f64 = a.iter().zip(b).map(one).sum();
            rows.map_or(1.0, |rows| f64::from(rows[i])) * row
        });
        energies.sum()
    }

    /// `tr(E C Eᵀ)` without the damping: what the layer's outputs really differ by, in the mean over its inputs.
    ///
    /// # Shapes
    /// As [`Metric::energy`].
    #[cfg(feature = "tract")]
    pub(crate) fn output_energy(&self, error: ArrayView2<'_, f32>) -> f64 {
        let own: f64 = error.iter().map(|v| f64::from(*v).powi(2)).sum();
        (self.energy(error) - self.ridge * own).max(0.0)
    }
}

/// Overwrites the lower triangle with its Cholesky factor; a pivot that round-off made too small becomes `least`.
///
/// A panel of columns at a time: what the columns before take away from it is one product, the rest is done row by row.
pub(crate) fn cholesky(a: &mut Array2<f64>, least: f64) {
    let n = a.nrows();
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        let width = end - start;
        let mut panel = a.slice(s![start.., start..end]).to_owned();
        let before = a.slice(s![start.., ..start]);
        let top = a.slice(s![start..end, ..start]);
        linalg::gemm(-1.0, before, top.t(), 1.0, panel.view_mut())
            .expect("rows and columns of one matrix");
        let data = panel.as_slice_mut().expect("made in standard layout");
        for i in 0..n - start {
            let (head, tail) = data.split_at_mut(i * width);
            let row_i = &mut tail[..width];
            for j in 0..width.min(i + 1) {
                if i == j {
                    let rest = row_i[i] - dot(&row_i[..i], &row_i[..i]);
                    row_i[i] = rest.max(least * 1e-3).sqrt();
                } else {
                    let row_j = &head[j * width..(j + 1) * width];
                    row_i[j] = (row_i[j] - dot(&row_i[..j], &row_j[..j])) / row_j[j];
                }
            }
        }
        a.slice_mut(s![start.., start..end]).assign(&panel);
    }
}

/// A dot product over eight independent sums, which the compiler turns into vector instructions.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8
        .remainder()
        .iter()
        .zip(b8.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A moment of correlated inputs with unequal energies, and a matrix, both reproducible.
    pub(crate) fn sample(m: usize, k: usize) -> (Array2<f32>, Array2<f64>) {
        let noise = |i: usize| ((i as f64 * 12.9898 + 78.233).sin() * 43758.5453).fract();
        let inputs = Array2::from_shape_fn((4 * k, k), |(s, j)| {
            (noise(s * k + j) + 0.7 * noise(7919 * s + 3)) * (1.0 + 3.0 * noise(j + 17).abs())
        });
        let moment = inputs.t().dot(&inputs) / (4 * k) as f64;
        (
            Array2::from_shape_fn((m, k), |(i, j)| noise(1_000_003 + i * k + j) as f32),
            moment,
        )
    }

    #[test]
    fn factor_times_its_transpose_is_the_moment() {
        for k in [1, 7, 64, 65, 130] {
            let (_, moment) = sample(1, k);
            let metric = Metric::new(moment.view(), 0.01).unwrap();
            let rt = metric.factor();
            let product = rt.t().dot(&rt);
            for i in 0..k {
                for j in 0..k {
                    let expected = metric.moment()[[metric.order()[i], metric.order()[j]]];
                    assert!(
                        (product[[i, j]] - expected).abs()
                            < 1e-4 * metric.moment()[[metric.order()[0]; 2]],
                        "{k}"
                    );
                }
            }
        }
    }

    #[test]
    fn moments_that_say_nothing_count_as_the_identity() {
        let metric = Metric::new(Array2::zeros((5, 5)).view(), 0.0).unwrap();
        assert!((metric.moment()[[2, 2]] - 1.0).abs() < 1e-5);
        assert!(Metric::new(Array2::zeros((5, 4)).view(), 0.0).is_err());
        assert!(Metric::new(Array2::from_elem((2, 2), f64::NAN).view(), 0.0).is_err());
    }
}
