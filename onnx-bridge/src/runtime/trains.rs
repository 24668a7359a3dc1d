//! Finds trains that run core by core: what [`crate::emit`] writes for interleaved layouts.
//!
//! A step reshapes the state to rows, multiplies them by a core and, between cores, moves one pair of axes: forward
//! `[-1, n, rest, r, m]` by `[0, 2, 4, 3, 1]`, backward `[-1, rest, m, r]` by `[0, 2, 1, 3]`. The sizes in the Reshapes say
//! what each core is.

use super::find::{Finder, Multiplied};
use super::train::{Core, Train};
use crate::proto::{self, NodeProto};
use crate::tensor;

/// What a train reads, and where it ends.
pub(super) struct FoundTrain {
    pub(super) input: String,
    pub(super) last: usize,
    pub(super) nodes: Vec<usize>,
    pub(super) train: Train,
}

/// The operand of a step, `[K, C]`, and the axes that are moved behind it.
struct Stage {
    matrix: [usize; 2],
    values: Vec<f32>,
    split: Split,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// `[n, r, m]`: of the next core its columns and rank, of this one its rows.
    Forward([usize; 3]),
    /// `[m, r]` of this core.
    Backward([usize; 2]),
    /// Nothing to move.
    None,
}

impl Finder<'_> {
    /// The train whose first step is a MatMul, if it is one.
    pub(super) fn train(&self, first: usize) -> Option<FoundTrain> {
        let product = &self.graph.node[first];
        let rows = self.made_by(product.input.first()?, "Reshape")?;
        is_step(product.input.first()?, "/rows").then_some(())?;
        let mut input = rows.input.first()?;
        let mut forward = false;
        if let Some(turn) = self.made_by(input, "Transpose") {
            let split = self.made_by(turn.input.first()?, "Reshape")?;
            (perm(turn)? == [0, 2, 1] && is_step(split.output.first()?, "/split")).then_some(())?;
            input = split.input.first()?;
            forward = true;
        }
        let mut nodes = Vec::new();
        let mut stages = Vec::new();
        let mut state = product.input.first()?.as_str();
        loop {
            let Multiplied {
                values,
                last,
                nodes: made,
            } = self.multiplied(state)?;
            let (matrix, values) = self.matrix(&values)?;
            nodes.extend(made);
            let output = self.graph.node[last].output.first()?.as_str();
            let (split, next) = self.moved(output)?;
            forward |= matches!(split, Split::Forward(_));
            stages.push(Stage {
                matrix,
                values,
                split,
            });
            let end = self.only_consumer(next)?;
            let reshape = &self.graph.node[end];
            (reshape.op_type() == "Reshape").then_some(())?;
            nodes.push(end);
            let output = reshape.output.first()?.as_str();
            if is_step(output, "/rows") {
                state = output;
                continue;
            }
            let outputs = self.row(reshape, input)?;
            let cores = if forward {
                forward_cores(&stages)?
            } else {
                backward_cores(&stages)?
            };
            let train = Train::new(cores, self.options.route).ok()?;
            return (train.n() == outputs).then(|| FoundTrain {
                input: input.clone(),
                last: end,
                nodes,
                train,
            });
        }
    }

    /// The axes that are moved behind a product, and the value that it gives.
    fn moved<'s>(&'s self, output: &'s str) -> Option<(Split, &'s str)> {
        let next = &self.graph.node[self.only_consumer(output)?];
        let split = next.output.first()?.as_str();
        if next.op_type() != "Reshape" || !is_step(split, "/split") {
            return Some((Split::None, output));
        }
        let turn = &self.graph.node[self.only_consumer(split)?];
        (turn.op_type() == "Transpose").then_some(())?;
        let dims = tensor::to_i64(self.initializers.get(next.input.get(1)?.as_str())?)?;
        let size = |i: usize| dims.get(i).and_then(|d| usize::try_from(*d).ok());
        let split = match perm(turn)? {
            [0, 2, 4, 3, 1] => Split::Forward([size(1)?, size(3)?, size(4)?]),
            [0, 2, 1, 3] => Split::Backward([size(2)?, size(3)?]),
            _ => return None,
        };
        Some((split, turn.output.first()?.as_str()))
    }

    /// The last axis of the Reshape that ends a train: `[-1, M]`, or the leading axes of its input and M.
    fn row(&self, reshape: &NodeProto, input: &str) -> Option<usize> {
        let shape = reshape.input.get(1)?;
        let last = match self.made_by(shape, "Concat") {
            Some(concat) => {
                let leading = self.made_by(concat.input.first()?, "Slice")?;
                let whole = self.made_by(leading.input.first()?, "Shape")?;
                (whole.input.first()? == input).then_some(())?;
                concat.input.get(1)?
            }
            None => shape,
        };
        let dims = tensor::to_i64(self.initializers.get(last.as_str())?)?;
        let sizes = match dims.as_slice() {
            [-1, size] | [size] => size,
            _ => return None,
        };
        usize::try_from(*sizes).ok()
    }
}

/// Whether a value is named as one of a step.
fn is_step(name: &str, part: &str) -> bool {
    name.rsplit_once(part)
        .is_some_and(|(before, _)| before.contains("/step"))
}

fn perm(transpose: &NodeProto) -> Option<&[i64]> {
    Some(&proto::attribute(transpose, "perm")?.ints)
}

/// Cores of operands `[(r n), (r' m)]`.
fn forward_cores(stages: &[Stage]) -> Option<Vec<Core>> {
    let mut cores = Vec::new();
    let mut rank = 1;
    for stage in stages {
        let [k, c] = stage.matrix;
        let n = k.checked_div(rank)?;
        let (m, next) = match stage.split {
            Split::Forward([_, next, m]) => (m, next),
            Split::None => (c, 1),
            Split::Backward(_) => return None,
        };
        cores.push(core(&stage.values, [rank, n, next, m], [0, 3, 1, 2])?);
        rank = next;
    }
    (rank == 1).then_some(cores)
}

/// Cores of operands `[(n r'), (m r)]`, the last one first.
fn backward_cores(stages: &[Stage]) -> Option<Vec<Core>> {
    let mut cores = Vec::new();
    let mut next = 1;
    for (i, stage) in stages.iter().enumerate() {
        let [k, c] = stage.matrix;
        let n = k.checked_div(next)?;
        let (m, rank) = match stage.split {
            Split::Backward([m, rank]) => (m, rank),
            // Nothing is moved where there is one row mode, or nothing else beside it.
            Split::None if i + 1 == stages.len() => (c, 1),
            Split::None => (1, c),
            Split::Forward(_) => return None,
        };
        cores.push(core(&stage.values, [n, next, m, rank], [3, 2, 0, 1])?);
        next = rank;
    }
    cores.reverse();
    (next == 1).then_some(cores)
}

/// `[r, m, n, r']` from an array of another order.
fn core(values: &[f32], shape: [usize; 4], perm: [usize; 4]) -> Option<Core> {
    let view = ndarray::ArrayView4::from_shape(shape, values).ok()?;
    Some(Core {
        shape: perm.map(|axis| shape[axis]),
        values: view.permuted_axes(perm).iter().copied().collect(),
    })
}
