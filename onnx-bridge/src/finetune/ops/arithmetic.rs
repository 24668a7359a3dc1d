//! Element-wise arithmetic and functions.

use candle_core::Tensor;

use super::super::kernels::{self, BinaryOp, UnaryOp};
use super::super::value::{HostArray, IntArray, Value, to_vec};
use super::{Back, BackFn, Call, OpError, OpFn, Outputs, axis, one};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "Add" => |c| pair(c, BinaryOp::Add, |a, b| Some(a.wrapping_add(b))),
        "Sub" => |c| pair(c, BinaryOp::Sub, |a, b| Some(a.wrapping_sub(b))),
        "Mul" => |c| pair(c, BinaryOp::Mul, |a, b| Some(a.wrapping_mul(b))),
        "Div" => |c| pair(c, BinaryOp::Div, |a, b| a.checked_div(b)),
        "Pow" => pow,
        "Mod" => modulo,
        "Max" => |c| fold(c, BinaryOp::Max, |a, b| Some(a.max(b))),
        "Min" => |c| fold(c, BinaryOp::Min, |a, b| Some(a.min(b))),
        "Sum" => |c| fold(c, BinaryOp::Add, |a, b| Some(a.wrapping_add(b))),
        "Mean" => mean,
        "Abs" => |c| function(c, UnaryOp::Abs, |v| Some(v.wrapping_abs())),
        "Neg" => |c| function(c, UnaryOp::Neg, |v| Some(v.wrapping_neg())),
        "Relu" => |c| function(c, UnaryOp::Relu, |v| Some(v.max(0))),
        "Clip" => clip,
        "Cos" => |c| floats(c, UnaryOp::Cos),
        "Elu" => |c| floats(c, UnaryOp::Elu(c.float("alpha", 1.0))),
        "Erf" => |c| floats(c, UnaryOp::Erf),
        "Exp" => |c| floats(c, UnaryOp::Exp),
        "Gelu" => |c| floats(c, gelu(c)?),
        "HardSigmoid" => |c| {
            floats(
                c,
                UnaryOp::HardSigmoid(c.float("alpha", 0.2), c.float("beta", 0.5)),
            )
        },
        "HardSwish" => |c| floats(c, UnaryOp::HardSwish),
        "LeakyRelu" => |c| floats(c, UnaryOp::LeakyRelu(c.float("alpha", 0.01))),
        "Log" => |c| floats(c, UnaryOp::Log),
        "Mish" => |c| floats(c, UnaryOp::Mish),
        "PRelu" => prelu,
        "Reciprocal" => |c| floats(c, UnaryOp::Reciprocal),
        "Sigmoid" => |c| floats(c, UnaryOp::Sigmoid),
        "Sin" => |c| floats(c, UnaryOp::Sin),
        "Softplus" => |c| floats(c, UnaryOp::Softplus),
        "Softsign" => |c| floats(c, UnaryOp::Softsign),
        "Sqrt" => |c| floats(c, UnaryOp::Sqrt),
        "Swish" => |c| floats(c, UnaryOp::Swish(c.float("alpha", 1.0))),
        "Tanh" => |c| floats(c, UnaryOp::Tanh),
        "Floor" => |c| stepped(c, f32::floor),
        "Ceil" => |c| stepped(c, f32::ceil),
        "Round" => |c| stepped(c, f32::round_ties_even),
        "Sign" => |c| stepped(c, |v| if v == 0.0 { 0.0 } else { v.signum() }),
        "CumSum" => cumulative_sum,
        "BitShift" => bit_shift,
        "BitwiseAnd" => |c| bitwise(c, |a, b| a & b),
        "BitwiseOr" => |c| bitwise(c, |a, b| a | b),
        "BitwiseXor" => |c| bitwise(c, |a, b| a ^ b),
        _ => return None,
    })
}

pub(super) fn way_back(op_type: &str) -> Option<BackFn> {
    Some(match op_type {
        "Add" => |b| pair_back(b, BinaryOp::Add),
        "Sub" => |b| pair_back(b, BinaryOp::Sub),
        "Mul" => |b| pair_back(b, BinaryOp::Mul),
        "Div" => |b| pair_back(b, BinaryOp::Div),
        "Erf" => |b| function_back(b, UnaryOp::Erf),
        "Gelu" => |b| function_back(b, gelu(&b.call)?),
        "Relu" => |b| function_back(b, UnaryOp::Relu),
        "Sigmoid" => |b| function_back(b, UnaryOp::Sigmoid),
        "Tanh" => |b| function_back(b, UnaryOp::Tanh),
        _ => return None,
    })
}

fn pair_back(b: &Back<'_>, op: BinaryOp) -> Result<Vec<Option<Tensor>>, OpError> {
    let (x, y) = (b.call.floats(0)?, b.call.floats(1)?);
    Ok(kernels::binary_gradients(x, y, b.gradient, op, b.needed())?.into())
}

