//! Trains of cores, run on rows without moving their axes.
//!
//! Neighbouring cores are merged into groups, and a row's state goes through the groups from the first to the last or from
//! the last to the first. Going forward it is `[m done, (r n), rest]`, of which a group `[(m r'), (r n)]` multiplies every
//! `[(r n), rest]` from the left: what comes out is `[m done, m, (r' n'), rest']` as it stands in memory. Where nothing
//! is left beside, the group multiplies from the right. Backward is the mirror of that.

use quant_core::{LeftMatrix, PanelMatrix, ProductScratch};

use super::Route;
use super::order::{Direction, Order, Sizes};
use crate::axes::{permuted, turned};

/// Numbers of a state that stay in the first two caches.
const STATE: usize = 32 * 1024;
/// Rows that go through a train together, at most.
const ROWS: usize = 64;

/// A core `[r, m, n, r']`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Core {
    pub(super) shape: [usize; 4],
    pub(super) values: Vec<f32>,
}

impl Core {
    /// Two cores as one.
    fn joined(&self, next: &Self) -> quant_core::Result<Self> {
        let [r, m, n, s] = self.shape;
        let [_, m2, n2, last] = next.shape;
        let right = m2 * n2 * last;
        let panel = PanelMatrix::new(&turned(&next.values, right), [right, s])?;
        let mut product = vec![0.0; r * m * n * right];
        panel.matmul(&self.values, &mut product, &mut ProductScratch::default())?;
        // `[r, m, n, m2, n2, r']` to `[r, m, m2, n, n2, r']`.
        let mut values = Vec::with_capacity(product.len());
        for outer in product.chunks((n * right).max(1)) {
            for i in 0..m2 {
                for row in outer.chunks(right.max(1)) {
                    values.extend_from_slice(&row[i * n2 * last..(i + 1) * n2 * last]);
                }
            }
        }
        Ok(Self {
            shape: [r, m * m2, n * n2, last],
            values,
        })
    }
}

#[derive(Debug)]
enum Step {
    /// Every `[k, columns]` of the state from the left.
    Left {
        matrix: LeftMatrix,
        k: usize,
        rows: usize,
        columns: usize,
    },
    /// Every row of the state from the right.
    Right(PanelMatrix),
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Self::Left { matrix, .. } => matrix.bytes(),
            Self::Right(matrix) => matrix.bytes(),
        }
    }

    /// Numbers of a state after the step.
    fn grown(&self, state: usize) -> usize {
        match self {
            Self::Left { k, rows, .. } => state / k * rows,
            Self::Right(matrix) => state / matrix.k() * matrix.n(),
        }
    }

    fn run(
        &self,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut ProductScratch,
    ) -> quant_core::Result<()> {
        match self {
            Self::Right(matrix) => matrix.matmul(x, out, scratch),
            Self::Left {
                matrix,
                k,
                rows,
                columns,
            } => x
                .chunks(k * columns)
                .zip(out.chunks_mut(rows * columns))
                .try_for_each(|(x, out)| matrix.multiply(x, out)),
        }
    }
}

/// A matrix as a train of cores, ready to run.
#[derive(Debug)]
pub(super) struct Train {
    shapes: Vec<[usize; 4]>,
    order: Order,
    steps: Vec<Step>,
    inputs: usize,
    outputs: usize,
    widest: usize,
}

impl Train {
    /// Chooses how the train runs. Cores have to fit each other.
    pub(super) fn new(cores: Vec<Core>, route: Route) -> quant_core::Result<Self> {
        let shapes: Vec<[usize; 4]> = cores.iter().map(|c| c.shape).collect();
        let order = match route {
            Route::Cores => Order::each_core(&shapes),
            Route::Auto | Route::Merged | Route::Dense => Order::cheapest(&shapes),
        };
        Self::ordered(cores, order)
    }

    fn ordered(cores: Vec<Core>, order: Order) -> quant_core::Result<Self> {
        let shapes: Vec<[usize; 4]> = cores.iter().map(|c| c.shape).collect();
        let mut steps = Vec::new();
        let mut from = 0;
        let mut merged = Vec::new();
        for &to in &order.ends {
            merged.push(joined(&cores[from..to])?);
            from = to;
        }
        if order.direction == Direction::Backward {
            merged.reverse();
        }
        for (core, sizes) in merged.iter().zip(order.sizes(&shapes)) {
            let (left, right) = match order.direction {
                Direction::Forward => ([1, 3, 0, 2], [0, 2, 1, 3]),
                Direction::Backward => ([0, 1, 2, 3], [2, 3, 0, 1]),
            };
            let Sizes {
                rows, k, columns, ..
            } = sizes;
            steps.push(if columns == 1 {
                let operand = permuted(&core.values, &core.shape, &right);
                Step::Right(PanelMatrix::new(&turned(&operand, rows), [rows, k])?)
            } else {
                Step::Left {
                    matrix: LeftMatrix::new(
                        &permuted(&core.values, &core.shape, &left),
                        [rows, k],
                    )?,
                    k,
                    rows,
                    columns,
                }
            });
        }
        let product = |axis: usize| shapes.iter().map(|s| s[axis]).product();
        let (inputs, outputs): (usize, usize) = (product(2), product(1));
        let states = steps.iter().scan(inputs, |state, step| {
            *state = step.grown(*state);
            Some(*state)
        });
        Ok(Self {
            widest: states.max().unwrap_or(0),
            shapes,
            order,
            steps,
            inputs,
            outputs,
        })
    }

