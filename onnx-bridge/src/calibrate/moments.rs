//! Second moments of what a layer is given, and what its weight would have to make up for.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

/// Sums over all rows of a layer's inputs. `y` is what the compressed network gives, or the only one there is; `d` what the
/// layer's result lacks of the original's when the original weight runs on `y`.
#[derive(Debug, Clone)]
pub struct Moments {
    count: f64,
    /// `sum y yᵀ`, `[K, K]`.
    own: Array2<f64>,
    /// `sum d yᵀ`, `[M, K]`; nothing where both networks are one.
    missing: Option<Array2<f64>>,
    sum_y: Array1<f64>,
    sum_d: Array1<f64>,
    /// `sum ||d||²`.
    lacked: f64,
    /// How much the rows of a table count; nothing for another weight.
    rows: Vec<f64>,
}

impl Moments {
    /// Nothing seen, of `K` inputs.
    pub fn new(k: usize) -> Self {
        Self {
            count: 0.0,
            own: Array2::zeros((k, k)),
            missing: None,
            sum_y: Array1::zeros(k),
            sum_d: Array1::zeros(0),
            lacked: 0.0,
            rows: Vec::new(),
        }
    }

    /// Of a table, which has no inputs but lookups: how much its rows count.
    pub(crate) fn of_rows(rows: Vec<f64>) -> Self {
        Self {
            rows,
            ..Self::new(0)
        }
    }

    /// How much the rows of a table count; nothing for another weight.
    pub(crate) fn rows(&self) -> &[f64] {
        &self.rows
    }

    /// Takes in rows of the original.
    ///
    /// # Shapes
    /// `[rows, K]`.
    ///
    /// # Numerics
    /// Products in f32 over the rows of one call, sums over the calls in f64.
    pub fn add(&mut self, x: ArrayView2<'_, f32>) {
        self.count += x.nrows() as f64;
        add_product(&mut self.own, x, x);
        self.sum_y += &column_sums(x);
    }

    /// Takes in rows of the compressed network and what the layer's result lacks for them.
    ///
    /// # Shapes
    /// `y`: `[rows, K]`; `d`: `[rows, M]`.
    ///
    /// # Numerics
    /// As [`Moments::add`].
    pub fn add_pair(&mut self, y: ArrayView2<'_, f32>, d: ArrayView2<'_, f32>) {
        self.count += y.nrows() as f64;
        add_product(&mut self.own, y, y);
        let missing = self
            .missing
            .get_or_insert_with(|| Array2::zeros((d.ncols(), y.ncols())));
        add_product(missing, d, y);
        self.sum_y += &column_sums(y);
        if self.sum_d.is_empty() {
            self.sum_d = Array1::zeros(d.ncols());
        }
        self.sum_d += &column_sums(d);
        self.lacked += d.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    }

    /// Rows seen.
    pub fn count(&self) -> f64 {
        self.count
    }

    /// `E[y]`.
    pub(crate) fn mean(&self) -> Array1<f64> {
        &self.sum_y / self.count.max(1.0)
    }

    /// `E[d]`; empty where both networks are one.
    pub(crate) fn mean_missing(&self) -> Array1<f64> {
        &self.sum_d / self.count.max(1.0)
    }

    /// `E ||d||²`, or `E ||d - E d||²`; 0 where both networks are one.
    pub(crate) fn lack(&self, centre: Centre) -> f64 {
        let all = self.lacked / self.count.max(1.0);
        match centre {
            Centre::Zero => all,
            Centre::Mean => all - self.mean_missing().iter().map(|m| m * m).sum::<f64>(),
        }
    }

    /// `E[(y - m)(y - m)ᵀ]`, taken out: the sums are gone afterwards.
    pub(crate) fn take_own(&mut self, centre: Centre) -> Array2<f64> {
        let mut own = std::mem::take(&mut self.own);
        own /= self.count.max(1.0);
        if centre == Centre::Mean {
            let y = self.mean();
            subtract_outer(&mut own, y.view(), y.view());
        }
        own
    }

    /// `E[(d - E d)(y - m)ᵀ]`, taken out; `None` where both networks are one.
    pub(crate) fn take_missing(&mut self, centre: Centre) -> Option<Array2<f64>> {
        let mut missing = self.missing.take()?;
        missing /= self.count.max(1.0);
        if centre == Centre::Mean {
            let y = self.mean();
            subtract_outer(&mut missing, self.mean_missing().view(), y.view());
        }
        Some(missing)
    }
}

/// About what moments are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Centre {
    /// The mean: a bias takes it up.
    Mean,
    /// Zero.
    Zero,
}

/// `sum += aᵀ b`; a product of matrices that do not fit is zero.
fn add_product(sum: &mut Array2<f64>, a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) {
    if let Ok(product) = tn_formats::linalg::matmul(a.t(), b) {
        sum.zip_mut_with(&product, |s, p| *s += f64::from(*p));
    }
}

fn column_sums(a: ArrayView2<'_, f32>) -> Array1<f64> {
    let mut sums = Array1::zeros(a.ncols());
    for row in a.axis_iter(Axis(0)) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(s, v)| *s += f64::from(*v));
    }
    sums
}

fn subtract_outer(from: &mut Array2<f64>, a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) {
    for (mut row, a) in from.axis_iter_mut(Axis(0)).zip(a) {
        row.scaled_add(-a, &b);
    }
}
