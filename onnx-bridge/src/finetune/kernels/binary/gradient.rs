//! The way back through [`binary`](super::binary).

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::super::super::value::volume;
use super::super::fresh::fresh;
use super::super::simd::vectorized;
use super::super::{GRAIN, plain, read};
use super::{BinaryOp, Walk, forward};

/// Elements that are summed row by row before their sums are.
const PART: usize = 1 << 16;

/// The gradient of one operand: `g * slope` element by element, summed over what the operand was broadcast along.
fn gradient(walk: &Walk, size: usize, g: &[f32], slope: impl Fn(usize) -> f32 + Sync) -> Vec<f32> {
    if matches!(walk, Walk::Same) {
        return fresh(size, GRAIN, |c, out| {
            vectorized(|| {
                let start = c * GRAIN;
                let g = &g[start..start + out.len()];
                for (k, (o, &g)) in out.iter_mut().zip(g).enumerate() {
                    *o = g * slope(start + k);
                }
            });
        });
    }
    let mut out = vec![0.0f32; size];
    match walk {
        Walk::Same => {}
        Walk::Repeat(1) => {
            out[0] = g
                .iter()
                .enumerate()
                .map(|(i, g)| f64::from(g * slope(i)))
                .sum::<f64>() as f32;
        }
        Walk::Repeat(m) if m * 4 <= PART => {
            let some = PART / m;
            let parts: Vec<Vec<f32>> = g
                .par_chunks(some * m)
                .enumerate()
                .map(|(part, g)| {
                    let mut sums = vec![0.0f32; *m];
                    vectorized(|| {
                        for (row, g) in g.chunks(*m).enumerate() {
                            let start = (part * some + row) * m;
                            for (k, (sum, &g)) in sums.iter_mut().zip(g).enumerate() {
                                *sum += g * slope(start + k);
                            }
                        }
                    });
                    sums
                })
                .collect();
            for part in parts {
                out.iter_mut().zip(part).for_each(|(o, p)| *o += p);
            }
        }
        Walk::Repeat(m) => {
            let columns = (GRAIN / (g.len() / m).max(1)).clamp(16, (*m).max(16));
            out.par_chunks_mut(columns)
                .enumerate()
                .for_each(|(c, out)| {
                    vectorized(|| {
                        for row in 0..g.len() / m {
                            let start = row * m + c * columns;
                            let g = &g[start..start + out.len()];
                            for (k, (o, &g)) in out.iter_mut().zip(g).enumerate() {
                                *o += g * slope(start + k);
                            }
                        }
                    });
                });
        }
        Walk::Stretch(m) => {
            out.par_iter_mut()
                .with_min_len((GRAIN / m).max(1))
                .enumerate()
                .for_each(|(r, o)| {
                    *o = (r * m..(r + 1) * m).map(|i| g[i] * slope(i)).sum();
                });
        }
        Walk::Rows { .. } => {
            for (i, &g) in g.iter().enumerate() {
                out[walk.at(i)] += g * slope(i);
            }
        }
    }
    out
}

/// The gradients of both operands, of those that are needed, from that of the result.
pub(crate) fn binary_gradients(
    a: &Tensor,
    b: &Tensor,
    grad: &Tensor,
    op: BinaryOp,
    needed: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let (wa, wb) = (
        Walk::new(a.dims(), grad.dims()),
        Walk::new(b.dims(), grad.dims()),
    );
    // An operand as large as the result has a gradient made as the result was: times, or over, the other operand.
    let alike = |this: &Tensor, other: &Tensor, walk: &Walk| {
        let n = grad.elem_count();
        let data = read(grad, |g| {
            read(other, |o| forward(g, o, &Walk::Same, walk, n, op))
        })??;
        plain(data, this.dims())
    };
    let one = |this: &Tensor, walk: &Walk, slope: fn(BinaryOp, f32, f32) -> f32| {
        if matches!(op, BinaryOp::Add | BinaryOp::Sub) {
            let k = slope(op, 0.0, 0.0);
            if matches!(walk, Walk::Same) && k > 0.0 {
                return grad.reshape(this.dims());
            }
            let data = read(grad, |g| gradient(walk, this.elem_count(), g, |_| k))?;
            return plain(data, this.dims());
        }
        let data = read(grad, |g| {
            read(a, |x| {
                read(b, |y| {
                    gradient(walk, this.elem_count(), g, |i| {
                        slope(op, x[wa.at(i)], y[wb.at(i)])
                    })
                })
            })
        })???;
        plain(data, this.dims())
    };
    let da = || match (&wa, op) {
        (Walk::Same, BinaryOp::Mul | BinaryOp::Div) => alike(a, b, &wb),
        _ => one(a, &wa, BinaryOp::left),
    };
    let db = || match (&wb, op) {
        (Walk::Same, BinaryOp::Mul) => alike(b, a, &wa),
        _ => one(b, &wb, BinaryOp::right),
    };
    Ok([
        needed[0].then(da).transpose()?,
        needed[1].then(db).transpose()?,
    ])
}

/// The sum of `g` over the axes along which `dims` is broadcast to its shape.
pub(crate) fn summed(g: &Tensor, dims: &[usize]) -> Result<Tensor> {
    if g.elem_count() == volume(dims) {
        return g.reshape(dims);
    }
    let walk = Walk::new(dims, g.dims());
    plain(
        read(g, |g| gradient(&walk, volume(dims), g, |_| 1.0))?,
        dims,
    )
}
