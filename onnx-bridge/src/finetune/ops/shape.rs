//! Shapes and the rearrangement of elements.

use super::super::kernels;
use super::super::value::{HostArray, IntArray, Value, broadcast_indices, broadcast_shape, volume};
use super::{Back, BackFn, Call, OpError, OpFn, Outputs, axis, one, sizes};
use crate::axes::{strided, strides};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "Shape" => shape_of,
        "Size" => |c| {
            Ok(vec![Value::int64(HostArray::new(
                vec![],
                vec![volume(c.input(0)?.shape()) as i64],
            )?)])
        },
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Transpose" => transpose,
        "Expand" => expand,
        "Tile" => tile,
        "Range" => range,
        "DepthToSpace" => depth_to_space,
        "SpaceToDepth" => space_to_depth,
        _ => return None,
    })
}

pub(super) fn way_back(op_type: &str) -> Option<BackFn> {
    Some(match op_type {
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => |b: &Back<'_>| {
            let x = b.call.floats(0)?;
            Ok(vec![Some(b.gradient.reshape(x.dims())?)])
        },
        "Transpose" => |b| {
            let order = order(&b.call)?;
            let mut back = vec![0; order.len()];
            order.iter().enumerate().for_each(|(k, &o)| back[o] = k);
            Ok(vec![Some(kernels::permute(b.gradient, &back)?)])
        },
        _ => return None,
    })
}

/// A value in another shape of the same volume.
pub(super) fn reshaped(value: &Value, shape: Vec<usize>) -> Result<Value, OpError> {
    Ok(match value {
        Value::Float(t) if t.dims() == shape => Value::Float(t.clone()),
        Value::Float(t) => {
            if t.elem_count() != volume(&shape) {
                return Err(OpError::new(format!(
                    "expected a shape of {} elements, found {shape:?}",
                    t.elem_count()
                )));
            }
            Value::Float(t.reshape(shape)?)
        }
        Value::Int(a) => Value::Int(IntArray {
            array: a.array.reshaped(shape)?,
            kind: a.kind,
        }),
        Value::Bool(a) => Value::Bool(a.reshaped(shape)?),
    })
}

/// A value with its axes in another order.
pub(super) fn permuted(value: &Value, order: &[usize]) -> Result<Value, OpError> {
    fn host<T: Clone>(a: &HostArray<T>, order: &[usize]) -> Result<HostArray<T>, OpError> {
        let own = strides(a.shape());
        let shape: Vec<usize> = order.iter().map(|&k| a.shape()[k]).collect();
        let steps: Vec<usize> = order.iter().map(|&k| own[k]).collect();
        a.indexed(shape.clone(), strided(shape, steps, 0))
    }
    Ok(match value {
        Value::Float(t) => Value::Float(kernels::permute(t, order)?),
        Value::Int(a) => Value::Int(IntArray {
            array: host(&a.array, order)?,
            kind: a.kind,
        }),
        Value::Bool(a) => Value::Bool(host(a, order)?),
    })
}

fn broadcast(value: &Value, shape: &[usize]) -> Result<Value, OpError> {
    fn host<T: Clone>(a: &HostArray<T>, shape: &[usize]) -> Result<HostArray<T>, OpError> {
        a.indexed(shape.to_vec(), broadcast_indices(a.shape(), shape))
    }
    Ok(match value {
        Value::Float(t) => Value::Float(t.broadcast_as(shape)?),
        Value::Int(a) => Value::Int(IntArray {
            array: host(&a.array, shape)?,
            kind: a.kind,
        }),
        Value::Bool(a) => Value::Bool(host(a, shape)?),
    })
}

fn shape_of(call: &Call<'_>) -> Outputs {
    let shape = call.input(0)?.shape();
    let order = shape.len() as i64;
    let at = |v: i64| (if v < 0 { v + order } else { v }).clamp(0, order) as usize;
    let (start, end) = (at(call.int("start", 0)), at(call.int("end", order)));
    let list = shape[start..end.max(start)]
        .iter()
        .map(|&n| n as i64)
        .collect();
    Ok(vec![Value::int64(HostArray::list(list))])
}

fn reshape(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let wanted = call.integers(1)?.array.data();
    let keep_zero = call.int("allowzero", 0) != 0;
    let mut shape = Vec::with_capacity(wanted.len());
    let mut hole = None;
    for (k, &n) in wanted.iter().enumerate() {
        shape.push(match n {
            -1 => {
                hole = Some(k);
                1
            }
            0 if !keep_zero => *value.shape().get(k).ok_or_else(|| {
                OpError::new(format!(
                    "expected an axis {k} to keep, found shape {:?}",
                    value.shape()
                ))
            })?,
            n => sizes(&[n])?[0],
        });
    }
    if let Some(k) = hole {
        let rest = volume(&shape);
        if rest == 0 || !volume(value.shape()).is_multiple_of(rest) {
            return Err(OpError::new(format!(
                "expected a shape that fits {:?}, found {wanted:?}",
                value.shape()
            )));
        }
        shape[k] = volume(value.shape()) / rest;
    }
    Ok(vec![reshaped(value, shape)?])
}

fn flatten(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let order = value.shape().len();
    let at = call.int("axis", 1);
    let at = if at == order as i64 {
        order
    } else {
        axis(at, order.max(1))?.min(order)
    };
    let (rows, columns) = (volume(&value.shape()[..at]), volume(&value.shape()[at..]));
    Ok(vec![reshaped(value, vec![rows, columns])?])
}