fn function_back(b: &Back<'_>, op: UnaryOp) -> Result<Vec<Option<Tensor>>, OpError> {
    let x = b.call.floats(0)?;
    let dx = kernels::unary_gradient(x, b.output, b.gradient, op)?;
    Ok(vec![Some(dx)])
}

fn gelu(call: &Call<'_>) -> Result<UnaryOp, OpError> {
    Ok(match call.text("approximate", "none")? {
        "tanh" => UnaryOp::GeluTanh,
        _ => UnaryOp::Gelu,
    })
}

/// Two integer arrays of one kind, combined and wrapped to their width; `None` from `f` is a division by zero.
fn integers(
    a: &IntArray,
    b: &IntArray,
    f: impl Fn(i64, i64) -> Option<i64>,
) -> Result<Value, OpError> {
    let kind = a.kind;
    let array = a.array.zip(&b.array, |&x, &y| {
        f(x, y)
            .map(|v| kind.wrap(v))
            .ok_or_else(|| OpError::new("expected a divisor other than 0"))
    })?;
    Ok(Value::Int(IntArray { array, kind }))
}

fn combine(
    a: &Value,
    b: &Value,
    op: BinaryOp,
    f: fn(i64, i64) -> Option<i64>,
) -> Result<Value, OpError> {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => Ok(Value::Float(kernels::binary(a, b, op)?)),
        (Value::Int(a), Value::Int(b)) => integers(a, b, f),
        _ => Err(OpError::new(format!(
            "expected numbers of one kind, found {} and {}",
            a.kind_name(),
            b.kind_name()
        ))),
    }
}

fn pair(call: &Call<'_>, op: BinaryOp, f: fn(i64, i64) -> Option<i64>) -> Outputs {
    Ok(vec![combine(call.input(0)?, call.input(1)?, op, f)?])
}

fn fold(call: &Call<'_>, op: BinaryOp, f: fn(i64, i64) -> Option<i64>) -> Outputs {
    let mut sum = call.input(0)?.clone();
    for k in 1..call.inputs.len() {
        sum = combine(&sum, call.input(k)?, op, f)?;
    }
    Ok(vec![sum])
}

fn mean(call: &Call<'_>) -> Outputs {
    let count = call.inputs.len().max(1) as f64;
    match fold(call, BinaryOp::Add, |_, _| None)?.pop() {
        Some(Value::Float(sum)) => one((sum / count)?),
        _ => Err(OpError::new("expected floats")),
    }
}

/// The power; a constant single exponent takes the cheaper derivative and any sign of base.
fn pow(call: &Call<'_>) -> Outputs {
    let exponent = |v: &Value| -> Result<Option<f32>, OpError> {
        Ok(match v {
            Value::Float(t) if t.elem_count() == 1 && !t.track_op() => to_vec(t)?.first().copied(),
            Value::Int(a) if a.array.data().len() == 1 => Some(a.array.data()[0] as f32),
            _ => None,
        })
    };
    match (call.input(0)?, call.input(1)?) {
        (Value::Float(x), e) => match (exponent(e)?, e) {
            (Some(0.5), _) => one(kernels::unary(x, UnaryOp::Sqrt)?),
            (Some(p), _) => one(kernels::unary(x, UnaryOp::Pow(p))?),
            (None, Value::Float(e)) => one(kernels::binary(x, e, BinaryOp::Pow)?),
            (None, other) => Err(OpError::new(format!(
                "expected a float exponent, found {}",
                other.kind_name()
            ))),
        },
        (Value::Int(a), Value::Int(b)) => Ok(vec![integers(a, b, |x, p| {
            Some(x.wrapping_pow(u32::try_from(p).ok()?))
        })?]),
        (a, b) => Err(OpError::new(format!(
            "expected numbers, found {} and {}",
            a.kind_name(),
            b.kind_name()
        ))),
    }
}

/// Integers: the sign of the divisor, or with `fmod` of the dividend. Floats carry no gradient through it.
fn modulo(call: &Call<'_>) -> Outputs {
    let fmod = call.int("fmod", 0) != 0;
    match (call.input(0)?, call.input(1)?) {
        (Value::Int(a), Value::Int(b)) if fmod => {
            Ok(vec![integers(a, b, |x, y| x.checked_rem(y))?])
        }
        (Value::Int(a), Value::Int(b)) => Ok(vec![integers(a, b, |x, y| {
            x.checked_rem(y).map(|r| {
                if r != 0 && (r < 0) != (y < 0) {
                    r + y
                } else {
                    r
                }
            })
        })?]),
        (Value::Float(a), Value::Float(b)) => {
            let x = HostArray::new(a.dims().to_vec(), to_vec(a)?)?;
            let y = HostArray::new(b.dims().to_vec(), to_vec(b)?)?;
            let z = x.zip(&y, |&x, &y| Ok(x % y))?;
            Ok(vec![Value::float(z.shape(), z.data().to_vec())?])
        }
        (a, b) => Err(OpError::new(format!(
            "expected numbers of one kind, found {} and {}",
            a.kind_name(),
            b.kind_name()
        ))),
    }
}

