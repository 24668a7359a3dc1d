//! Which cores to merge, in which order, and in which direction to sweep: the cheapest by a model of time.

use std::fmt;

use super::plan_tucker::plan_tucker;
use super::{MergeDims, Node, Program, Step, Turned};

/// What a layer's weight is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Structure {
    /// A matrix `[rows, cols]` in slot 0.
    Dense([usize; 2]),
    /// Cores `[r, m, n, r']`, core k in slot k.
    Train(Vec<[usize; 4]>),
    /// A core in slot 0, then row factors `[m_k, r_k]`, then column factors `[n_k, s_k]`.
    Tucker {
        rows: Vec<[usize; 2]>,
        cols: Vec<[usize; 2]>,
    },
}

impl Structure {
    /// The program for a batch.
    pub(crate) fn plan(&self, batch: usize, route: Route) -> Program {
        match self {
            Structure::Dense([rows, cols]) => plan_dense(*rows, *cols),
            Structure::Train(cores) => plan_train(cores, batch, route),
            Structure::Tucker { rows, cols } => plan_tucker(rows, cols, batch, route),
        }
    }

    /// `[M, N]`.
    pub(crate) fn matrix_shape(&self) -> [usize; 2] {
        let product = |sizes: &[[usize; 2]]| sizes.iter().map(|s| s[0]).product();
        match self {
            Structure::Dense(shape) => *shape,
            Structure::Train(cores) => [1, 2].map(|axis| cores.iter().map(|c| c[axis]).product()),
            Structure::Tucker { rows, cols } => [product(rows), product(cols)],
        }
    }
}

/// How a layer may compute its products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Route {
    /// The cheapest by the model of time.
    #[default]
    Auto,
    /// Through the dense matrix.
    Dense,
    /// Core by core, nothing merged.
    Cores,
}

/// What a layer does for a batch of a given size.
///
/// ```
/// use tn_formats::{Layout, MatrixModes};
/// use tn_qat::{Layer, TtLinear};
/// let modes = MatrixModes::new(Layout::Interleaved, vec![4, 8, 8, 4], vec![4, 8, 8, 4])?;
/// let layer = TtLinear::<f32>::random(&modes, &[8, 8, 8], 1)?;
/// let plan = layer.plan(128);
/// assert_eq!(plan.groups(), 2); // cores 0 and 1, cores 2 and 3
/// assert!(plan.multiply_adds() < 128 * 1024 * 1024 * 6 / 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlan {
    groups: usize,
    work: usize,
    kept: usize,
    prepared: usize,
}

impl LayerPlan {
    pub(crate) fn new(program: &Program, batch: usize) -> Self {
        Self {
            groups: program.steps.len(),
            work: program.work(batch),
            kept: batch * program.kept_per_sample(),
            prepared: program.prepared(),
        }
    }

    /// Number of products the batch goes through; 1 is the dense matrix.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Multiply-adds of a forward pass, building the matrices included. A backward pass takes twice as many.
    pub fn multiply_adds(&self) -> usize {
        self.work
    }

    /// Elements that a forward pass keeps for the backward pass.
    pub fn kept_elements(&self) -> usize {
        self.kept
    }

    /// Elements of the matrices built from the weights, with their scratch.
    pub fn prepared_elements(&self) -> usize {
        self.prepared
    }
}

impl fmt::Display for LayerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route = if self.groups == 1 {
            "the dense matrix".to_owned()
        } else {
            format!("{} products", self.groups)
        };
        write!(
            f,
            "{route}, {:.1} million multiply-adds, {} elements kept",
            self.work as f64 / 1e6,
            self.kept
        )
    }
}

/// Modelled nanoseconds of one product on one core with 512-bit vectors. Only ratios matter.
pub(super) fn product_time(m: usize, k: usize, n: usize) -> f64 {
    80.0 + (m as f64 + 1.0) * (n as f64 + 4.0) * (k as f64 + 4.0) / 100.0
}

/// Modelled nanoseconds of moving an element through the cache, and of moving it with a stride.
const MOVE: f64 = 0.05;
const SCATTER: f64 = 0.4;

pub(super) fn step_time(step: &Step, batch: usize) -> f64 {
    let moved = (batch * (step.input_len() + step.output_len())) as f64 * MOVE;
    let slices = batch * step.lead;
    moved
        + if step.cols == 1 {
            product_time(slices, step.inner, step.rows)
        } else {
            slices as f64 * product_time(step.rows, step.inner, step.cols)
        }
}

pub(super) fn merge_time(d: &MergeDims) -> f64 {
    let (left, right) = (d.r * d.m * d.n, d.p * d.q * d.t);
    product_time(left, d.s, right) + (left * right) as f64 * SCATTER
}

