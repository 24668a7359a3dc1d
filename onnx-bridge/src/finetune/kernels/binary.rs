//! Arithmetic between two tensors under NumPy's broadcasting.

mod gradient;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::super::value::{broadcast_indices, broadcast_shape, volume};
use super::fresh::{fresh, mapped};
use super::simd::vectorized;
use super::{GRAIN, contiguous};

pub(crate) use gradient::{binary_gradients, summed};

/// A binary operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    /// Equal elements pass the gradient to the first operand.
    Max,
    /// Equal elements pass the gradient to the first operand.
    Min,
}

impl BinaryOp {
    #[inline(always)]
    fn value(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Pow => a.powf(b),
            Self::Max => a.max(b),
            Self::Min => a.min(b),
        }
    }

    #[inline(always)]
    fn left(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add | Self::Sub => 1.0,
            Self::Mul => b,
            Self::Div => 1.0 / b,
            Self::Pow => b * a.powf(b - 1.0),
            Self::Max => f32::from(a >= b),
            Self::Min => f32::from(a <= b),
        }
    }

    #[inline(always)]
    fn right(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => 1.0,
            Self::Sub => -1.0,
            Self::Mul => a,
            Self::Div => -a / (b * b),
            Self::Pow => {
                if a > 0.0 {
                    a.powf(b) * a.ln()
                } else {
                    0.0
                }
            }
            Self::Max => f32::from(a < b),
            Self::Min => f32::from(a > b),
        }
    }
}

/// `op` of two tensors.
///
/// # Numerics
/// The gradient of an operand that was broadcast is summed in a fixed order, whatever the number of threads.
pub(crate) fn binary(a: &Tensor, b: &Tensor, op: BinaryOp) -> Result<Tensor> {
    a.contiguous()?.apply_op2(&b.contiguous()?, Binary(op))
}

struct Binary(BinaryOp);

/// How an operand is read while the result is walked row-major.
enum Walk {
    /// Element for element.
    Same,
    /// The operand repeats after this many elements: it has the trailing axes of the result.
    Repeat(usize),
    /// Every element stands for this many neighbours: the operand has the leading axes, the rest are 1.
    Stretch(usize),
    /// Any other broadcast: where every row of the result starts, its length, and how far its elements are apart, 1 or 0.
    Rows {
        starts: Vec<usize>,
        length: usize,
        step: usize,
    },
}

impl Walk {
    fn new(source: &[usize], target: &[usize]) -> Self {
        let n = volume(source);
        if n == volume(target) {
            return Self::Same;
        }
        let offset = target.len() - source.len();
        let kept: Vec<bool> = (0..target.len())
            .map(|k| k >= offset && source[k - offset] == target[k])
            .collect();
        let wide = |k: usize| target[k] != 1;
        let first = (0..target.len())
            .find(|&k| kept[k] && wide(k))
            .unwrap_or(target.len());
        if (first..target.len()).all(|k| kept[k] || !wide(k)) {
            return Self::Repeat(n);
        }
        let last = (0..target.len())
            .rev()
            .find(|&k| kept[k] && wide(k))
            .map_or(0, |k| k + 1);
        if (0..last).all(|k| kept[k] || !wide(k)) {
            return Self::Stretch(volume(&target[last..]));
        }
        let ([before @ .., own], [outer @ .., length]) = (source, target) else {
            return Self::Repeat(n);
        };
        Self::Rows {
            starts: broadcast_indices(before, outer).map(|i| i * own).collect(),
            length: *length,
            step: usize::from(own == length),
        }
    }

    fn at(&self, i: usize) -> usize {
        match self {
            Self::Same => i,
            Self::Repeat(n) => i % n,
            Self::Stretch(n) => i / n,
            Self::Rows {
                starts,
                length,
                step,
            } => starts[i / length] + i % length * step,
        }
    }
}

/// `$made` with `$op` being a constant, so that a loop in it is one of vectors.
macro_rules! fixed {
    ($chosen:expr, $op:ident => $made:expr) => {
        fixed!(@ $chosen, $op => $made, Add Sub Mul Div Pow Max Min)
    };
    (@ $chosen:expr, $op:ident => $made:expr, $($kind:ident)*) => {
        match $chosen {$(
            BinaryOp::$kind => {
                const $op: BinaryOp = BinaryOp::$kind;
                $made
            }
        )*}
    };
}

/// Runs `$loop` with `$op` [`fixed`].
macro_rules! specialized {
    ($chosen:expr, $op:ident => $loop:expr) => {
        fixed!($chosen, $op => vectorized(|| $loop))
    };
}

