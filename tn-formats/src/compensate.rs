//! Error-compensated cores: quantize one core, let the others make up for it, keep the best.
//!
//! With the train X as it was and the quantized train Y, everything a core of Y sees of its neighbours is four small
//! matrices: the overlaps of Y with itself and with X, left and right of the core. The core that minimises `||X - Y||` solves
//! one linear system in them, and the same overlaps are the metric under which it is rounded. Nothing is ever as large as
//! the dense tensor.

use ndarray::{Array2, Array3};
use quant_core::{QuantParams, QuantScheme, QuantizedTensor};

use crate::algebra::{step_left, step_right};
use crate::error::Result;
use crate::lattice::Metric;
use crate::linalg::mm;
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};

/// What the scale of a core is multiplied with to find its best clip range, nearest to 1 first.
const CLIPS: [f32; 12] = [
    1.0, 0.93, 0.87, 0.81, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4,
];

/// The state of a sweep.
pub(crate) struct Compensation<'a> {
    target: &'a [TtCore<f64>],
    target_sq: f64,
    cores: Vec<TtCore<f64>>,
    quantized: Vec<Option<QuantizedTensor>>,
    shapes: &'a [Vec<usize>],
    schemes: &'a [QuantScheme],
    /// Overlaps of Y with Y and of Y with X: `left[k]` of the cores before k, `right[k]` of those after k.
    left: Vec<(Array2<f64>, Array2<f64>)>,
    right: Vec<(Array2<f64>, Array2<f64>)>,
}

impl<'a> Compensation<'a> {
    /// `target_sq` is the target's squared norm, `start` the target in the gauge to be quantized; `shapes` are the shapes the quantized cores are to have.
    pub(crate) fn new(
        target: &'a TensorTrain<f64>,
        target_sq: f64,
        start: TensorTrain<f64>,
        shapes: &'a [Vec<usize>],
        schemes: &'a [QuantScheme],
    ) -> Self {
        let cores = start.into_cores();
        let d = cores.len();
        let one = || (Array2::ones((1, 1)), Array2::ones((1, 1)));
        let mut state = Self {
            target: target.cores(),
            target_sq,
            quantized: vec![None; d],
            cores,
            shapes,
            schemes,
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
        self.left[k + 1] = (step_right(yy, y, y), step_right(yx, y, x));
    }

    fn update_right(&mut self, k: usize) {
        let (yy, yx) = self.right[k].clone();
        let (y, x) = (&self.cores[k], &self.target[k]);
        self.right[k - 1] = (step_left(yy, y, y), step_left(yx, y, x));
    }

    /// Quantizes core k against its neighbours as they stand, and takes the result if it is better than what is there
    /// (or nothing quantized is there).
    fn visit(&mut self, k: usize) -> Result<f64> {
        let x = &self.target[k];
        let metric = Metric::new(self.left[k].0.clone(), self.right[k].0.clone())?;
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
            full.into_shape_with_order((rows, n, cols))
                .expect("same number of elements")
        };
        let loss = |y: &Array3<f64>| {
            self.target_sq - 2.0 * (&b * y).sum() + (y * &metric.apply(y.view())).sum()
        };
        let solution = metric.solve(b.view());
        let mut best: Option<(f64, QuantizedTensor, Array3<f64>)> = None;
        for params in self.candidates(k, &solution, &metric)? {
            let quantized = metric.round(solution.view(), &self.shapes[k], params)?;
            let value = restore(&quantized, solution.dim());
            let loss = loss(&value);
            if best.as_ref().is_none_or(|b| loss < b.0) {
                best = Some((loss, quantized, value));
            }
        }
        let current = loss(&self.cores[k].view().to_owned());
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

    /// The clip ranges worth rounding to: the best two under plain rounding and the metric's diagonal.
    fn candidates(
        &self,
        k: usize,
        solution: &Array3<f64>,
        metric: &Metric,
    ) -> Result<Vec<QuantParams>> {
        let values: Vec<f32> = solution.iter().map(|&x| x as f32).collect();
        let whole = QuantParams::min_max(&values, &self.shapes[k], &self.schemes[k])?;
        let (left, right) = (metric.left.diag(), metric.right.diag());
        let (n, e) = (solution.dim().1, right.len());
        let weights: Vec<f32> = left
            .iter()
            .flat_map(|l| (0..n * e).map(move |k| (l * right[k % e]) as f32))
            .collect();
        let mut scored = Vec::with_capacity(CLIPS.len());
        for clip in CLIPS {
            let scales = whole
                .scales()
                .iter()
                .map(|s| (s * clip).max(f32::MIN_POSITIVE))
                .collect();
            let params = QuantParams::new(self.schemes[k], scales, whole.zero_points().to_vec())?;
            let rounded = quant_core::fake_quantize(&values, &self.shapes[k], &params)?;
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
