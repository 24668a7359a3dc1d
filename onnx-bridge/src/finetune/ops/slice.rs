//! Cutting and joining along axes.

use candle_core::{Device, Tensor};

use super::super::value::{HostArray, IntArray, Value, volume};
use super::{Call, OpError, OpFn, Outputs, axis, one, sizes};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "Concat" => concat,
        "Split" => split,
        "Slice" => slice,
        "Pad" => pad,
        "Trilu" => trilu,
        _ => return None,
    })
}

fn concat(call: &Call<'_>) -> Outputs {
    let first = call.input(0)?;
    let at = axis(call.int("axis", 0), first.shape().len())?;
    let all: Vec<&Value> = (0..call.inputs.len())
        .map(|k| call.input(k))
        .collect::<Result<_, _>>()?;
    match first {
        Value::Float(_) => {
            let tensors: Vec<Tensor> = (0..all.len())
                .map(|k| call.floats(k).cloned())
                .collect::<Result<_, _>>()?;
            let filled: Vec<Tensor> = tensors
                .iter()
                .filter(|t| t.elem_count() > 0)
                .cloned()
                .collect();
            match filled.as_slice() {
                [] => one(tensors[0].clone()),
                [single] => one(single.clone()),
                many => one(Tensor::cat(many, at)?),
            }
        }
        Value::Int(a) => {
            let parts: Vec<&HostArray<i64>> = (0..all.len())
                .map(|k| call.integers(k).map(|a| &a.array))
                .collect::<Result<_, _>>()?;
            Ok(vec![Value::Int(IntArray {
                array: join(&parts, at)?,
                kind: a.kind,
            })])
        }
        Value::Bool(_) => {
            let parts: Vec<&HostArray<bool>> = (0..all.len())
                .map(|k| call.booleans(k))
                .collect::<Result<_, _>>()?;
            Ok(vec![Value::Bool(join(&parts, at)?)])
        }
    }
}

fn join<T: Clone>(parts: &[&HostArray<T>], at: usize) -> Result<HostArray<T>, OpError> {
    let mut shape = parts[0].shape().to_vec();
    shape[at] = parts
        .iter()
        .map(|p| p.shape().get(at).copied().unwrap_or(0))
        .sum();
    let outer = volume(&shape[..at]);
    let mut data = Vec::with_capacity(volume(&shape));
    for row in 0..outer {
        for part in parts {
            let width = part.data().len() / outer.max(1);
            data.extend_from_slice(&part.data()[row * width..(row + 1) * width]);
        }
    }
    HostArray::new(shape, data)
}

/// `count` elements along one axis, from `start` on, every `step`-th; a negative step walks backwards.
fn cut(value: &Value, at: usize, start: usize, count: usize, step: i64) -> Result<Value, OpError> {
    fn host<T: Clone>(
        a: &HostArray<T>,
        at: usize,
        start: usize,
        count: usize,
        step: i64,
    ) -> Result<HostArray<T>, OpError> {
        let (outer, length, inner) = (
            volume(&a.shape()[..at]),
            a.shape()[at],
            volume(&a.shape()[at + 1..]),
        );
        let mut shape = a.shape().to_vec();
        shape[at] = count;
        let source = (0..outer).flat_map(|o| {
            (0..count).flat_map(move |k| {
                let row = o * length + (start as i64 + k as i64 * step) as usize;
                (0..inner).map(move |j| row * inner + j)
            })
        });
        a.indexed(shape, source)
    }
    Ok(match value {
        Value::Float(t) if step == 1 => Value::Float(t.narrow(at, start, count)?),
        Value::Float(t) => {
            let picks: Vec<i64> = (0..count as i64).map(|k| start as i64 + k * step).collect();
            Value::Float(
                t.contiguous()?
                    .index_select(&Tensor::from_vec(picks, count, &Device::Cpu)?, at)?,
            )
        }
        Value::Int(a) => Value::Int(IntArray {
            array: host(&a.array, at, start, count, step)?,
            kind: a.kind,
        }),
        Value::Bool(a) => Value::Bool(host(a, at, start, count, step)?),
    })
}

fn split(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let at = axis(call.int("axis", 0), value.shape().len())?;
    let length = value.shape()[at];
    let parts = match call.ints_or_input("split", 1)? {
        Some(list) => sizes(&list)?,
        None => {
            let count = (call.int("num_outputs", call.output_count() as i64).max(1)) as usize;
            let each = length.div_ceil(count);
            (0..count)
                .map(|k| each.min(length.saturating_sub(k * each)))
                .collect()
        }
    };
    if parts.iter().sum::<usize>() != length {
        return Err(OpError::new(format!(
            "expected parts that add up to {length}, found {parts:?}"
        )));
    }
    let mut start = 0;
    parts
        .into_iter()
        .map(|n| {
            let part = cut(value, at, start, n, 1);
            start += n;
            part
        })
        .collect()
}

