//! Error-compensated cores: quantize one core, let the others make up for it, keep the best.
//!
//! With the train X as it was and the quantized train Y, everything a core of Y sees of its neighbours is four small
//! matrices: the overlaps of Y with itself and with X, left and right of the core. The core that minimises `||X - Y||` solves
//! one linear system in them, and the same overlaps are the metric under which it is rounded. Nothing is ever as large as
//! the dense tensor. A second moment of the inputs, as one factor for each column mode, enters the overlaps at every core and
//! the metric of the core itself ([`CoreWeight`]).

use ndarray::{Array2, Array3};
use quant_core::{QuantParams, QuantScheme, QuantizedTensor};

use crate::admm::admm;
use crate::algebra::{step_left, step_right};
use crate::error::Result;
use crate::fold::{CoreWeight, Fold};
use crate::lattice::{Feed, Grid, Metric};
use crate::linalg::mm;
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};

/// What the scale of a core is multiplied with to find its best clip range, nearest to 1 first.
const CLIPS: [f32; 12] = [
    1.0, 0.93, 0.87, 0.81, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4,
];

/// How a core is rounded against the others in [`crate::Strategy::Compensated`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CoreRounding {
    /// Every element to its nearest code; only the cores solved for after it make up for it.
    Nearest,
    /// GPTQ inside the core: the error of each row (or column, whichever comes out better) goes to those after it.
    ColumnOrder,
    /// The error of each element goes to all after it, along both ranks: Babai's nearest plane.
    #[default]
    NearestPlane,
    /// The alternating direction method of multipliers with the grid as the constraint; the best rounding it meets.
    Admm {
        /// Steps per core and clip range.
        iterations: u32,
    },
}

/// What is compensated for, and how.
pub(crate) struct Task<'a> {
    /// The train as it was.
    pub(crate) target: &'a TensorTrain<f64>,
    /// The shapes the quantized cores are to have.
    pub(crate) shapes: &'a [Vec<usize>],
    pub(crate) schemes: &'a [QuantScheme],
    pub(crate) weights: &'a [CoreWeight],
    pub(crate) rounding: CoreRounding,
}

/// The state of a sweep.
pub(crate) struct Compensation<'a> {
    /// The target's cores with the weights multiplied in.
    target: Vec<TtCore<f64>>,
    target_sq: f64,
    cores: Vec<TtCore<f64>>,
    quantized: Vec<Option<QuantizedTensor>>,
    task: Task<'a>,
    /// Overlaps of Y with Y and of Y with X: `left[k]` of the cores before k, `right[k]` of those after k.
    left: Vec<(Array2<f64>, Array2<f64>)>,
    right: Vec<(Array2<f64>, Array2<f64>)>,
}

impl<'a> Compensation<'a> {
    /// `start` is the target in the gauge to be quantized.
    pub(crate) fn new(task: Task<'a>, start: TensorTrain<f64>) -> Self {
        let cores = start.into_cores();
        let d = cores.len();
        let one = || (Array2::ones((1, 1)), Array2::ones((1, 1)));
        let plain = task.target.cores();
        let target: Vec<_> = (plain.iter().zip(task.weights))
            .map(|(core, weight)| weight.weigh(core))
            .collect();
        let target_sq = (plain.iter().zip(&target))
            .fold(Array2::ones((1, 1)), |overlap, (x, w)| {
                step_right(overlap, x, w)
            })[[0, 0]];
        let mut state = Self {
            target,
            target_sq,
            quantized: vec![None; d],
            cores,
            task,
            left: vec![one(); d],
            right: vec![one(); d],
        };
        for k in (1..d).rev() {
            state.update_right(k);
        }
        state
    }

    fn update_left(&mut self, k: usize) {
        let (yy, yx) = self.left[k].clone();
        let (y, x) = (&self.cores[k], &self.target[k]);
        let weighed = self.task.weights[k].weigh(y);
        self.left[k + 1] = (step_right(yy, y, &weighed), step_right(yx, y, x));
    }

    fn update_right(&mut self, k: usize) {
        let (yy, yx) = self.right[k].clone();
        let (y, x) = (&self.cores[k], &self.target[k]);
        let weighed = self.task.weights[k].weigh(y);
        self.right[k - 1] = (step_left(yy, y, &weighed), step_left(yx, y, x));
    }

    /// Quantizes core k against its neighbours as they stand, and takes the result if it is better than what is there
    /// (or nothing quantized is there).
    fn visit(&mut self, k: usize) -> Result<f64> {
        let x = &self.target[k];
        let weight = &self.task.weights[k];
        let fold = weight.fold(&self.cores[k]);
        let (left, right) = fold.sides(&self.left[k].0, &self.right[k].0, weight);
        let metric = Metric::new(left, right)?;
        let b = {
            let (r, n, e) = x.view().dim();
            let half = mm(self.left[k].1.view(), x.right_unfolding());
            let rows = half.nrows();
            let half = half
                .into_shape_with_order((rows * n, e))
                .expect("same number of elements");
            debug_assert_eq!(self.left[k].1.ncols(), r);
            let full = mm(half.view(), self.right[k].1.t());
            let cols = full.ncols();
            let full = full.into_shape_with_order((rows, n, cols));
            fold.fold(full.expect("same number of elements").view())
        };
        let loss = |y: &Array3<f64>| {
            self.target_sq - 2.0 * (&b * y).sum() + (y * &metric.apply(y.view())).sum()
        };
        let solution = metric.solve(b.view());
        let mut best: Option<(f64, QuantizedTensor, Array3<f64>)> = None;
        for params in self.candidates(k, &solution, &metric, &fold)? {
            for codes in self.rounded(k, &metric, &b, &solution, &params, &fold)? {
                let quantized =
                    QuantizedTensor::from_codes(&self.task.shapes[k], params.clone(), &codes)?;
                let value = restore(&quantized, self.cores[k].view().dim());
                let loss = loss(&fold.fold(value.view()));
                if best.as_ref().is_none_or(|b| loss < b.0) {
                    best = Some((loss, quantized, value));
                }
            }
        }
        let current = loss(&fold.fold(self.cores[k].view()));
        let Some((loss, quantized, value)) = best else {
            return Ok(current);
        };
        if self.quantized[k].is_some() && loss >= current {
            return Ok(current);
        }
        self.cores[k] = TtCore::new(value)?;
        self.quantized[k] = Some(quantized);
        Ok(loss)
    }

