//! Refining a train against its dense array: ALS (one core at a time) and DMRG (two cores at a time), in the plain or in an
//! activation-weighted norm.

use ndarray::{Array2, ArrayView2, ArrayViewD};

use crate::canonical::{first_columns, scale_rows};
use crate::error::{Error, Result};
use crate::linalg::{mm, qr, svd};
use crate::matrix::TtMatrix;
use crate::reorder::{fold, unfold};
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore, left_product, right_product};

/// How many cores are solved for at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refinement {
    /// One core: ranks stay.
    Als,
    /// Two neighbouring cores, split again by SVD: the ranks adapt within the cap.
    Dmrg {
        /// No rank above this one.
        max_rank: usize,
    },
}

/// Conjugate-gradient steps per core in a weighted norm.
const CG_STEPS: usize = 25;
/// Residual at which they end, relative to the right-hand side.
const CG_TOLERANCE: f64 = 1e-7;

/// A symmetric positive operator on flat tensors, `1 x (n_1 .. n_d)`.
type Metric<'a> = &'a dyn Fn(Array2<f64>) -> Array2<f64>;

impl<T: Real> TensorTrain<T> {
    /// This train, refined against `a`: there and back `sweeps` times, each core the least-squares solution given the others.
    ///
    /// # Numerics
    /// In `f64`; a few dense arrays are alive. The error against `a` does not rise under [`Refinement::Als`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the modes differ, [`Error::NotFinite`].
    ///
    /// # Source
    /// Holtz, Rohwedder, Schneider 2012, SIAM J. Sci. Comput. 34(2): ALS and its two-core form, known as DMRG.
    ///
    /// ```
    /// use ndarray::Array;
    /// use tn_formats::{Refinement, TensorTrain, Truncation};
    /// let a = Array::from_shape_fn((6, 7, 8), |(i, j, k)| ((i * j + 2 * k) as f64).sin()).into_dyn();
    /// let (start, certificate) = TensorTrain::decompose(a.view(), &Truncation::MaxRank(3))?;
    /// let refined = start.refine(a.view(), Refinement::Als, 3)?;
    /// let error = (&refined.to_dense() - &a).iter().map(|x| x * x).sum::<f64>().sqrt();
    /// assert!(error <= certificate.error() * (1.0 + 1e-9));
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn refine(&self, a: ArrayViewD<'_, T>, how: Refinement, sweeps: u32) -> Result<Self> {
        if a.shape() != self.modes() {
            return Err(Error::Shape {
                what: "array to fit",
                expected: self.modes(),
                found: a.shape().to_vec(),
            });
        }
        let flat = a
            .iter()
            .map(|x| x.widen())
            .collect::<ndarray::Array1<f64>>()
            .insert_axis(ndarray::Axis(0));
        Ok(fit(&self.cast(), flat, None, how, sweeps)?.cast())
    }
}

impl<T: Real> TtMatrix<T> {
    /// This matrix, refined against `w` in the norm `tr((W - W~) C (W - W~)ᵀ)`, with C the second moment `E[x xᵀ]` of the
    /// inputs; the Frobenius norm without one.
    ///
    /// # Shapes
    /// `w` is `[M, N]`, `second_moment` `[N, N]`.
    ///
    /// # Numerics
    /// As [`TensorTrain::refine`]; in a weighted norm each core takes up to 25 conjugate-gradient steps.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotFinite`].
    pub fn refine(
        &self,
        w: ArrayView2<'_, T>,
        second_moment: Option<ArrayView2<'_, f64>>,
        how: Refinement,
        sweeps: u32,
    ) -> Result<Self> {
        let (rows, cols) = self.shape();
        let check = |what, expected: [usize; 2], found: &[usize]| {
            if expected == *found {
                Ok(())
            } else {
                Err(Error::Shape {
                    what,
                    expected: expected.to_vec(),
                    found: found.to_vec(),
                })
            }
        };
        check("matrix to fit", [rows, cols], w.shape())?;
        if let Some(c) = &second_moment {
            check("second moment", [cols, cols], c.shape())?;
        }
        let modes = self.modes();
        let flatten = |m: ArrayView2<'_, f64>| {
            let flat = unfold(m, modes).plain().as_standard_layout().into_owned();
            flat.into_shape_with_order((1, rows * cols))
                .expect("same number of elements")
        };
        let target = flatten(w.mapv(Real::widen).view());
        let weigh = second_moment
            .map(|c| move |flat: Array2<f64>| flatten(mm(fold(flat, modes).view(), c).view()));
        let metric = weigh.as_ref().map(|f| f as Metric<'_>);
        let train = fit(&self.to_train().cast(), target, metric, how, sweeps)?;
        TtMatrix::from_train(train.cast(), modes.clone())
    }
}

fn fit(
    start: &TensorTrain<f64>,
    target: Array2<f64>,
    metric: Option<Metric<'_>>,
    how: Refinement,
    sweeps: u32,
) -> Result<TensorTrain<f64>> {
    if target.iter().any(|x| !x.is_finite()) {
        return Err(Error::NotFinite {
            what: "array to fit",
        });
    }
    let width = match how {
        Refinement::Als => 1,
        Refinement::Dmrg { max_rank: 0 } => {
            return Err(Error::Parameter {
                what: "rank",
                expected: "at least 1",
                found: "0".into(),
            });
        }
        Refinement::Dmrg { .. } => 2,
    };
    let mut cores = start.canonical(0)?.into_cores();
    let d = cores.len();
    if d < width {
        return Ok(TensorTrain::from_parts(cores));
    }
    for _ in 0..sweeps {
        for k in 0..=d - width {
            solve(&mut cores, k, width, &target, metric);
            if k < d - width || width == 2 {
                place(&mut cores, k, how, Direction::Right)?;
            }
        }
        for k in (0..=d - width).rev() {
            solve(&mut cores, k, width, &target, metric);
            if k > 0 || width == 2 {
                place(&mut cores, k, how, Direction::Left)?;
            }
        }
    }
    Ok(TensorTrain::from_parts(cores))
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Left,
    Right,
}

