//! Reductions along axes.

use candle_core::Tensor;

use super::super::kernels::{self, BinaryOp, UnaryOp};
use super::super::value::{HostArray, IntArray, Value, volume};
use super::{Call, OpError, OpFn, Outputs, axis, one};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "ReduceMean" => |c| floats(c, |t, axes| Ok(t.mean_keepdim(axes)?)),
        "ReduceSum" => |c| {
            numbers(
                c,
                |t, axes| Ok(t.sum_keepdim(axes)?),
                |a, b| a.wrapping_add(b),
            )
        },
        "ReduceMax" => |c| numbers(c, |t, axes| each(t, axes, Tensor::max_keepdim), i64::max),
        "ReduceMin" => |c| numbers(c, |t, axes| each(t, axes, Tensor::min_keepdim), i64::min),
        "ReduceProd" => |c| {
            numbers(
                c,
                |_, _| Err(OpError::new("expected integers, found floats")),
                |a, b| a.wrapping_mul(b),
            )
        },
        "ReduceL1" => |c| {
            floats(c, |t, axes| {
                Ok(kernels::unary(&t, UnaryOp::Abs)?.sum_keepdim(axes)?)
            })
        },
        "ReduceL2" => |c| {
            floats(c, |t, axes| {
                Ok(kernels::unary(
                    &kernels::unary(&t, UnaryOp::Pow(2.0))?.sum_keepdim(axes)?,
                    UnaryOp::Sqrt,
                )?)
            })
        },
        "ReduceSumSquare" => |c| {
            floats(c, |t, axes| {
                Ok(kernels::unary(&t, UnaryOp::Pow(2.0))?.sum_keepdim(axes)?)
            })
        },
        "ReduceLogSum" => |c| {
            floats(c, |t, axes| {
                Ok(kernels::unary(&t.sum_keepdim(axes)?, UnaryOp::Log)?)
            })
        },
        "ReduceLogSumExp" => |c| {
            floats(c, |t, axes| {
                let top = each(t.detach(), axes.clone(), Tensor::max_keepdim)?;
                let parts =
                    kernels::unary(&kernels::binary(&t, &top, BinaryOp::Sub)?, UnaryOp::Exp)?;
                let sum = kernels::unary(&parts.sum_keepdim(axes)?, UnaryOp::Log)?;
                Ok(kernels::binary(&sum, &top, BinaryOp::Add)?)
            })
        },
        "ArgMax" => |c| extreme(c, |new, best| new > best),
        "ArgMin" => |c| extreme(c, |new, best| new < best),
        _ => return None,
    })
}

fn each(
    mut t: Tensor,
    axes: Vec<usize>,
    f: fn(&Tensor, usize) -> candle_core::Result<Tensor>,
) -> Result<Tensor, OpError> {
    for at in axes {
        t = f(&t.contiguous()?, at)?;
    }
    Ok(t)
}

/// The axes to reduce, or `None` where the node is to do nothing.
fn axes(call: &Call<'_>, order: usize) -> Result<Option<Vec<usize>>, OpError> {
    match call.ints_or_input("axes", 1)?.filter(|a| !a.is_empty()) {
        Some(list) => Ok(Some(
            list.iter()
                .map(|&a| axis(a, order))
                .collect::<Result<_, _>>()?,
        )),
        None if call.int("noop_with_empty_axes", 0) != 0 => Ok(None),
        None => Ok(Some((0..order).collect())),
    }
}

fn final_shape(call: &Call<'_>, shape: &[usize], axes: &[usize]) -> Vec<usize> {
    let keep = call.int("keepdims", 1) != 0;
    (0..shape.len())
        .filter(|k| keep || !axes.contains(k))
        .map(|k| if axes.contains(&k) { 1 } else { shape[k] })
        .collect()
}

type Reduce = fn(Tensor, Vec<usize>) -> Result<Tensor, OpError>;

fn floats(call: &Call<'_>, f: Reduce) -> Outputs {
    let t = call.floats(0)?;
    match axes(call, t.rank())? {
        None => one(t.clone()),
        Some(axes) => {
            let shape = final_shape(call, t.dims(), &axes);
            one(f(t.contiguous()?, axes)?.reshape(shape)?)
        }
    }
}

fn numbers(call: &Call<'_>, f: Reduce, g: fn(i64, i64) -> i64) -> Outputs {
    let Value::Int(a) = call.input(0)? else {
        return floats(call, f);
    };
    let Some(axes) = axes(call, a.array.shape().len())? else {
        return Ok(vec![call.input(0)?.clone()]);
    };
    let shape = final_shape(call, a.array.shape(), &axes);
    let mut out: Vec<Option<i64>> = vec![None; volume(&shape)];
    let kept: Vec<usize> = a
        .array
        .shape()
        .iter()
        .enumerate()
        .map(|(k, &n)| if axes.contains(&k) { 1 } else { n })
        .collect();
    for (at, &v) in
        super::super::value::broadcast_indices(&kept, a.array.shape()).zip(a.array.data())
    {
        out[at] = Some(out[at].map_or(v, |o| g(o, v)));
    }
    let data = out
        .into_iter()
        .collect::<Option<Vec<i64>>>()
        .ok_or_else(|| OpError::new("expected elements to reduce, found an empty axis"))?;
    let array = HostArray::new(shape, data)?.map(|&v| a.kind.wrap(v));
    Ok(vec![Value::Int(IntArray {
        array,
        kind: a.kind,
    })])
}

/// The first extreme element along an axis; with `select_last_index` the last one.
fn extreme(call: &Call<'_>, better: fn(f32, f32) -> bool) -> Outputs {
    let t = call.floats(0)?;
    let at = axis(call.int("axis", 0), t.rank())?;
    let last = call.int("select_last_index", 0) != 0;
    let (outer, n, inner) = (
        volume(&t.dims()[..at]),
        t.dims()[at],
        volume(&t.dims()[at + 1..]),
    );
    let picks = kernels::read(t, |x| {
        let mut picks = Vec::with_capacity(outer * inner);
        for o in 0..outer {
            for i in 0..inner {
                let value = |k: usize| x[(o * n + k) * inner + i];
                let mut best = 0;
                for k in 1..n {
                    if better(value(k), value(best)) || (last && value(k) == value(best)) {
                        best = k;
                    }
                }
                picks.push(best as i64);
            }
        }
        picks
    })?;
    Ok(vec![Value::int64(HostArray::new(
        final_shape(call, t.dims(), &[at]),
        picks,
    )?)])
}
