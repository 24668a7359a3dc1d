//! The batch through the chain, forwards and backwards, in scratch that is reused from step to step.
//!
//! A chain of plain matrix products runs over the whole batch, each product on all threads. Any other chain is cut by
//! samples: one part per thread, each walking its part in slices that stay in its cache, with its own sum of the
//! matrices' gradients; the sums are added in the order of the parts.

use ndarray::Array2;
use rayon::prelude::*;
use tn_formats::Real;
use tn_formats::linalg::Threads;

use super::prepare::{evaluate, pull_back, stored};
use super::{Program, Route, Structure};
use crate::error::{QatError, Result};
use crate::parameter::Gradients;
use crate::store::Store;

/// Chains with fewer multiply-adds than this stay on one thread.
const PARALLEL_FROM: usize = 1 << 20;

/// Bytes of state a thread works on at a time.
const SLICE_BYTES: usize = 384 << 10;

/// What a forward pass leaves for its backward pass, and scratch for both.
///
/// One cache belongs to one layer at a time. Reused with the same batch size it allocates nothing. When it meets another
/// layer or batch it adapts.
#[derive(Debug, Clone)]
pub struct Cache<T = f32> {
    /// What the program was planned for, and the program.
    planned: Option<(Structure, Route, Program)>,
    batch: usize,
    ready: bool,
    values: Vec<Vec<T>>,
    scratch: Vec<Vec<T>>,
    grads: Vec<Vec<T>>,
    parts: Vec<Part<T>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self {
            planned: None,
            batch: 0,
            ready: false,
            values: Vec::new(),
            scratch: Vec::new(),
            grads: Vec::new(),
            parts: Vec::new(),
        }
    }
}

/// One thread's share of the batch.
#[derive(Debug, Clone, Default)]
struct Part<T> {
    /// The state after each step but the last, all samples.
    states: Vec<Vec<T>>,
    /// Gradients of the states, one slice of samples.
    d_states: Vec<Vec<T>>,
    /// Gradient of each step's matrix.
    sums: Vec<Vec<T>>,
    /// Samples per slice.
    slice: usize,
}

fn resize<T: Real>(buffers: &mut Vec<Vec<T>>, lens: impl Iterator<Item = usize>) {
    buffers.clear();
    buffers.extend(lens.map(|len| vec![T::zero(); len]));
}

impl<T: Real> Cache<T> {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Elements held.
    pub fn elements(&self) -> usize {
        let count = |buffers: &[Vec<T>]| buffers.iter().map(Vec::len).sum::<usize>();
        let parts: usize = self
            .parts
            .iter()
            .map(|p| count(&p.states) + count(&p.d_states) + count(&p.sums))
            .sum();
        count(&self.values) + count(&self.scratch) + count(&self.grads) + parts
    }

    /// Whether the last forward pass was of this layer and batch.
    pub(crate) fn check(&self, structure: &Structure, batch: usize) -> Result<()> {
        let same = self
            .planned
            .as_ref()
            .is_some_and(|(s, _, _)| s == structure);
        let found = if self.ready && same { self.batch } else { 0 };
        if found == batch {
            Ok(())
        } else {
            Err(QatError::NoForward { batch, found })
        }
    }

    fn fit(&mut self, structure: &Structure, route: Route, batch: usize) {
        let threads = rayon::current_num_threads();
        if let Some((s, r, program)) = &self.planned
            && (s, *r, self.batch) == (structure, route, batch)
            && self.parts.len() == parts(program, batch, threads)
        {
            return;
        }
        let program = structure.plan(batch, route);
        let parts = parts(&program, batch, threads);
        let nodes = &program.nodes;
        resize(&mut self.values, nodes.iter().map(super::Node::len));
        resize(&mut self.scratch, nodes.iter().map(super::Node::scratch));
        resize(&mut self.grads, nodes.iter().map(super::Node::len));
        let share = batch.div_ceil(parts);
        let slice = if program.is_matrix_chain() {
            share
        } else {
            let widest = program
                .steps
                .iter()
                .map(|s| s.input_len() + s.output_len())
                .max()
                .unwrap_or(1);
            (SLICE_BYTES / (widest * T::BYTES).max(1)).clamp(1, share.max(1))
        };
        let inner = &program.steps[..program.steps.len() - 1];
        self.parts.clear();
        for _ in 0..parts {
            let mut part = Part {
                slice,
                ..Part::default()
            };
            resize(
                &mut part.states,
                inner.iter().map(|s| share * s.output_len()),
            );
            resize(
                &mut part.d_states,
                inner.iter().map(|s| slice * s.output_len()),
            );
            resize(
                &mut part.sums,
                program.steps.iter().map(|s| s.rows * s.inner),
            );
            self.parts.push(part);
        }
        self.planned = Some((structure.clone(), route, program));
        self.batch = batch;
        self.ready = false;
    }
}