fn squeeze(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let order = value.shape().len();
    let drop: Vec<usize> = match call.ints_or_input("axes", 1)? {
        Some(axes) => axes
            .iter()
            .map(|&a| axis(a, order))
            .collect::<Result<_, _>>()?,
        None => (0..order).filter(|&k| value.shape()[k] == 1).collect(),
    };
    let shape = (0..order)
        .filter(|k| !drop.contains(k))
        .map(|k| value.shape()[k])
        .collect();
    Ok(vec![reshaped(value, shape)?])
}

fn unsqueeze(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let axes = call
        .ints_or_input("axes", 1)?
        .ok_or_else(|| OpError::new("expected axes, found none"))?;
    let order = value.shape().len() + axes.len();
    let new: Vec<usize> = axes
        .iter()
        .map(|&a| axis(a, order))
        .collect::<Result<_, _>>()?;
    let mut old = value.shape().iter();
    let shape = (0..order)
        .map(|k| {
            if new.contains(&k) {
                1
            } else {
                old.next().copied().unwrap_or(1)
            }
        })
        .collect();
    Ok(vec![reshaped(value, shape)?])
}

/// The axes of a transposition, each once.
fn order(call: &Call<'_>) -> Result<Vec<usize>, OpError> {
    let order = call.input(0)?.shape().len();
    let perm: Vec<usize> = match call.ints("perm") {
        Some(p) => p
            .iter()
            .map(|&k| axis(k, order))
            .collect::<Result<_, _>>()?,
        None => (0..order).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted != (0..order).collect::<Vec<_>>() {
        return Err(OpError::new(format!(
            "expected a permutation of {order} axes, found {perm:?}"
        )));
    }
    Ok(perm)
}

fn transpose(call: &Call<'_>) -> Outputs {
    Ok(vec![permuted(call.input(0)?, &order(call)?)?])
}

fn expand(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let shape = broadcast_shape(value.shape(), &sizes(call.integers(1)?.array.data())?)?;
    Ok(vec![broadcast(value, &shape)?])
}

fn tile(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let repeats = sizes(call.integers(1)?.array.data())?;
    if repeats.len() != value.shape().len() {
        return Err(OpError::new(format!(
            "expected {} repeats, found {}",
            value.shape().len(),
            repeats.len()
        )));
    }
    // [n] repeated r times is [1, n] broadcast to [r, n], axis by axis.
    let (mut split, mut wide, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for (&n, &r) in value.shape().iter().zip(&repeats) {
        split.extend([1, n]);
        wide.extend([r, n]);
        last.push(r * n);
    }
    let spread = broadcast(&reshaped(value, split)?, &wide)?;
    Ok(vec![reshaped(&spread, last)?])
}

fn range(call: &Call<'_>) -> Outputs {
    if let (Value::Int(a), Value::Int(b), Value::Int(s)) =
        (call.input(0)?, call.input(1)?, call.input(2)?)
    {
        let first = |a: &IntArray| {
            a.array
                .data()
                .first()
                .copied()
                .ok_or_else(|| OpError::new("expected a number"))
        };
        let (start, limit, step) = (first(a)?, first(b)?, first(s)?);
        if step == 0 {
            return Err(OpError::new("expected a step other than 0"));
        }
        let count = ((limit - start) as f64 / step as f64).ceil().max(0.0) as i64;
        let list = (0..count).map(|k| start + k * step).collect();
        return Ok(vec![Value::Int(IntArray {
            array: HostArray::list(list),
            kind: a.kind,
        })]);
    }
    let first = |k: usize| -> Result<f32, OpError> {
        super::super::value::to_vec(call.floats(k)?)?
            .first()
            .copied()
            .ok_or_else(|| OpError::new("expected a number"))
    };
    let (start, limit, step) = (first(0)?, first(1)?, first(2)?);
    let count = ((limit - start) / step).ceil().max(0.0) as usize;
    Ok(vec![Value::float(
        &[count],
        (0..count).map(|k| start + k as f32 * step).collect(),
    )?])
}

fn image(value: &Value) -> Result<[usize; 4], OpError> {
    <[usize; 4]>::try_from(value.shape())
        .map_err(|_| OpError::new(format!("expected [n, c, h, w], found {:?}", value.shape())))
}

fn depth_to_space(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let [n, c, h, w] = image(value)?;
    let b = sizes(&[call.int("blocksize", 1)])?[0].max(1);
    let column_row = call.text("mode", "DCR")? == "CRD";
    let inner = c / (b * b);
    let (split, order) = if column_row {
        (vec![n, inner, b, b, h, w], [0, 1, 4, 2, 5, 3])
    } else {
        (vec![n, b, b, inner, h, w], [0, 3, 4, 1, 5, 2])
    };
    Ok(vec![reshaped(
        &permuted(&reshaped(value, split)?, &order)?,
        vec![n, inner, h * b, w * b],
    )?])
}

fn space_to_depth(call: &Call<'_>) -> Outputs {
    let Value::Float(t) = call.input(0)? else {
        return Err(OpError::new("expected floats"));
    };
    let [n, c, h, w] = image(call.input(0)?)?;
    let b = sizes(&[call.int("blocksize", 1)])?[0].max(1);
    let t = t
        .reshape(vec![n, c, h / b, b, w / b, b])?
        .permute([0, 3, 5, 1, 2, 4])?;
    one(t.reshape((n, c * b * b, h / b, w / b))?)
}
