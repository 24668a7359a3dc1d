//! Second moments of what a layer is given: in the original, in the network as compressed so far, and between the two.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

/// Sums over all rows of a layer's inputs. `x` is what the original gives, `y` what the compressed network gives.
#[derive(Debug, Clone)]
pub struct Moments {
    count: f64,
    /// `sum y yᵀ`
    own: Array2<f64>,
    /// `sum x yᵀ`
    cross: Array2<f64>,
    mean_x: Array1<f64>,
    mean_y: Array1<f64>,
}

impl Moments {
    /// Nothing seen, of `K` inputs.
    pub fn new(k: usize) -> Self {
        let square = Array2::zeros((k, k));
        Self {
            count: 0.0,
            own: square.clone(),
            cross: square,
            mean_x: Array1::zeros(k),
            mean_y: Array1::zeros(k),
        }
    }

    /// Takes in rows that both networks give.
    ///
    /// # Shapes
    /// Both `[rows, K]`.
    ///
    /// # Numerics
    /// Products in f32 over the rows of one call, sums over the calls in f64.
    pub fn add(&mut self, x: ArrayView2<'_, f32>, y: ArrayView2<'_, f32>) {
        self.count += x.nrows() as f64;
        self.own += &product(y, y);
        self.cross += &product(x, y);
        self.mean_x += &column_sums(x);
        self.mean_y += &column_sums(y);
    }

    /// Joins what two calls saw, the other's after this one's.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.own += &other.own;
        self.cross += &other.cross;
        self.mean_x += &other.mean_x;
        self.mean_y += &other.mean_y;
    }

    /// Rows seen.
    pub fn count(&self) -> f64 {
        self.count
    }

    /// The means of `x` and `y`, or zeros where the layer has no bias that could take them up.
    pub(crate) fn means(&self, centre: Centre) -> [Array1<f64>; 2] {
        let n = self.count.max(1.0);
        match centre {
            Centre::Mean => [&self.mean_x / n, &self.mean_y / n],
            Centre::Zero => [
                Array1::zeros(self.mean_x.len()),
                Array1::zeros(self.mean_y.len()),
            ],
        }
    }

    /// `E[(y - m)(y - m)ᵀ]`.
    pub(crate) fn own(&self, centre: Centre) -> Array2<f64> {
        let [_, y] = self.means(centre);
        &self.own / self.count.max(1.0) - outer(y.view(), y.view())
    }

    /// `E[(x - m)(y - m)ᵀ]`.
    pub(crate) fn cross(&self, centre: Centre) -> Array2<f64> {
        let [x, y] = self.means(centre);
        &self.cross / self.count.max(1.0) - outer(x.view(), y.view())
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

/// `sum (r - r~) yᵀ` and `sum (r - r~)` of what is added to a layer's result in both networks.
#[derive(Debug, Clone)]
pub(crate) struct Drift {
    pub(crate) cross: Array2<f64>,
    pub(crate) sum: Array1<f64>,
}

impl Drift {
    pub(crate) fn new(m: usize, k: usize) -> Self {
        Self {
            cross: Array2::zeros((m, k)),
            sum: Array1::zeros(m),
        }
    }

    pub(crate) fn add(&mut self, difference: ArrayView2<'_, f32>, y: ArrayView2<'_, f32>) {
        self.cross += &product(difference, y);
        self.sum += &column_sums(difference);
    }
}

/// `aᵀ b`; a product of matrices that do not fit is zero.
fn product(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> Array2<f64> {
    let product = tn_formats::linalg::matmul(a.t(), b);
    product.map_or_else(
        |_| Array2::zeros((a.ncols(), b.ncols())),
        |p| p.mapv(f64::from),
    )
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

pub(crate) fn outer(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((a.len(), b.len()), |(i, j)| a[i] * b[j])
}