/// Replaces the block at k by its best value; with `width` 2 the block ends up in core k and core k + 1 becomes an identity
/// of its right side, to be split by [`place`].
fn solve(
    cores: &mut [TtCore<f64>],
    k: usize,
    width: usize,
    target: &Array2<f64>,
    metric: Option<Metric<'_>>,
) {
    let one = || Array2::ones((1, 1));
    let left = if k == 0 {
        one()
    } else {
        left_product(&cores[..k])
    };
    let right = if k + width == cores.len() {
        one()
    } else {
        right_product(&cores[k + width..])
    };
    let (rows, r) = left.dim();
    let (s, cols) = right.dim();
    let n = target.len() / rows / cols;
    // r x (n s) to the flat tensor, and back.
    let expand = |block: &Array2<f64>| {
        let tall = reshape(mm(left.view(), block.view()), rows * n, s);
        reshape(mm(tall.view(), right.view()), 1, rows * n * cols)
    };
    let project = |flat: Array2<f64>| {
        let wide = mm(left.t(), reshape(flat, rows, n * cols).view());
        let tall = mm(reshape(wide, r * n, cols).view(), right.t());
        reshape(tall, r, n * s)
    };
    let block = match metric {
        None => project(target.clone()),
        Some(metric) => {
            let start = if width == 1 {
                cores[k].right_unfolding().to_owned()
            } else {
                let product = mm(cores[k].left_unfolding(), cores[k + 1].right_unfolding());
                reshape(product, r, n * s)
            };
            conjugate_gradients(start, project(metric(target.clone())), |x| {
                project(metric(expand(x)))
            })
        }
    };
    if width == 1 {
        cores[k] = TtCore::from_unfolding(block, r, n, s);
    } else {
        let next = cores[k + 1].mode();
        cores[k] = TtCore::from_unfolding(block, r, n / next, next * s);
        cores[k + 1] = TtCore::from_unfolding(Array2::eye(next * s), next * s, next, s);
    }
}

/// Makes the solved block orthogonal on the side the sweep leaves, splitting two cores by SVD.
fn place(cores: &mut [TtCore<f64>], k: usize, how: Refinement, direction: Direction) -> Result<()> {
    if let Refinement::Dmrg { max_rank } = how {
        let (r, n, _) = cores[k].view().dim();
        let (_, next, s) = cores[k + 1].view().dim();
        let (u, sigma, vt) = svd(cores[k].left_unfolding())?;
        let kept = sigma.iter().take_while(|x| **x > 1e-12 * sigma[0]).count();
        let rank = kept.min(max_rank).max(1);
        let sigma = sigma.slice(ndarray::s![..rank]).to_owned();
        let (u, vt) = (
            first_columns(&u, rank),
            vt.slice(ndarray::s![..rank, ..]).to_owned(),
        );
        let (left, right) = match direction {
            Direction::Right => (u, scale_rows(vt, &sigma)),
            Direction::Left => (u * &sigma, vt),
        };
        cores[k] = TtCore::from_unfolding(left, r, n, rank);
        cores[k + 1] = TtCore::from_unfolding(right, rank, next, s);
        return Ok(());
    }
    let (r, n, s) = cores[k].view().dim();
    match direction {
        Direction::Right => {
            let (q, triangle) = qr(cores[k].left_unfolding());
            let (_, next, end) = cores[k + 1].view().dim();
            let rest = mm(triangle.view(), cores[k + 1].right_unfolding());
            let rank = q.ncols();
            cores[k] = TtCore::from_unfolding(q, r, n, rank);
            cores[k + 1] = TtCore::from_unfolding(rest, rank, next, end);
        }
        Direction::Left => {
            let (q, triangle) = qr(cores[k].right_unfolding().t());
            let (start, previous, _) = cores[k - 1].view().dim();
            let rest = mm(cores[k - 1].left_unfolding(), triangle.t());
            let rank = q.ncols();
            cores[k] = TtCore::from_unfolding(q.reversed_axes(), rank, n, s);
            cores[k - 1] = TtCore::from_unfolding(rest, start, previous, rank);
        }
    }
    Ok(())
}

/// Solves `A x = b` from `x`.
fn conjugate_gradients(
    mut x: Array2<f64>,
    b: Array2<f64>,
    apply: impl Fn(&Array2<f64>) -> Array2<f64>,
) -> Array2<f64> {
    let dot = |a: &Array2<f64>, b: &Array2<f64>| (a * b).sum();
    let mut residual = &b - &apply(&x);
    let mut direction = residual.clone();
    let mut size = dot(&residual, &residual);
    let enough = CG_TOLERANCE * CG_TOLERANCE * dot(&b, &b);
    for _ in 0..CG_STEPS {
        if size <= enough {
            break;
        }
        let image = apply(&direction);
        let curvature = dot(&direction, &image);
        if curvature <= 0.0 {
            break;
        }
        let step = size / curvature;
        x.scaled_add(step, &direction);
        residual.scaled_add(-step, &image);
        let next = dot(&residual, &residual);
        direction = &residual + &(direction * (next / size));
        size = next;
    }
    x
}

fn reshape(m: Array2<f64>, rows: usize, cols: usize) -> Array2<f64> {
    m.into_shape_with_order((rows, cols))
        .expect("same number of elements")
}
