//! An interleaved train of two cores, `W = sum_r A_r ⊗ B_r`, fitted and rounded in the norm of the layer's inputs.

use ndarray::{Array2, Array3, ArrayView2, Axis, s};
use tn_formats::{Gauge, Rotation, TensorTrain, TtCore, linalg};

use super::feedback::{Effort, quantize};
use super::low_rank::product;
use super::metric::Metric;
use super::spd::solve_right;
use crate::blocks::{BlockFormat, BlockMatrix};

/// Sweeps of alternating least squares before anything is rounded.
const SWEEPS: usize = 2;

/// Ridge of the least-squares problems, in parts of their mean diagonal.
const RIDGE: f64 = 1e-5;

/// Row modes `[m1, m2]` and column modes `[n1, n2]` of a matrix.
pub(crate) type Modes = [[usize; 2]; 2];

/// The matrix of two cores.
///
/// # Shapes
/// `first`: `[(r m1), n1]`, `second`: `[m2, (r n2)]`, as they are stored; the result is `[M, K]`.
pub(crate) fn contract(
    first: ArrayView2<'_, f32>,
    second: ArrayView2<'_, f32>,
    [[m1, m2], [n1, n2]]: Modes,
) -> Array2<f32> {
    let rank = second.ncols() / n2.max(1);
    let a = turn(first, [rank, m1, n1], [1, 2, 0]);
    let b = turn(second, [m2, rank, n2], [1, 0, 2]);
    let kron =
        linalg::matmul(a.view(), b.view()).unwrap_or_else(|_| Array2::zeros((m1 * n1, m2 * n2)));
    fold(kron, [[m1, m2], [n1, n2]])
}

/// A matrix over three axes, permuted, as `[(0 1), 2]`; or `[0, (1 2)]` where the first of the permuted axes is the rank.
fn turn(matrix: ArrayView2<'_, f32>, shape: [usize; 3], axes: [usize; 3]) -> Array2<f32> {
    let standard = matrix.as_standard_layout();
    let cube = standard
        .to_shape((shape[0], shape[1], shape[2]))
        .expect("as many elements as the axes have");
    let turned = cube
        .view()
        .permuted_axes(axes)
        .as_standard_layout()
        .into_owned();
    let (p, q, r) = turned.dim();
    let dim = if axes[2] == 0 { (p * q, r) } else { (p, q * r) };
    turned
        .into_shape_with_order(dim)
        .expect("in standard layout")
}

/// `[(m1 n1), (m2 n2)]` as `[(m1 m2), (n1 n2)]`.
fn fold(kron: Array2<f32>, [[m1, m2], [n1, n2]]: Modes) -> Array2<f32> {
    let four = kron
        .into_shape_with_order((m1, n1, m2, n2))
        .expect("as many elements as the axes have");
    four.permuted_axes([0, 2, 1, 3])
        .as_standard_layout()
        .into_owned()
        .into_shape_with_order((m1 * m2, n1 * n2))
        .expect("in standard layout")
}

/// `[(m1 m2), (n1 n2)]` as `[(m1 n1), (m2 n2)]`: of rank one where the matrix is one Kronecker product.
fn unfold(matrix: ArrayView2<'_, f32>, [[m1, m2], [n1, n2]]: Modes) -> Array2<f32> {
    fold(
        matrix.as_standard_layout().into_owned(),
        [[m1, n1], [m2, n2]],
    )
}

/// The pairs of factors of a matrix, those with most energy first.
#[derive(Debug)]
pub(crate) struct Kronecker {
    modes: Modes,
    /// Eigenvectors of the smaller Gram matrix of the unfolded weight, by column, and their energies.
    vectors: Array2<f32>,
    energies: Vec<f64>,
    side: Side,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    First,
    Second,
}

impl Kronecker {
    pub(crate) fn new(weight: ArrayView2<'_, f32>, modes: Modes) -> Result<Self, String> {
        let unfolded = unfold(weight, modes);
        let side = if unfolded.nrows() <= unfolded.ncols() {
            Side::First
        } else {
            Side::Second
        };
        let gram = match side {
            Side::First => product(unfolded.view(), unfolded.t())?,
            Side::Second => product(unfolded.t(), unfolded.view())?,
        };
        let (energies, vectors) =
            linalg::eigh(gram.mapv(f64::from).view()).map_err(|e| e.to_string())?;
        Ok(Self {
            modes,
            vectors: vectors.mapv(|v| v as f32),
            energies: energies.iter().map(|e| e.max(0.0)).collect(),
            side,
        })
    }

    /// The part of the energy that `rank` pairs leave out, unweighted.
    pub(crate) fn tail(&self, rank: usize) -> f64 {
        let all: f64 = self.energies.iter().sum();
        let rest: f64 = self.energies.iter().skip(rank).sum();
        if all > 0.0 { rest / all } else { 0.0 }
    }