fn plan_dense(rows: usize, inner: usize) -> Program {
    Program {
        nodes: vec![Node::Leaf {
            slot: 0,
            len: rows * inner,
        }],
        steps: vec![Step {
            node: 0,
            turned: Turned::No,
            lead: 1,
            rows,
            inner,
            cols: 1,
        }],
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sweep {
    FromRight,
    FromLeft,
}

/// Cores of a train and the cheapest way to merge each interval of them.
struct Train<'a> {
    cores: &'a [[usize; 4]],
    /// `merge[i][j - i]`: time to merge cores i to j, and the last core of the left half.
    merge: Vec<Vec<(f64, usize)>>,
}

impl<'a> Train<'a> {
    fn new(cores: &'a [[usize; 4]]) -> Self {
        let d = cores.len();
        let mut train = Self {
            cores,
            merge: vec![vec![(0.0, 0)]; d],
        };
        for len in 1..d {
            for i in 0..d - len {
                let j = i + len;
                let best = (i..j)
                    .map(|cut| {
                        let parts = train.merge[i][cut - i].0 + train.merge[cut + 1][j - cut - 1].0;
                        (parts + merge_time(&train.dims(i, cut, j)), cut)
                    })
                    .min_by(|a, b| a.0.total_cmp(&b.0));
                train.merge[i].push(best.unwrap_or((f64::INFINITY, i)));
            }
        }
        train
    }

    /// `[r, m, n, s]` of cores i to j merged.
    fn shape(&self, i: usize, j: usize) -> [usize; 4] {
        let group = &self.cores[i..=j];
        [
            group[0][0],
            group.iter().map(|c| c[1]).product(),
            group.iter().map(|c| c[2]).product(),
            self.cores[j][3],
        ]
    }

    fn dims(&self, i: usize, cut: usize, j: usize) -> MergeDims {
        let ([r, m, n, s], [_, p, q, t]) = (self.shape(i, cut), self.shape(cut + 1, j));
        MergeDims {
            r,
            m,
            n,
            s,
            p,
            q,
            t,
        }
    }

    /// The step of group i to j and whether its core must be turned; the node is filled in later.
    fn step(&self, i: usize, j: usize, sweep: Sweep) -> (Step, bool) {
        let [r, m, n, s] = self.shape(i, j);
        let product =
            |cores: &[[usize; 4]], axis: usize| cores.iter().map(|c| c[axis]).product::<usize>();
        let (before, after) = (&self.cores[..i], &self.cores[j + 1..]);
        match sweep {
            Sweep::FromRight => {
                let (lead, cols) = (product(before, 2), product(after, 1));
                (
                    Step {
                        node: 0,
                        turned: Turned::No,
                        lead,
                        rows: r * m,
                        inner: n * s,
                        cols,
                    },
                    false,
                )
            }
            Sweep::FromLeft => {
                let (lead, cols) = (product(before, 1), product(after, 2));
                let step = Step {
                    node: 0,
                    turned: Turned::No,
                    lead,
                    rows: m * s,
                    inner: r * n,
                    cols,
                };
                if m == 1 || n == 1 {
                    (
                        Step {
                            turned: Turned::Yes,
                            ..step
                        },
                        false,
                    )
                } else {
                    (step, r != 1 || s != 1)
                }
            }
        }
    }

    fn group_time(&self, i: usize, j: usize, sweep: Sweep, batch: usize) -> f64 {
        let (step, turned) = self.step(i, j, sweep);
        let turn = if turned {
            self.shape(i, j).iter().product::<usize>() as f64 * 2.0 * SCATTER
        } else {
            0.0
        };
        self.merge[i][j - i].0 + turn + step_time(&step, batch)
    }

    /// The cheapest partition into groups: time and, for each group, its first and last core.
    fn partition(&self, sweep: Sweep, batch: usize) -> (f64, Vec<(usize, usize)>) {
        let d = self.cores.len();
        let mut best = vec![(0.0, 0); d + 1];
        for j in 0..d {
            best[j + 1] = (0..=j)
                .map(|i| (best[i].0 + self.group_time(i, j, sweep, batch), i))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap_or((f64::INFINITY, 0));
        }
        let (mut groups, mut end) = (Vec::new(), d);
        while end > 0 {
            let start = best[end].1;
            groups.push((start, end - 1));
            end = start;
        }
        groups.reverse();
        (best[d].0, groups)
    }

    /// Appends the nodes that merge cores i to j and returns the last one.
    fn build(&self, i: usize, j: usize, nodes: &mut Vec<Node>) -> usize {
        if i == j {
            nodes.push(Node::Leaf {
                slot: i,
                len: self.cores[i].iter().product(),
            });
        } else {
            let cut = self.merge[i][j - i].1;
            let left = self.build(i, cut, nodes);
            let right = self.build(cut + 1, j, nodes);
            nodes.push(Node::Merge {
                left,
                right,
                dims: self.dims(i, cut, j),
            });
        }
        nodes.len() - 1
    }
}

fn plan_train(cores: &[[usize; 4]], batch: usize, route: Route) -> Program {
    let train = Train::new(cores);
    let d = cores.len();
    let candidates = [Sweep::FromRight, Sweep::FromLeft].map(|sweep| {
        let (time, groups) = match route {
            Route::Auto => train.partition(sweep, batch),
            Route::Dense => (train.group_time(0, d - 1, sweep, batch), vec![(0, d - 1)]),
            Route::Cores => {
                let time = (0..d).map(|k| train.group_time(k, k, sweep, batch)).sum();
                (time, (0..d).map(|k| (k, k)).collect())
            }
        };
        (time, sweep, groups)
    });
    let [right, left] = candidates;
    let (_, sweep, mut groups) = if left.0 < right.0 { left } else { right };
    if sweep == Sweep::FromRight {
        groups.reverse();
    }
    let (mut nodes, mut steps) = (Vec::new(), Vec::new());
    for (i, j) in groups {
        let mut node = train.build(i, j, &mut nodes);
        let (step, turned) = train.step(i, j, sweep);
        if turned {
            nodes.push(Node::Turn {
                input: node,
                shape: train.shape(i, j),
            });
            node = nodes.len() - 1;
        }
        steps.push(Step { node, ..step });
    }
    Program { nodes, steps }
}