/// Into how many parts a batch is cut.
fn parts(program: &Program, batch: usize, threads: usize) -> usize {
    let single = program.is_matrix_chain() || program.work(batch) < PARALLEL_FROM;
    if single { 1 } else { threads.min(batch).max(1) }
}

/// `y = x Wᵀ + bias` by the program for this structure, with the store's effective weights.
pub(crate) fn forward<T: Real>(
    store: &Store<T>,
    (structure, route): (&Structure, Route),
    x: &[T],
    batch: usize,
    cache: &mut Cache<T>,
    y: &mut [T],
) -> Result<()> {
    cache.fit(structure, route, batch);
    cache.ready = false;
    if batch == 0 {
        return Ok(());
    }
    let Cache {
        planned: Some((_, _, program)),
        values,
        scratch,
        parts,
        ..
    } = cache
    else {
        return Ok(());
    };
    for (node, value) in program.nodes.iter().zip(values.iter_mut()) {
        if let super::Node::Leaf { slot, .. } = *node {
            store.effective(slot, value)?;
        }
    }
    evaluate(&program.nodes, values, scratch)?;
    let (n, m) = (
        program.steps[0].input_len(),
        program.steps[program.steps.len() - 1].output_len(),
    );
    let share = batch.div_ceil(parts.len());
    let bias = store.bias();
    let (program, values) = (&*program, &*values);
    if let [part] = parts.as_mut_slice() {
        part.forward(program, values, bias, x, y, Threads::All)?;
    } else {
        parts
            .par_iter_mut()
            .zip(x.par_chunks(share * n).zip(y.par_chunks_mut(share * m)))
            .try_for_each(|(part, (x, y))| {
                part.forward(program, values, bias, x, y, Threads::One)
            })?;
    }
    cache.ready = true;
    Ok(())
}

/// Adds the gradients of all parameters but the bias to `grads`, and sets `dx` unless it is `None`.
pub(crate) fn backward<T: Real>(
    store: &Store<T>,
    x: &[T],
    cache: &mut Cache<T>,
    dy: &[T],
    grads: &mut Gradients<T>,
    dx: Option<&mut [T]>,
) -> Result<()> {
    let batch = cache.batch;
    if batch == 0 {
        return Ok(());
    }
    let Cache {
        planned: Some((_, _, program)),
        values,
        scratch,
        grads: node_grads,
        parts,
        ..
    } = cache
    else {
        return Err(QatError::NoForward { batch, found: 0 });
    };
    let (n, m) = (
        program.steps[0].input_len(),
        program.steps[program.steps.len() - 1].output_len(),
    );
    let share = batch.div_ceil(parts.len());
    let (used, rest) = parts.split_at_mut(batch.div_ceil(share));
    {
        let (program, values) = (&*program, &*values);
        match (used, dx) {
            ([part], dx) => part.backward(program, values, x, dy, dx, Threads::All)?,
            (used, Some(dx)) => used
                .par_iter_mut()
                .zip(
                    x.par_chunks(share * n)
                        .zip(dy.par_chunks(share * m))
                        .zip(dx.par_chunks_mut(share * n)),
                )
                .try_for_each(|(part, ((x, dy), dx))| {
                    part.backward(program, values, x, dy, Some(dx), Threads::One)
                })?,
            (used, None) => used
                .par_iter_mut()
                .zip(x.par_chunks(share * n).zip(dy.par_chunks(share * m)))
                .try_for_each(|(part, (x, dy))| {
                    part.backward(program, values, x, dy, None, Threads::One)
                })?,
        }
    }
    for part in rest {
        part.sums.iter_mut().for_each(|s| s.fill(T::zero()));
    }
    for (s, step) in program.steps.iter().enumerate() {
        let (first, others) = parts.split_at_mut(1);
        let sum = &mut first[0].sums[s];
        for part in others.iter() {
            sum.iter_mut()
                .zip(&part.sums[s])
                .for_each(|(a, &b)| *a += b);
        }
        std::mem::swap(sum, &mut node_grads[step.node]);
    }
    pull_back(&program.nodes, values, node_grads, scratch)?;
    for (node, grad) in program.nodes.iter().zip(node_grads.iter_mut()) {
        if let super::Node::Leaf { slot, .. } = *node {
            store.backward(slot, grad, grads)?;
        }
    }
    Ok(())
}

