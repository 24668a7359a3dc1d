//! Quantize and dequantize: exact in the forward pass; what goes through integers carries no gradient.

use super::super::value::{HostArray, IntArray, IntKind, Value, to_vec};
use super::gather::spread;
use super::{Call, OpError, OpFn, Outputs, axis};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "DequantizeLinear" => dequantize,
        "QuantizeLinear" => quantize,
        _ => return None,
    })
}

/// A scale or zero point spread over the shape it applies to: per tensor, per axis or per block.
fn over<T: Clone>(
    call: &Call<'_>,
    values: &HostArray<T>,
    shape: &[usize],
) -> Result<HostArray<T>, OpError> {
    if values.data().len() == 1 {
        return spread(&values.reshaped(vec![])?, shape);
    }
    let at = axis(call.int("axis", 1), shape.len())?;
    let block = usize::try_from(call.int("block_size", 0)).unwrap_or(0);
    if block == 0 {
        if values.data().len() != shape[at] {
            return Err(OpError::new(format!(
                "expected {} scales, found {:?}",
                shape[at],
                values.shape()
            )));
        }
        let mut own = vec![1; shape.len()];
        own[at] = shape[at];
        return spread(&values.reshaped(own)?, shape);
    }
    if values.shape().len() != shape.len() || values.shape()[at] * block < shape[at] {
        return Err(OpError::new(format!(
            "expected one scale per block of {block}, found {:?}",
            values.shape()
        )));
    }
    let inner: usize = shape[at + 1..].iter().product();
    let blocks = values.shape()[at];
    let total: usize = shape.iter().product();
    values.indexed(
        shape.to_vec(),
        (0..total).map(|i| {
            let (outer, k, j) = (i / (inner * shape[at]), (i / inner) % shape[at], i % inner);
            (outer * blocks + k / block) * inner + j
        }),
    )
}

fn scales(call: &Call<'_>, shape: &[usize]) -> Result<HostArray<f32>, OpError> {
    let t = call.floats(1)?;
    over(call, &HostArray::new(t.dims().to_vec(), to_vec(t)?)?, shape)
}

fn zeros(call: &Call<'_>, shape: &[usize]) -> Result<Option<HostArray<i64>>, OpError> {
    match call.optional(2) {
        Some(_) => Ok(Some(over(call, &call.integers(2)?.array, shape)?)),
        None => Ok(None),
    }
}

fn dequantize(call: &Call<'_>) -> Outputs {
    let codes = call.integers(0)?;
    let shape = codes.array.shape();
    let scale = scales(call, shape)?;
    let zero = zeros(call, shape)?;
    let data = codes
        .array
        .data()
        .iter()
        .zip(scale.data())
        .enumerate()
        .map(|(i, (&c, &s))| (c - zero.as_ref().map_or(0, |z| z.data()[i])) as f32 * s)
        .collect();
    Ok(vec![Value::float(shape, data)?])
}

fn quantize(call: &Call<'_>) -> Outputs {
    let x = call.floats(0)?;
    let shape = x.dims();
    let scale = scales(call, shape)?;
    let zero = zeros(call, shape)?;
    let kind = match call.optional(2) {
        Some(Value::Int(z)) => z.kind,
        _ => IntKind::unsigned(8),
    };
    let (low, high) = kind.range();
    let data = to_vec(x)?
        .into_iter()
        .zip(scale.data())
        .enumerate()
        .map(|(i, (v, &s))| {
            let z = zero.as_ref().map_or(0, |z| z.data()[i]);
            ((v / s).round_ties_even() as i64)
                .saturating_add(z)
                .clamp(low, high)
        })
        .collect();
    Ok(vec![Value::Int(IntArray {
        array: HostArray::new(shape.to_vec(), data)?,
        kind,
    })])
}