    /// The best pairs in the plain norm: `A [m1, n1, r]`, `B [r, m2, n2]`.
    fn start(&self, weight: ArrayView2<'_, f32>, rank: usize) -> Result<Pair, String> {
        let unfolded = unfold(weight, self.modes);
        let rank = rank.clamp(1, self.vectors.ncols());
        let basis = self.vectors.slice(s![.., ..rank]);
        let (a, b) = match self.side {
            Side::First => (basis.to_owned(), product(basis.t(), unfolded.view())?),
            Side::Second => (
                product(unfolded.view(), basis)?,
                basis.t().as_standard_layout().into_owned(),
            ),
        };
        Ok(Pair { a, b })
    }

    /// The cores as they are stored, see [`contract`]: alternating least squares in the norm, the rotated symmetric gauge,
    /// then the first core rounded and the second solved anew against it and rounded with error feedback.
    ///
    /// # Source
    /// The normal equations of one core given the other are those of a dense layer with as many outputs as the core has row
    /// modes: their matrix takes the place of the inputs' second moment, so the rounding of a dense layer serves here too.
    pub(crate) fn quantize(
        &self,
        weight: ArrayView2<'_, f32>,
        metric: &Metric,
        rank: usize,
        format: BlockFormat,
        effort: Effort,
    ) -> Result<[BlockMatrix; 2], String> {
        let [[m1, m2], [n1, n2]] = self.modes;
        let weighted = unfold(product(weight, metric.moment())?.view(), self.modes);
        let moment = unfold(metric.moment(), [[n1, n2], [n1, n2]]);
        let mut pair = self.start(weight, rank)?;
        let rank = pair.b.nrows();
        for _ in 0..SWEEPS {
            pair.b = solve_second(&pair.a, weighted.view(), moment.view(), self.modes)?.0;
            let turned = moment.t();
            let second = pair.b.t().as_standard_layout().into_owned();
            let modes = [[m2, m1], [n2, n1]];
            let first = solve_second(&second, weighted.t(), turned, modes)?.0;
            pair.a = first.t().as_standard_layout().into_owned();
        }
        let pair = pair.gauged()?;
        // `[(m1 n1), r]` as `[(r m1), n1]`, in the moment of the first column mode alone.
        let first = pair.a.t().as_standard_layout().into_owned();
        let first = first
            .into_shape_with_order((rank * m1, n1))
            .map_err(|e| e.to_string())?;
        let own = own_moment(metric.moment(), [n1, n2]);
        let first = quantize(
            first.view(),
            &Metric::new(own.view(), 1e-4)?,
            format,
            effort,
        )?;
        let rounded = turn(super::form::dense(&first).view(), [rank, m1, n1], [1, 2, 0]);
        let (second, normal) = solve_second(&rounded, weighted.view(), moment.view(), self.modes)?;
        // `[r, (m2 n2)]` as `[m2, (r n2)]`.
        let cube = second
            .into_shape_with_order((rank, m2, n2))
            .map_err(|e| e.to_string())?;
        let second = cube
            .permuted_axes([1, 0, 2])
            .as_standard_layout()
            .into_owned();
        let second = second
            .into_shape_with_order((m2, rank * n2))
            .map_err(|e| e.to_string())?;
        let second = quantize(
            second.view(),
            &Metric::new(normal.view(), 1e-4)?,
            format,
            effort,
        )?;
        Ok([first, second])
    }
}

/// `A [(m1 n1), r]` and `B [r, (m2 n2)]`.
struct Pair {
    a: Array2<f32>,
    b: Array2<f32>,
}

impl Pair {
    fn gauged(self) -> Result<Self, String> {
        let core = |array: Array3<f32>| TtCore::new(array).map_err(|e| e.to_string());
        let first = core(self.a.insert_axis(Axis(0)))?;
        let second = core(self.b.insert_axis(Axis(2)))?;
        let train = TensorTrain::from_cores(vec![first, second]).map_err(|e| e.to_string())?;
        let gauge = Gauge::Rotated(Rotation::Hadamard { seed: 0 });
        let train = train.gauge(gauge).map_err(|e| e.to_string())?;
        let mut cores = train.into_cores().into_iter();
        let mut next = || cores.next().ok_or("expected two cores, found fewer");
        let (first, second) = (next()?, next()?);
        Ok(Self {
            a: first.left_unfolding().to_owned(),
            b: second.right_unfolding().to_owned(),
        })
    }
}