/// The dense matrix `[M, N]` of the effective weights.
pub(crate) fn dense_weight<T: Real>(store: &Store<T>, structure: &Structure) -> Result<Array2<T>> {
    let [m, n] = structure.matrix_shape();
    let program = structure.plan(1, Route::Dense);
    let mut values: Vec<Vec<T>> = program
        .nodes
        .iter()
        .map(|node| vec![T::zero(); node.len()])
        .collect();
    let mut scratch: Vec<Vec<T>> = program
        .nodes
        .iter()
        .map(|node| vec![T::zero(); node.scratch()])
        .collect();
    for (node, value) in program.nodes.iter().zip(values.iter_mut()) {
        if let super::Node::Leaf { slot, .. } = *node {
            store.effective(slot, value)?;
        }
    }
    evaluate(&program.nodes, &mut values, &mut scratch)?;
    let step = program.steps[0];
    Ok(stored(&values[step.node], step.turned, m, n).to_owned())
}

impl<T: Real> Part<T> {
    fn forward(
        &mut self,
        program: &Program,
        values: &[Vec<T>],
        bias: Option<&[T]>,
        x: &[T],
        y: &mut [T],
        threads: Threads,
    ) -> Result<()> {
        let steps = &program.steps;
        let last = steps.len() - 1;
        let (n, m) = (steps[0].input_len(), steps[last].output_len());
        for (at, (x, y)) in x
            .chunks(self.slice * n)
            .zip(y.chunks_mut(self.slice * m))
            .enumerate()
        {
            let samples = x.len() / n;
            let range = |len: usize| at * self.slice * len..(at * self.slice + samples) * len;
            for (s, step) in steps.iter().enumerate() {
                let a = &values[step.node];
                let (before, after) = self.states.split_at_mut(s);
                let input = if s == 0 {
                    x
                } else {
                    &before[s - 1][range(step.input_len())]
                };
                let output = if s == last {
                    &mut *y
                } else {
                    &mut after[0][range(step.output_len())]
                };
                step.apply(a, input, output, threads)?;
            }
            if let Some(bias) = bias {
                for row in y.chunks_exact_mut(m) {
                    row.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                }
            }
        }
        Ok(())
    }

    fn backward(
        &mut self,
        program: &Program,
        values: &[Vec<T>],
        x: &[T],
        dy: &[T],
        mut dx: Option<&mut [T]>,
        threads: Threads,
    ) -> Result<()> {
        let steps = &program.steps;
        let last = steps.len() - 1;
        let (n, m) = (steps[0].input_len(), steps[last].output_len());
        for (at, (x, dy)) in x
            .chunks(self.slice * n)
            .zip(dy.chunks(self.slice * m))
            .enumerate()
        {
            let samples = x.len() / n;
            let range = |len: usize| at * self.slice * len..(at * self.slice + samples) * len;
            let beta = if at == 0 { T::zero() } else { T::one() };
            for (s, step) in steps.iter().enumerate().rev() {
                let a = &values[step.node];
                let input = if s == 0 {
                    x
                } else {
                    &self.states[s - 1][range(step.input_len())]
                };
                let (before, after) = self.d_states.split_at_mut(s);
                let d_output = if s == last {
                    dy
                } else {
                    &after[0][..samples * step.output_len()]
                };
                step.add_matrix_gradient(input, d_output, beta, &mut self.sums[s], threads)?;
                let d_input = if s > 0 {
                    Some(&mut before[s - 1][..samples * step.input_len()])
                } else {
                    dx.as_deref_mut().map(|dx| &mut dx[range(n)])
                };
                if let Some(d_input) = d_input {
                    step.apply_transposed(a, d_output, d_input, threads)?;
                }
            }
        }
        Ok(())
    }
}