fn slice(call: &Call<'_>) -> Outputs {
    let mut value = call.input(0)?.clone();
    let missing = |what: &str| OpError::new(format!("expected {what}, found none"));
    let starts = call
        .ints_or_input("starts", 1)?
        .ok_or_else(|| missing("starts"))?;
    let ends = call
        .ints_or_input("ends", 2)?
        .ok_or_else(|| missing("ends"))?;
    let axes = call
        .ints_or_input("axes", 3)?
        .unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call
        .ints_or_input("steps", 4)?
        .unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(OpError::new(format!(
            "expected {} ends, axes and steps",
            starts.len()
        )));
    }
    for k in 0..starts.len() {
        let at = axis(axes[k], value.shape().len())?;
        let n = value.shape()[at] as i64;
        let from_end = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (start, count) = if steps[k] > 0 {
            let (start, end) = (
                from_end(starts[k]).clamp(0, n),
                from_end(ends[k]).clamp(0, n),
            );
            (start, (end - start + steps[k] - 1).max(0) / steps[k])
        } else if steps[k] < 0 {
            let (start, end) = (
                from_end(starts[k]).clamp(-1, n - 1),
                from_end(ends[k]).clamp(-1, n - 1),
            );
            (start, (start - end - steps[k] - 1).max(0) / -steps[k])
        } else {
            return Err(OpError::new("expected steps other than 0"));
        };
        value = cut(&value, at, start.max(0) as usize, count as usize, steps[k])?;
    }
    Ok(vec![value])
}

/// Constant padding of floats; a negative amount cuts.
fn pad(call: &Call<'_>) -> Outputs {
    if call.text("mode", "constant")? != "constant" {
        return Err(OpError::new(format!(
            "expected constant padding, found `{}`",
            call.text("mode", "")?
        )));
    }
    let mut t = call.floats(0)?.clone();
    let pads = call
        .ints_or_input("pads", 1)?
        .ok_or_else(|| OpError::new("expected pads, found none"))?;
    let order = t.rank();
    let axes: Vec<usize> = match call.optional(3) {
        Some(Value::Int(a)) => a
            .array
            .data()
            .iter()
            .map(|&v| axis(v, order))
            .collect::<Result<_, _>>()?,
        _ => (0..order).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(OpError::new(format!(
            "expected {} pads, found {}",
            2 * axes.len(),
            pads.len()
        )));
    }
    let fill = match call.optional(2) {
        Some(Value::Float(v)) => super::super::value::to_vec(v)?
            .first()
            .copied()
            .unwrap_or(0.0),
        _ => call.float("value", 0.0),
    };
    for (k, &at) in axes.iter().enumerate() {
        let (before, after) = (pads[k], pads[k + axes.len()]);
        let side = |t: &Tensor, amount: i64| -> Result<Option<Tensor>, OpError> {
            if amount <= 0 {
                return Ok(None);
            }
            let mut shape = t.dims().to_vec();
            shape[at] = amount as usize;
            Ok(Some(Tensor::full(fill, shape, &Device::Cpu)?))
        };
        if before < 0 || after < 0 {
            let start = (-before).max(0) as usize;
            let length = t.dims()[at].saturating_sub(start + (-after).max(0) as usize);
            t = t.narrow(at, start, length)?;
        }
        let parts: Vec<Tensor> = [side(&t, before)?, Some(t.clone()), side(&t, after)?]
            .into_iter()
            .flatten()
            .collect();
        if parts.len() > 1 {
            t = Tensor::cat(&parts, at)?;
        }
    }
    one(t)
}

fn trilu(call: &Call<'_>) -> Outputs {
    let value = call.input(0)?;
    let upper = call.int("upper", 1) != 0;
    let k = match call.optional(1) {
        Some(Value::Int(a)) => a.array.data().first().copied().unwrap_or(0),
        _ => 0,
    };
    let [.., rows, columns] = *value.shape() else {
        return Err(OpError::new(format!(
            "expected a matrix, found {:?}",
            value.shape()
        )));
    };
    let kept = move |i: usize| {
        let (r, c) = (((i / columns) % rows) as i64, (i % columns) as i64);
        if upper { c - r >= k } else { c - r <= k }
    };
    match value {
        Value::Float(t) => {
            let mask = (0..t.elem_count())
                .map(|i| u8::from(kept(i)))
                .collect::<Vec<_>>();
            let mask = Tensor::from_vec(mask, t.dims(), &Device::Cpu)?;
            one(mask.where_cond(&t.contiguous()?, &t.zeros_like()?)?)
        }
        Value::Int(a) => {
            let data = a
                .array
                .data()
                .iter()
                .enumerate()
                .map(|(i, &v)| if kept(i) { v } else { 0 })
                .collect();
            Ok(vec![Value::Int(IntArray {
                array: HostArray::new(a.array.shape().to_vec(), data)?,
                kind: a.kind,
            })])
        }
        Value::Bool(a) => {
            let data = a
                .data()
                .iter()
                .enumerate()
                .map(|(i, &v)| v && kept(i))
                .collect();
            Ok(vec![Value::Bool(HostArray::new(a.shape().to_vec(), data)?)])
        }
    }
}