    pub(super) fn k(&self) -> usize {
        self.inputs
    }

    pub(super) fn n(&self) -> usize {
        self.outputs
    }

    pub(super) fn bytes(&self) -> usize {
        self.steps.iter().map(Step::bytes).sum()
    }

    /// Cycles for so many rows.
    pub(super) fn cost(&self, rows: usize) -> f64 {
        self.order.cost(&self.shapes, rows)
    }

    /// Rows of `x` to rows of `out`.
    pub(super) fn run(
        &self,
        x: &[f32],
        out: &mut [f32],
        between: &mut [Vec<f32>; 2],
        scratch: &mut ProductScratch,
    ) -> quant_core::Result<()> {
        let rows = (STATE / self.widest.max(1)).clamp(1, ROWS);
        let Some((last, inner)) = self.steps.split_last() else {
            return Ok(());
        };
        let chunks = x.chunks((rows * self.inputs).max(1));
        for (x, out) in chunks.zip(out.chunks_mut((rows * self.outputs).max(1))) {
            let (mut length, mut from_input) = (x.len(), true);
            for step in inner {
                let next_length = step.grown(length);
                let [state, next] = &mut *between;
                // Only ever longer: what lies behind the state is left there.
                if next.len() < next_length {
                    next.resize(next_length, 0.0);
                }
                let input = if from_input { x } else { &state[..length] };
                step.run(input, &mut next[..next_length], scratch)?;
                between.swap(0, 1);
                (length, from_input) = (next_length, false);
            }
            let input = if from_input { x } else { &between[0][..length] };
            last.run(input, out, scratch)?;
        }
        Ok(())
    }
}

/// Cores one after the other as one; an empty core for none.
fn joined(cores: &[Core]) -> quant_core::Result<Core> {
    let Some((first, rest)) = cores.split_first() else {
        return Ok(Core {
            shape: [1, 0, 0, 1],
            values: Vec::new(),
        });
    };
    rest.iter()
        .try_fold(first.clone(), |joined, core| joined.joined(core))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: usize, count: usize) -> Vec<f32> {
        let one = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
        (0..count).map(one).collect()
    }

    fn cores(shapes: &[[usize; 4]]) -> Vec<Core> {
        let core = |(i, &shape): (usize, &[usize; 4])| Core {
            shape,
            values: noise(i, shape.iter().product()),
        };
        shapes.iter().enumerate().map(core).collect()
    }

    /// One element of the matrix, as the product of the slices of its cores.
    fn element(cores: &[Core], mut row: usize, mut column: usize) -> f64 {
        let mut state = vec![1.0f64];
        let mut places = Vec::new();
        for core in cores.iter().rev() {
            let [_, m, n, _] = core.shape;
            places.push((row % m, column % n));
            (row, column) = (row / m, column / n);
        }
        for (core, (i, j)) in cores.iter().zip(places.into_iter().rev()) {
            let [r, m, n, next] = core.shape;
            let at = |a: usize, b: usize| core.values[((a * m + i) * n + j) * next + b];
            let to = |b: usize| (0..r).map(|a| state[a] * f64::from(at(a, b))).sum();
            state = (0..next).map(to).collect();
        }
        state[0]
    }

    #[test]
    fn every_order_gives_the_product_of_the_cores() {
        let trains: [&[[usize; 4]]; 5] = [
            &[[1, 3, 4, 2], [2, 5, 2, 1]],
            &[[1, 4, 4, 3], [3, 2, 7, 3], [3, 3, 2, 1]],
            &[[1, 4, 4, 2], [2, 2, 3, 5], [5, 3, 2, 2], [2, 3, 1, 1]],
            // Split: column modes first.
            &[[1, 1, 6, 3], [3, 1, 5, 4], [4, 7, 1, 2], [2, 4, 1, 1]],
            &[[1, 9, 8, 1]],
        ];
        for shapes in trains {
            let cores = cores(shapes);
            let train = Train::new(cores.clone(), Route::Auto).unwrap();
            let (m, n) = (train.n(), train.k());
            let w: Vec<f64> = (0..m * n).map(|i| element(&cores, i / n, i % n)).collect();
            let x = noise(9, 5 * n);
            let expected: Vec<f64> = (0..5 * m)
                .map(|o| {
                    (0..n)
                        .map(|j| w[o % m * n + j] * f64::from(x[o / m * n + j]))
                        .sum()
                })
                .collect();
            let mut all = vec![train.order.clone()];
            for direction in [Direction::Forward, Direction::Backward] {
                let ends = (1..=shapes.len()).collect();
                all.push(Order { ends, direction });
            }
            for order in all {
                let train = Train::ordered(cores.clone(), order.clone()).unwrap();
                let mut out = vec![0.0; 5 * m];
                let mut between = [vec![7.0; 3], Vec::new()];
                train
                    .run(&x, &mut out, &mut between, &mut ProductScratch::default())
                    .unwrap();
                for (found, wanted) in out.iter().zip(&expected) {
                    let error = (f64::from(*found) - wanted).abs();
                    assert!(error < 1e-3, "{shapes:?} {order:?}: {found}, {wanted}");
                }
            }
        }
    }
}
