//! Evaluation of a program's nodes and the gradients through them.

use ndarray::{ArrayView2, ArrayViewMut2};
use tn_formats::Real;
use tn_formats::linalg::gemm;

use super::{MergeDims, Node, Turned};
use crate::error::Result;

/// A slice as a matrix.
pub(crate) fn mat<T>(values: &[T], rows: usize, cols: usize) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((rows, cols), &values[..rows * cols])
        .expect("a slice of rows times cols elements")
}

/// A slice as a matrix.
pub(crate) fn mat_mut<T>(values: &mut [T], rows: usize, cols: usize) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((rows, cols), &mut values[..rows * cols])
        .expect("a slice of rows times cols elements")
}

/// A stored matrix as it is used, `[rows, cols]`.
pub(crate) fn stored<T>(
    values: &[T],
    turned: Turned,
    rows: usize,
    cols: usize,
) -> ArrayView2<'_, T> {
    match turned {
        Turned::No => mat(values, rows, cols),
        Turned::Yes => mat(values, cols, rows).reversed_axes(),
    }
}

/// A stored matrix as it is used, `[rows, cols]`.
pub(crate) fn stored_mut<T>(
    values: &mut [T],
    turned: Turned,
    rows: usize,
    cols: usize,
) -> ArrayViewMut2<'_, T> {
    match turned {
        Turned::No => mat_mut(values, rows, cols),
        Turned::Yes => mat_mut(values, cols, rows).reversed_axes(),
    }
}

impl MergeDims {
    /// Copies `[r, m, n, p, q t]` to `[r, m, p, n, q t]`.
    fn scatter<T: Copy>(&self, from: &[T], to: &mut [T]) {
        let run = self.q * self.t;
        for (from, to) in from
            .chunks_exact(self.n * self.p * run)
            .zip(to.chunks_exact_mut(self.n * self.p * run))
        {
            for p in 0..self.p {
                for n in 0..self.n {
                    let (a, b) = ((n * self.p + p) * run, (p * self.n + n) * run);
                    to[b..b + run].copy_from_slice(&from[a..a + run]);
                }
            }
        }
    }

    /// The inverse of `scatter`: exchanges the roles of n and p.
    fn gather<T: Copy>(&self, from: &[T], to: &mut [T]) {
        MergeDims {
            n: self.p,
            p: self.n,
            ..*self
        }
        .scatter(from, to);
    }
}

/// `[a, b, c, d]` to `[b, d, a, c]`.
fn turn<T: Copy>([a, b, c, d]: [usize; 4], from: &[T], to: &mut [T]) {
    let mut target = to.iter_mut();
    for j in 0..b {
        for l in 0..d {
            for i in 0..a {
                for k in 0..c {
                    if let Some(t) = target.next() {
                        *t = from[((i * b + j) * c + k) * d + l];
                    }
                }
            }
        }
    }
}

/// `[b, d, a, c]` back to `[a, b, c, d]`.
fn turn_back<T: Copy>([a, b, c, d]: [usize; 4], from: &[T], to: &mut [T]) {
    let mut source = from.iter();
    for j in 0..b {
        for l in 0..d {
            for i in 0..a {
                for k in 0..c {
                    if let Some(&s) = source.next() {
                        to[((i * b + j) * c + k) * d + l] = s;
                    }
                }
            }
        }
    }
}

/// Evaluates all nodes but the leaves, which stand in `values` already.
pub(crate) fn evaluate<T: Real>(
    nodes: &[Node],
    values: &mut [Vec<T>],
    scratch: &mut [Vec<T>],
) -> Result<()> {
    for (index, node) in nodes.iter().enumerate() {
        let (before, rest) = values.split_at_mut(index);
        let out = &mut rest[0];
        match *node {
            Node::Leaf { .. } => {}
            Node::Merge { left, right, dims } => {
                let MergeDims {
                    r,
                    m,
                    n,
                    s,
                    p,
                    q,
                    t,
                } = dims;
                let raw = &mut scratch[index];
                let (a, b) = (
                    mat(&before[left], r * m * n, s),
                    mat(&before[right], s, p * q * t),
                );
                gemm(
                    T::one(),
                    a,
                    b,
                    T::zero(),
                    mat_mut(raw, r * m * n, p * q * t),
                )?;
                dims.scatter(raw, out);
            }
            Node::Turn { input, shape } => turn(shape, &before[input], out),
            Node::Product {
                left,
                right,
                right_turned,
                dims: [m, k, n],
            } => {
                let b = stored(&before[right], right_turned, k, n);
                gemm(
                    T::one(),
                    mat(&before[left], m, k),
                    b,
                    T::zero(),
                    mat_mut(out, m, n),
                )?;
            }
        }
    }
    Ok(())
}

/// Sends the gradients of the results back to the leaves: `grads` of every used node are set.
pub(crate) fn pull_back<T: Real>(
    nodes: &[Node],
    values: &[Vec<T>],
    grads: &mut [Vec<T>],
    scratch: &mut [Vec<T>],
) -> Result<()> {
    for (index, node) in nodes.iter().enumerate().rev() {
        let (before, rest) = grads.split_at_mut(index);
        let out = &rest[0];
        match *node {
            Node::Leaf { .. } => {}
            Node::Merge { left, right, dims } => {
                let MergeDims {
                    r,
                    m,
                    n,
                    s,
                    p,
                    q,
                    t,
                } = dims;
                let raw = &mut scratch[index];
                dims.gather(out, raw);
                let (rmn, pqt) = (r * m * n, p * q * t);
                let d = mat(raw, rmn, pqt);
                gemm(
                    T::one(),
                    d,
                    mat(&values[right], s, pqt).t(),
                    T::zero(),
                    mat_mut(&mut before[left], rmn, s),
                )?;
                gemm(
                    T::one(),
                    mat(&values[left], rmn, s).t(),
                    d,
                    T::zero(),
                    mat_mut(&mut before[right], s, pqt),
                )?;
            }
            Node::Turn { input, shape } => turn_back(shape, out, &mut before[input]),
            Node::Product {
                left,
                right,
                right_turned,
                dims: [m, k, n],
            } => {
                let d = mat(out, m, n);
                let b = stored(&values[right], right_turned, k, n);
                gemm(
                    T::one(),
                    d,
                    b.t(),
                    T::zero(),
                    mat_mut(&mut before[left], m, k),
                )?;
                let db = stored_mut(&mut before[right], right_turned, k, n);
                gemm(T::one(), mat(&values[left], m, k).t(), d, T::zero(), db)?;
            }
        }
    }
    Ok(())
}
