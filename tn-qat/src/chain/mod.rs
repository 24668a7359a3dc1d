//! Linear maps as a program: build a few matrices from the weights, then send the batch through a chain of products.
//!
//! The state of the batch between two products is row-major, and each product contracts axes that are neighbours in it,
//! so nothing of the batch's size is ever transposed: product s takes the state as `[batch · lead, inner, cols]` and gives
//! `[batch · lead, rows, cols]` with one matrix `A` `[rows, inner]` (or its transpose as stored) for all of `batch · lead`.
//!
//! For an interleaved train the sweep runs from the right: the state before group k is
//! `[batch, N_1 .. N_k, r_k, M_k+1 .. M_d]`, and a core `[r, m, n, r']` read as `[r m, n r']` is the matrix. A split train
//! runs from the left. Neighbouring cores are merged into groups first when that costs less; one group is the dense matrix.

mod exec;
mod plan;
mod plan_tucker;
mod prepare;
mod step;
#[cfg(test)]
mod tests;

pub use exec::Cache;
pub(crate) use exec::{backward, dense_weight, forward};
pub(crate) use plan::Structure;
pub use plan::{LayerPlan, Route};

/// How a matrix of the program comes about. Nodes refer to earlier nodes only, and each is used once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// Weight `slot` as it is stored.
    Leaf { slot: usize, len: usize },
    /// `[r, m, n, s]` and `[s, p, q, t]` to `[r, m p, n q, t]`.
    Merge {
        left: usize,
        right: usize,
        dims: MergeDims,
    },
    /// `[r, m, n, s]` to `[m, s, r, n]`.
    Turn { input: usize, shape: [usize; 4] },
    /// `[m, k]` times `[k, n]`, the right one stored as `[n, k]` when `right_turned`.
    Product {
        left: usize,
        right: usize,
        right_turned: Turned,
        dims: [usize; 3],
    },
}

/// Sizes of a merge: `[r, m, n, s]` and `[s, p, q, t]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MergeDims {
    pub(crate) r: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) s: usize,
    pub(crate) p: usize,
    pub(crate) q: usize,
    pub(crate) t: usize,
}

/// Whether a matrix is stored as it is used or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    No,
    Yes,
}

impl Node {
    /// Elements of the node's result.
    pub(crate) fn len(&self) -> usize {
        match self {
            Node::Leaf { len, .. } => *len,
            Node::Merge { dims: d, .. } => d.r * d.m * d.p * d.n * d.q * d.t,
            Node::Turn { shape, .. } => shape.iter().product(),
            Node::Product {
                dims: [m, _, n], ..
            } => m * n,
        }
    }

    /// Elements of the node's intermediate result.
    fn scratch(&self) -> usize {
        match self {
            Node::Merge { .. } => self.len(),
            _ => 0,
        }
    }

    /// Multiply-adds.
    fn work(&self) -> usize {
        match self {
            Node::Merge { dims: d, .. } => d.r * d.m * d.n * d.s * d.p * d.q * d.t,
            Node::Product {
                dims: [m, k, n], ..
            } => m * k * n,
            _ => 0,
        }
    }
}

/// One product of the chain: `[batch · lead, inner, cols]` to `[batch · lead, rows, cols]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// The node that holds `A`.
    pub(crate) node: usize,
    /// `A` is stored as `[inner, rows]`.
    pub(crate) turned: Turned,
    pub(crate) lead: usize,
    pub(crate) rows: usize,
    pub(crate) inner: usize,
    pub(crate) cols: usize,
}

impl Step {
    /// State elements per sample before the step.
    pub(crate) fn input_len(&self) -> usize {
        self.lead * self.inner * self.cols
    }

    /// State elements per sample after the step.
    pub(crate) fn output_len(&self) -> usize {
        self.lead * self.rows * self.cols
    }

    /// Multiply-adds per sample.
    fn work(&self) -> usize {
        self.lead * self.rows * self.inner * self.cols
    }
}

/// Nodes in order of evaluation, then the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) nodes: Vec<Node>,
    pub(crate) steps: Vec<Step>,
}

impl Program {
    /// Whether every product is one matrix product over the whole batch.
    fn is_matrix_chain(&self) -> bool {
        self.steps.iter().all(|s| s.cols == 1)
    }

    /// Multiply-adds of a forward pass.
    pub(crate) fn work(&self, batch: usize) -> usize {
        let prepare: usize = self.nodes.iter().map(Node::work).sum();
        prepare + batch * self.steps.iter().map(Step::work).sum::<usize>()
    }

    /// State elements that a forward pass keeps per sample.
    pub(crate) fn kept_per_sample(&self) -> usize {
        self.steps
            .iter()
            .take(self.steps.len() - 1)
            .map(Step::output_len)
            .sum()
    }

    /// Elements of the matrices, and of their scratch.
    pub(crate) fn prepared(&self) -> usize {
        self.nodes.iter().map(|n| n.len() + n.scratch()).sum()
    }
}