fn floats(call: &Call<'_>, op: UnaryOp) -> Outputs {
    one(kernels::unary(call.floats(0)?, op)?)
}

fn function(call: &Call<'_>, op: UnaryOp, f: fn(i64) -> Option<i64>) -> Outputs {
    match call.input(0)? {
        Value::Int(a) => {
            let array = a.array.map(|&v| f(v).map_or(v, |v| a.kind.wrap(v)));
            Ok(vec![Value::Int(IntArray {
                array,
                kind: a.kind,
            })])
        }
        _ => floats(call, op),
    }
}

/// Functions whose derivative is 0 almost everywhere: they leave the tape.
fn stepped(call: &Call<'_>, f: fn(f32) -> f32) -> Outputs {
    let x = call.floats(0)?;
    let y = kernels::read(x, |x| x.iter().map(|&v| f(v)).collect::<Vec<f32>>())?;
    Ok(vec![Value::float(x.dims(), y)?])
}

fn clip(call: &Call<'_>) -> Outputs {
    if let Value::Int(a) = call.input(0)? {
        let limit = |k: usize, default: i64| match call.optional(k) {
            Some(Value::Int(l)) => l.array.data().first().copied().unwrap_or(default),
            _ => default,
        };
        let (low, high) = (limit(1, i64::MIN), limit(2, i64::MAX));
        let array = a.array.map(|&v| v.max(low).min(high));
        return Ok(vec![Value::Int(IntArray {
            array,
            kind: a.kind,
        })]);
    }
    let limit = |k: usize, name: &str, default: f32| -> Result<f32, OpError> {
        match call.optional(k) {
            Some(Value::Float(t)) => Ok(to_vec(t)?.first().copied().unwrap_or(default)),
            _ => Ok(call.float(name, default)),
        }
    };
    floats(
        call,
        UnaryOp::Clip(
            limit(1, "min", f32::NEG_INFINITY)?,
            limit(2, "max", f32::INFINITY)?,
        ),
    )
}

fn prelu(call: &Call<'_>) -> Outputs {
    let (x, slope) = (call.floats(0)?, call.floats(1)?);
    let positive = kernels::unary(x, UnaryOp::Relu)?;
    let negative = kernels::binary(x, &positive, BinaryOp::Sub)?;
    one(kernels::binary(
        &positive,
        &kernels::binary(&negative, slope, BinaryOp::Mul)?,
        BinaryOp::Add,
    )?)
}

fn cumulative_sum(call: &Call<'_>) -> Outputs {
    if call.int("exclusive", 0) != 0 || call.int("reverse", 0) != 0 {
        return Err(OpError::new(
            "expected a plain cumulative sum, found `exclusive` or `reverse`",
        ));
    }
    let along = *call
        .integers(1)?
        .array
        .data()
        .first()
        .ok_or_else(|| OpError::new("expected an axis"))?;
    match call.input(0)? {
        Value::Float(t) => one(t.cumsum(axis(along, t.rank())?)?),
        Value::Int(a) => {
            let along = axis(along, a.array.shape().len())?;
            let step: usize = a.array.shape()[along + 1..].iter().product();
            let length = a.array.shape()[along];
            let mut data = a.array.data().to_vec();
            for i in 0..data.len() {
                if !(i / step).is_multiple_of(length) {
                    data[i] = a.kind.wrap(data[i].wrapping_add(data[i - step]));
                }
            }
            Ok(vec![Value::Int(IntArray {
                array: HostArray::new(a.array.shape().to_vec(), data)?,
                kind: a.kind,
            })])
        }
        Value::Bool(_) => Err(OpError::new("expected numbers, found booleans")),
    }
}

fn bit_shift(call: &Call<'_>) -> Outputs {
    let (a, b) = (call.integers(0)?, call.integers(1)?);
    let left = call.text("direction", "")? == "LEFT";
    let shift = |x: i64, by: i64| {
        let by = u32::try_from(by).ok().filter(|&b| b < 64)?;
        Some(if left {
            x << by
        } else {
            ((x as u64) >> by) as i64
        })
    };
    Ok(vec![integers(a, b, |x, by| {
        Some(shift(x, by).unwrap_or(0))
    })?])
}

fn bitwise(call: &Call<'_>, f: fn(i64, i64) -> i64) -> Outputs {
    Ok(vec![integers(
        call.integers(0)?,
        call.integers(1)?,
        |a, b| Some(f(a, b)),
    )?])
}
