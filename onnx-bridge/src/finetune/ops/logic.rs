//! Comparisons, boolean algebra and selection.

use candle_core::{Device, Tensor};

use super::super::value::{HostArray, IntArray, Value, broadcast_indices, broadcast_shape, to_vec};
use super::{Call, OpError, OpFn, Outputs, one};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "Equal" => |c| compare(c, |o| o.is_eq()),
        "Greater" => |c| compare(c, |o| o.is_gt()),
        "GreaterOrEqual" => |c| compare(c, |o| o.is_ge()),
        "Less" => |c| compare(c, |o| o.is_lt()),
        "LessOrEqual" => |c| compare(c, |o| o.is_le()),
        "And" => |c| boolean(c, |a, b| a & b),
        "Or" => |c| boolean(c, |a, b| a | b),
        "Xor" => |c| boolean(c, |a, b| a ^ b),
        "Not" => |c| Ok(vec![Value::Bool(c.booleans(0)?.map(|b| !b))]),
        "IsNaN" => |c| test(c, f32::is_nan),
        "IsInf" => |c| test(c, f32::is_infinite),
        "Where" => select,
        _ => return None,
    })
}

/// Comparisons carry no gradient; NaN compares false.
fn compare(call: &Call<'_>, f: fn(std::cmp::Ordering) -> bool) -> Outputs {
    let array = match (call.input(0)?, call.input(1)?) {
        (Value::Int(a), Value::Int(b)) => a.array.zip(&b.array, |x, y| Ok(f(x.cmp(y))))?,
        (Value::Bool(a), Value::Bool(b)) => a.zip(b, |x, y| Ok(f(x.cmp(y))))?,
        (Value::Float(a), Value::Float(b)) => {
            let x = HostArray::new(a.dims().to_vec(), to_vec(a)?)?;
            let y = HostArray::new(b.dims().to_vec(), to_vec(b)?)?;
            x.zip(&y, |x, y| Ok(x.partial_cmp(y).is_some_and(f)))?
        }
        (a, b) => {
            return Err(OpError::new(format!(
                "expected values of one kind, found {} and {}",
                a.kind_name(),
                b.kind_name()
            )));
        }
    };
    Ok(vec![Value::Bool(array)])
}

fn boolean(call: &Call<'_>, f: fn(bool, bool) -> bool) -> Outputs {
    Ok(vec![Value::Bool(
        call.booleans(0)?
            .zip(call.booleans(1)?, |&a, &b| Ok(f(a, b)))?,
    )])
}

fn test(call: &Call<'_>, f: fn(f32) -> bool) -> Outputs {
    let x = call.floats(0)?;
    Ok(vec![Value::Bool(HostArray::new(
        x.dims().to_vec(),
        to_vec(x)?.into_iter().map(f).collect(),
    )?)])
}

fn select(call: &Call<'_>) -> Outputs {
    let condition = call.booleans(0)?;
    match (call.input(1)?, call.input(2)?) {
        (Value::Float(a), Value::Float(b)) => {
            let shape = broadcast_shape(condition.shape(), &broadcast_shape(a.dims(), b.dims())?)?;
            let mask: Vec<u8> = broadcast_indices(condition.shape(), &shape)
                .map(|i| u8::from(condition.data()[i]))
                .collect();
            let mask = Tensor::from_vec(mask, shape.as_slice(), &Device::Cpu)?;
            let spread = |t: &Tensor| t.broadcast_as(shape.as_slice())?.contiguous();
            one(mask.where_cond(&spread(a)?, &spread(b)?)?)
        }
        (Value::Int(a), Value::Int(b)) => {
            let array = pick(condition, &a.array, &b.array)?;
            Ok(vec![Value::Int(IntArray {
                array,
                kind: a.kind,
            })])
        }
        (Value::Bool(a), Value::Bool(b)) => Ok(vec![Value::Bool(pick(condition, a, b)?)]),
        (a, b) => Err(OpError::new(format!(
            "expected values of one kind, found {} and {}",
            a.kind_name(),
            b.kind_name()
        ))),
    }
}

fn pick<T: Clone>(
    condition: &HostArray<bool>,
    a: &HostArray<T>,
    b: &HostArray<T>,
) -> Result<HostArray<T>, OpError> {
    let both = a.zip(b, |x, y| Ok((x.clone(), y.clone())))?;
    condition.zip(&both, |&c, (x, y)| {
        Ok(if c { x.clone() } else { y.clone() })
    })
}