    /// The codes that the rounding gives, one or several to choose from.
    fn rounded(
        &self,
        k: usize,
        metric: &Metric,
        b: &Array3<f64>,
        solution: &Array3<f64>,
        params: &QuantParams,
        fold: &Fold,
    ) -> Result<Vec<Vec<i32>>> {
        let grid = Grid::new(&self.task.shapes[k], params)?;
        let with = |feed| metric.round(solution.view(), &grid, fold, feed);
        Ok(match self.task.rounding {
            CoreRounding::Nearest => vec![with(Feed::None)],
            CoreRounding::ColumnOrder => vec![with(Feed::Left), with(Feed::Right)],
            CoreRounding::NearestPlane => vec![with(Feed::Both)],
            CoreRounding::Admm { iterations } => {
                let round = |y: &Array3<f64>| {
                    let mut grid_point = y.clone();
                    for ((i, j, k), x) in grid_point.indexed_iter_mut() {
                        *x = grid.nearest(fold.index(i, j, k), *x).1;
                    }
                    grid_point
                };
                let mut best = (f64::INFINITY, solution.clone());
                admm(metric, b, solution, iterations, round, |y| {
                    let loss = (y * &metric.apply(y.view())).sum() - 2.0 * (b * y).sum();
                    if loss < best.0 {
                        best = (loss, y.clone());
                    }
                })?;
                vec![metric.round(best.1.view(), &grid, fold, Feed::None)]
            }
        })
    }

    /// The clip ranges worth rounding to: the best two under plain rounding and the metric's diagonal.
    fn candidates(
        &self,
        k: usize,
        solution: &Array3<f64>,
        metric: &Metric,
        fold: &Fold,
    ) -> Result<Vec<QuantParams>> {
        let (shape, scheme) = (&self.task.shapes[k], self.task.schemes[k]);
        let values: Vec<f32> = fold.stored(&solution.mapv(|x| x as f32));
        let whole = QuantParams::min_max(&values, shape, &scheme)?;
        let (left, right) = (metric.left.diag(), metric.right.diag());
        let weights =
            Array3::from_shape_fn(solution.dim(), |(i, _, k)| (left[i] * right[k]) as f32);
        let weights: Vec<f32> = fold.stored(&weights);
        let mut scored = Vec::with_capacity(CLIPS.len());
        for clip in CLIPS {
            let scales = whole
                .scales()
                .iter()
                .map(|s| (s * clip).max(f32::MIN_POSITIVE))
                .collect();
            let params = QuantParams::new(scheme, scales, whole.zero_points().to_vec())?;
            let rounded = quant_core::fake_quantize(&values, shape, &params)?;
            let score: f64 = (values.chunks(CHUNK).zip(rounded.chunks(CHUNK)))
                .zip(weights.chunks(CHUNK))
                .map(|((x, y), w)| weighted_distance(x, y, w))
                .sum();
            scored.push((score, params));
        }
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(scored
            .into_iter()
            .take(2)
            .map(|(_, params)| params)
            .collect())
    }

    /// Quantizes from left to right, then sweeps until the error settles; the quantized cores.
    pub(crate) fn run(mut self, sweeps: u32) -> Result<Vec<QuantizedTensor>> {
        let d = self.cores.len();
        let mut loss = f64::INFINITY;
        for k in 0..d {
            loss = self.visit(k)?;
            if k + 1 < d {
                self.update_left(k);
            }
        }
        for _ in 0..sweeps {
            let before = loss;
            for k in (1..d).rev() {
                self.update_right(k);
                loss = self.visit(k - 1)?;
            }
            for k in 0..d - 1 {
                self.update_left(k);
                loss = self.visit(k + 1)?;
            }
            if loss > 0.98 * before {
                break;
            }
        }
        Ok(self.quantized.into_iter().flatten().collect())
    }
}

/// Elements whose squares are summed in `f32`.
const CHUNK: usize = 256;

/// `sum w (x - y)²`, in eight lanes.
fn weighted_distance(x: &[f32], y: &[f32], w: &[f32]) -> f64 {
    let mut lanes = [0f32; 8];
    for (i, ((x, y), w)) in x.iter().zip(y).zip(w).enumerate() {
        lanes[i % 8] += w * (x - y) * (x - y);
    }
    lanes.iter().sum::<f32>().into()
}

/// The numbers a quantized core stands for, as `[r, n, r']`.
pub(crate) fn restore(core: &QuantizedTensor, dim: (usize, usize, usize)) -> Array3<f64> {
    let values = core.dequantize().into_iter().map(Real::widen).collect();
    Array3::from_shape_vec(dim, values).expect("same number of elements")
}