/// The second factors that fit best given the first ones, and the matrix of their normal equations over `(r n2)`.
///
/// # Shapes
/// `a`: `[(m1 n1), r]`; `weighted`: `W C` unfolded, `[(m1 n1), (m2 n2)]`; `moment`: `C` unfolded, `[(n1 n1'), (n2 n2')]`; the
/// result is `[r, (m2 n2)]`.
fn solve_second(
    a: &Array2<f32>,
    weighted: ArrayView2<'_, f32>,
    moment: ArrayView2<'_, f32>,
    [[m1, m2], [n1, n2]]: Modes,
) -> Result<(Array2<f32>, Array2<f64>), String> {
    let shape = |e: ndarray::ShapeError| e.to_string();
    let rank = a.ncols();
    // sum over m1 of a[m1, n1, r] a[m1, n1', r'] as [(r r'), (n1 n1')].
    let rows = a
        .view()
        .into_shape_with_order((m1, n1 * rank))
        .map_err(shape)?;
    let gram = product(rows.t(), rows)?;
    let gram = gram
        .into_shape_with_order((n1, rank, n1, rank))
        .map_err(shape)?;
    let gram = gram
        .permuted_axes([1, 3, 0, 2])
        .as_standard_layout()
        .into_owned();
    let gram = gram
        .into_shape_with_order((rank * rank, n1 * n1))
        .map_err(shape)?;
    let normal = product(gram.view(), moment)?;
    let normal = normal
        .into_shape_with_order((rank, rank, n2, n2))
        .map_err(shape)?;
    let normal = normal
        .permuted_axes([0, 2, 1, 3])
        .as_standard_layout()
        .into_owned();
    let normal = normal
        .into_shape_with_order((rank * n2, rank * n2))
        .map_err(shape)?
        .mapv(f64::from);
    // The right side, [r, (m2 n2)] as [m2, (r n2)].
    let against = product(a.t(), weighted)?;
    let against = against
        .into_shape_with_order((rank, m2, n2))
        .map_err(shape)?;
    let against = against
        .permuted_axes([1, 0, 2])
        .as_standard_layout()
        .into_owned();
    let against = against
        .into_shape_with_order((m2, rank * n2))
        .map_err(shape)?
        .mapv(f64::from);
    let mut damped = normal.clone();
    let mean = normal.diag().iter().sum::<f64>() / normal.nrows().max(1) as f64;
    damped
        .diag_mut()
        .iter_mut()
        .for_each(|d| *d += RIDGE * mean + f64::MIN_POSITIVE);
    let solved = solve_right(damped, against).mapv(|v| v as f32);
    let solved = solved
        .into_shape_with_order((m2, rank, n2))
        .map_err(shape)?;
    let solved = solved
        .permuted_axes([1, 0, 2])
        .as_standard_layout()
        .into_owned();
    let solved = solved
        .into_shape_with_order((rank, m2 * n2))
        .map_err(shape)?;
    Ok((solved, normal))
}

/// The moment of the first of two column modes: the sum over equal indices of the second.
fn own_moment(moment: ArrayView2<'_, f32>, [n1, n2]: [usize; 2]) -> Array2<f64> {
    Array2::from_shape_fn((n1, n1), |(i, j)| {
        (0..n2)
            .map(|k| f64::from(moment[[i * n2 + k, j * n2 + k]]))
            .sum()
    })
}

#[cfg(test)]
mod tests {
    use super::super::metric::tests::sample;
    use super::*;
    use crate::blocks::Levels;

    const MODES: Modes = [[4, 6], [6, 8]];

    /// A sum of `rank` Kronecker products plus a little noise.
    fn made(rank: usize, noise: f32) -> (Array2<f32>, Metric) {
        let (parts, _) = sample(rank, 4 * 6 + 6 * 8);
        let (rest, moment) = sample(24, 48);
        let mut weight = rest * noise;
        for part in parts.outer_iter() {
            let at =
                |m: usize, n: usize| part[(m / 6) * 6 + n / 8] * part[24 + (m % 6) * 8 + n % 8];
            weight += &Array2::from_shape_fn((24, 48), |(m, n)| at(m, n));
        }
        (weight, Metric::new(moment.view(), 0.01).unwrap())
    }

    fn error(weight: &Array2<f32>, metric: &Metric, rank: usize, levels: Levels) -> f64 {
        let format = BlockFormat { levels, block: 64 };
        let pairs = Kronecker::new(weight.view(), MODES).unwrap();
        let [a, b] = pairs
            .quantize(weight.view(), metric, rank, format, Effort::Refined(1))
            .unwrap();
        let [a, b] = [a, b].map(|m| super::super::form::dense(&m));
        let made = contract(a.view(), b.view(), MODES);
        metric.energy((weight - &made).view()) / metric.energy(weight.view())
    }

    #[test]
    fn a_sum_of_kronecker_products_is_found() {
        let (weight, metric) = made(3, 0.0);
        assert!(Kronecker::new(weight.view(), MODES).unwrap().tail(3) < 1e-5);
        assert!(error(&weight, &metric, 3, Levels::L256) < 1e-3);
        assert!(error(&weight, &metric, 3, Levels::L16) < 0.05);
    }

    #[test]
    fn the_fit_counts_what_the_inputs_show() {
        let (weight, metric) = made(2, 0.5);
        let plain = {
            let pairs = Kronecker::new(weight.view(), MODES).unwrap();
            let pair = pairs.start(weight.view(), 4).unwrap();
            let made = fold(product(pair.a.view(), pair.b.view()).unwrap(), MODES);
            metric.energy((&weight - &made).view()) / metric.energy(weight.view())
        };
        let fitted = error(&weight, &metric, 4, Levels::L256);
        assert!(fitted < plain, "{fitted} against {plain}");
        assert!(error(&weight, &metric, 8, Levels::L256) < fitted);
    }
}
