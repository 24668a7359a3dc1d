//! Picking elements by index.

use candle_core::{Device, Tensor};

use super::super::value::{HostArray, IntArray, Value, broadcast_indices, volume};
use super::{Call, OpError, OpFn, Outputs, axis, one};
use crate::axes::{place, strides};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "Gather" => gather,
        "GatherElements" => gather_elements,
        "GatherND" => gather_nd,
        _ => return None,
    })
}

fn one_checked(index: i64, length: usize) -> Result<usize, OpError> {
    place(index, length)
        .ok_or_else(|| OpError::new(format!("expected indices below {length}, found {index}")))
}

/// Indices counted from either end, checked.
fn checked(indices: &IntArray, length: usize) -> Result<Vec<usize>, OpError> {
    indices
        .array
        .data()
        .iter()
        .map(|&i| one_checked(i, length))
        .collect()
}

fn index_tensor(indices: Vec<usize>, shape: &[usize]) -> Result<Tensor, OpError> {
    Ok(Tensor::from_vec(
        indices.into_iter().map(|i| i as u32).collect::<Vec<_>>(),
        shape,
        &Device::Cpu,
    )?)
}

fn gather(call: &Call<'_>) -> Outputs {
    let (value, indices) = (call.input(0)?, call.integers(1)?);
    let at = axis(call.int("axis", 0), value.shape().len())?;
    let length = value.shape()[at];
    let picks = checked(indices, length)?;
    let shape = [
        &value.shape()[..at],
        indices.array.shape(),
        &value.shape()[at + 1..],
    ]
    .concat();
    let (outer, inner) = (
        volume(&value.shape()[..at]),
        volume(&value.shape()[at + 1..]),
    );
    let sources = || {
        let picks = &picks;
        (0..outer).flat_map(move |o| {
            picks
                .iter()
                .flat_map(move |&p| (0..inner).map(move |j| (o * length + p) * inner + j))
        })
    };
    match value {
        Value::Float(t) => {
            let count = picks.len();
            let picked = t
                .contiguous()?
                .index_select(&index_tensor(picks, &[count])?, at)?;
            one(picked.reshape(shape)?)
        }
        Value::Int(a) => Ok(vec![Value::Int(IntArray {
            array: a.array.indexed(shape, sources())?,
            kind: a.kind,
        })]),
        Value::Bool(a) => Ok(vec![Value::Bool(a.indexed(shape, sources())?)]),
    }
}

fn gather_elements(call: &Call<'_>) -> Outputs {
    let (t, indices) = (call.floats(0)?, call.integers(1)?);
    let at = axis(call.int("axis", 0), t.rank())?;
    let picks = checked(indices, t.dims()[at])?;
    one(t
        .contiguous()?
        .gather(&index_tensor(picks, indices.array.shape())?, at)?)
}

fn gather_nd(call: &Call<'_>) -> Outputs {
    let (value, indices) = (call.input(0)?, call.integers(1)?);
    if call.int("batch_dims", 0) != 0 {
        return Err(OpError::new("expected batch_dims = 0"));
    }
    let shape = value.shape();
    let depth = *indices
        .array
        .shape()
        .last()
        .ok_or_else(|| OpError::new("expected indices with an axis"))?;
    if depth == 0 || depth > shape.len() {
        return Err(OpError::new(format!(
            "expected 1 to {} coordinates, found {depth}",
            shape.len()
        )));
    }
    let steps = strides(&shape[..depth]);
    let mut rows = Vec::with_capacity(indices.array.data().len() / depth);
    for coordinates in indices.array.data().chunks(depth) {
        let mut row = 0;
        for ((&i, &n), &step) in coordinates.iter().zip(shape).zip(&steps) {
            row += one_checked(i, n)? * step;
        }
        rows.push(row);
    }
    let inner = volume(&shape[depth..]);
    let target = [
        &indices.array.shape()[..indices.array.shape().len() - 1],
        &shape[depth..],
    ]
    .concat();
    match value {
        Value::Float(t) => {
            let count = rows.len();
            let flat = t.contiguous()?.reshape((volume(&shape[..depth]), inner))?;
            one(flat
                .index_select(&index_tensor(rows, &[count])?, 0)?
                .reshape(target)?)
        }
        Value::Int(a) => {
            let source = rows
                .iter()
                .flat_map(|&r| (0..inner).map(move |j| r * inner + j));
            Ok(vec![Value::Int(IntArray {
                array: a.array.indexed(target, source)?,
                kind: a.kind,
            })])
        }
        Value::Bool(a) => {
            let source = rows
                .iter()
                .flat_map(|&r| (0..inner).map(move |j| r * inner + j));
            Ok(vec![Value::Bool(a.indexed(target, source)?)])
        }
    }
}

/// A host array spread to a shape it broadcasts to.
pub(super) fn spread<T: Clone>(a: &HostArray<T>, shape: &[usize]) -> Result<HostArray<T>, OpError> {
    a.indexed(shape.to_vec(), broadcast_indices(a.shape(), shape))
}