fn forward(a: &[f32], b: &[f32], wa: &Walk, wb: &Walk, n: usize, op: BinaryOp) -> Vec<f32> {
    // Rows of `m` elements: one operand has all of them, the other the same row again and again, or one number for each.
    let rows = |m: usize, row: &(dyn Fn(usize, &mut [f32]) + Sync)| {
        let some = (GRAIN / m).max(1);
        fresh(n, some * m, |c, out| {
            for (r, out) in out.chunks_mut(m).enumerate() {
                row(c * some + r, out);
            }
        })
    };
    match (wa, wb) {
        (Walk::Same, Walk::Same) => fixed!(op, OP => mapped([a, b], |[x, y]| OP.value(x, y))),
        (Walk::Same, Walk::Repeat(1)) => {
            let y = b[0];
            fixed!(op, OP => mapped([a], |[x]| OP.value(x, y)))
        }
        (Walk::Same, Walk::Repeat(m)) if *m >= 16 => rows(*m, &|r, out| {
            let a = &a[r * m..];
            specialized!(op, OP => for ((o, &x), &y) in out.iter_mut().zip(a).zip(b) {
                *o = OP.value(x, y);
            });
        }),
        (Walk::Repeat(m), Walk::Same) if *m >= 16 => rows(*m, &|r, out| {
            let b = &b[r * m..];
            specialized!(op, OP => for ((o, &x), &y) in out.iter_mut().zip(a).zip(b) {
                *o = OP.value(x, y);
            });
        }),
        (Walk::Same, Walk::Stretch(m)) if *m >= 16 => rows(*m, &|r, out| {
            let (a, y) = (&a[r * m..], b[r]);
            specialized!(op, OP => for (o, &x) in out.iter_mut().zip(a) {
                *o = OP.value(x, y);
            });
        }),
        (
            Walk::Same,
            Walk::Rows {
                starts,
                length,
                step: 1,
            },
        ) if *length >= 16 => rows(*length, &|r, out| {
            let (a, b) = (&a[r * length..], &b[starts[r]..]);
            specialized!(op, OP => for ((o, &x), &y) in out.iter_mut().zip(a).zip(b) {
                *o = OP.value(x, y);
            });
        }),
        _ => fresh(n, GRAIN, |c, out| {
            for (k, o) in out.iter_mut().enumerate() {
                let i = c * GRAIN + k;
                *o = op.value(a[wa.at(i)], b[wb.at(i)]);
            }
        }),
    }
}

impl CustomOp2 for Binary {
    fn name(&self) -> &'static str {
        "binary operator"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (contiguous(s1, l1)?, contiguous(s2, l2)?);
        let shape = broadcast_shape(l1.dims(), l2.dims())
            .map_err(|e| candle_core::Error::Msg(e.to_string()))?;
        let (wa, wb) = (Walk::new(l1.dims(), &shape), Walk::new(l2.dims(), &shape));
        Ok((
            CpuStorage::F32(forward(a, b, &wa, &wb, volume(&shape), self.0)),
            Shape::from(shape),
        ))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let needed = [a, b].map(Tensor::track_op);
        let [da, db] = binary_gradients(a, b, grad, self.0, needed)?;
        Ok((da, db))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradients, sequence};
    use super::*;
    use candle_core::Device;

    const SHAPES: [[&[usize]; 2]; 10] = [
        [&[3, 5], &[3, 5]],
        [&[4, 20], &[20]],
        [&[20], &[4, 20]],
        [&[4, 20], &[]],
        [&[4, 6], &[4, 1]],
        [&[2, 3, 4], &[3, 1]],
        [&[2, 1, 4], &[3, 1]],
        [&[2, 3, 4], &[2, 1, 4]],
        [&[2, 3, 20], &[2, 1, 20]],
        [&[1, 1], &[7]],
    ];

    #[test]
    fn broadcasts_as_candle_does() {
        for [a, b] in SHAPES {
            let x = Tensor::from_vec(sequence(volume(a), 1), a, &Device::Cpu).unwrap();
            let y = Tensor::from_vec(sequence(volume(b), 2), b, &Device::Cpu).unwrap();
            let ours = binary(&x, &y, BinaryOp::Sub).unwrap();
            let theirs = x.broadcast_sub(&y).unwrap();
            assert_eq!(ours.dims(), theirs.dims());
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&ours), flat(&theirs), "{a:?} {b:?}");
        }
    }

    #[test]
    fn gradients_equal_central_differences() {
        for [a, b] in SHAPES {
            for op in [
                BinaryOp::Add,
                BinaryOp::Sub,
                BinaryOp::Mul,
                BinaryOp::Div,
                BinaryOp::Pow,
            ] {
                check_gradients(&[a, b], 3e-3, |t| {
                    binary(&(&t[0] + 2.5)?, &(&t[1] + 2.0)?, op)
                });
            }
            check_gradients(&[a, b], 2e-3, |t| {
                binary(&(&t[0] + 2.5)?, &t[1], BinaryOp::Max)
            });
            check_gradients(&[a, b], 2e-3, |t| {
                binary(&(&t[0] + 2.5)?, &t[1], BinaryOp::Min)
            });
        }
    }
}
