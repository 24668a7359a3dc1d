//! Constants and conversions between kinds of values.

use super::super::value::{HostArray, IntArray, IntKind, Value, to_vec, volume};
use super::{Call, OpError, OpFn, Outputs, sizes};
use crate::proto::{DataType, TensorProto};
use crate::tensor;

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "Constant" => constant_node,
        "ConstantOfShape" => constant_of_shape,
        "Cast" => |c| Ok(vec![convert(c.input(0)?, element(c.int("to", 0))?)?]),
        "CastLike" => |c| {
            let element = match c.input(1)? {
                Value::Float(_) => Element::Float,
                Value::Int(a) => Element::Int(a.kind),
                Value::Bool(_) => Element::Bool,
            };
            Ok(vec![convert(c.input(0)?, element)?])
        },
        "Identity" | "Dropout" => |c| {
            if c.output_count() > 1 && !c.node.output[1].is_empty() {
                return Err(OpError::new("expected one output, found a mask too"));
            }
            Ok(vec![c.input(0)?.clone()])
        },
        _ => return None,
    })
}

/// An element type as the interpreter keeps it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Element {
    Float,
    Int(IntKind),
    Bool,
}

fn element(code: i64) -> Result<Element, OpError> {
    let data_type = i32::try_from(code)
        .ok()
        .and_then(|c| DataType::try_from(c).ok());
    Ok(match data_type {
        Some(DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16) => {
            Element::Float
        }
        Some(DataType::Int64) => Element::Int(IntKind::I64),
        Some(DataType::Int32) => Element::Int(IntKind::signed(32)),
        Some(DataType::Int16) => Element::Int(IntKind::signed(16)),
        Some(DataType::Int8) => Element::Int(IntKind::signed(8)),
        Some(DataType::Int4) => Element::Int(IntKind::signed(4)),
        Some(DataType::Int2) => Element::Int(IntKind::signed(2)),
        Some(DataType::Uint64) => Element::Int(IntKind::unsigned(64)),
        Some(DataType::Uint32) => Element::Int(IntKind::unsigned(32)),
        Some(DataType::Uint16) => Element::Int(IntKind::unsigned(16)),
        Some(DataType::Uint8) => Element::Int(IntKind::unsigned(8)),
        Some(DataType::Uint4) => Element::Int(IntKind::unsigned(4)),
        Some(DataType::Uint2) => Element::Int(IntKind::unsigned(2)),
        Some(DataType::Bool) => Element::Bool,
        _ => {
            return Err(OpError::new(format!(
                "expected a numeric element type, found type {code}"
            )));
        }
    })
}

/// The value of a stored tensor.
pub(crate) fn constant(proto: &TensorProto) -> Result<Value, OpError> {
    let shape = tensor::shape(proto).map_err(|e| OpError::new(e.to_string()))?;
    match element(i64::from(proto.data_type()))? {
        Element::Float => {
            let data =
                tensor::to_f32(proto).ok_or_else(|| OpError::new("expected readable floats"))?;
            Value::float(&shape, data)
        }
        Element::Int(kind) => Ok(Value::Int(IntArray {
            array: HostArray::new(shape.clone(), integers(proto, volume(&shape), kind)?)?,
            kind,
        })),
        Element::Bool => {
            let kind = IntKind::unsigned(8);
            let data = integers(proto, volume(&shape), kind)?
                .into_iter()
                .map(|v| v != 0)
                .collect();
            Ok(Value::Bool(HostArray::new(shape, data)?))
        }
    }
}

/// Stored integers of any width.
fn integers(proto: &TensorProto, count: usize, kind: IntKind) -> Result<Vec<i64>, OpError> {
    let data_type =
        DataType::try_from(proto.data_type()).map_err(|e| OpError::new(e.to_string()))?;
    let narrow = |bits: usize, bytes: &mut dyn Iterator<Item = u8>| -> Vec<i64> {
        let per_byte = 8 / bits;
        bytes
            .flat_map(|b| (0..per_byte).map(move |k| i64::from(b >> (k * bits))))
            .map(|v| kind.wrap(v))
            .take(count)
            .collect()
    };
    if let Some(raw) = &proto.raw_data {
        return Ok(match data_type {
            DataType::Int64 | DataType::Uint64 => raw
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b))
                .collect(),
            DataType::Int32 | DataType::Uint32 => raw
                .as_chunks()
                .0
                .iter()
                .map(|b| kind.wrap(i64::from(i32::from_le_bytes(*b))))
                .collect(),
            DataType::Int16 | DataType::Uint16 => raw
                .as_chunks()
                .0
                .iter()
                .map(|b| kind.wrap(i64::from(i16::from_le_bytes(*b))))
                .collect(),
            DataType::Int4 | DataType::Uint4 => narrow(4, &mut raw.iter().copied()),
            DataType::Int2 | DataType::Uint2 => narrow(2, &mut raw.iter().copied()),
            _ => raw.iter().map(|&b| kind.wrap(i64::from(b))).collect(),
        });
    }
    Ok(match data_type {
        DataType::Int64 => proto.int64_data.clone(),
        DataType::Uint64 | DataType::Uint32 => {
            proto.uint64_data.iter().map(|&v| v as i64).collect()
        }
        DataType::Int4 | DataType::Uint4 => {
            narrow(4, &mut proto.int32_data.iter().map(|&v| v as u8))
        }
        DataType::Int2 | DataType::Uint2 => {
            narrow(2, &mut proto.int32_data.iter().map(|&v| v as u8))
        }
        _ => proto
            .int32_data
            .iter()
            .map(|&v| kind.wrap(i64::from(v)))
            .collect(),
    })
}

fn constant_node(call: &Call<'_>) -> Outputs {
    if let Some(proto) = call.tensor("value") {
        return Ok(vec![constant(proto)?]);
    }
    let Some(attribute) = call.node.attribute.first() else {
        return Err(OpError::new(
            "expected an attribute that holds the value, found none",
        ));
    };
    Ok(vec![match attribute.name() {
        "value_float" => Value::float(&[], vec![attribute.f()])?,
        "value_floats" => Value::float(&[attribute.floats.len()], attribute.floats.clone())?,
        "value_int" => Value::int64(HostArray::new(vec![], vec![attribute.i()])?),
        "value_ints" => Value::int64(HostArray::list(attribute.ints.clone())),
        other => {
            return Err(OpError::new(format!(
                "expected a numeric constant, found attribute `{other}`"
            )));
        }
    }])
}

fn constant_of_shape(call: &Call<'_>) -> Outputs {
    let shape = sizes(call.integers(0)?.array.data())?;
    let count = volume(&shape);
    let fill = match call.tensor("value") {
        Some(proto) => constant(proto)?,
        None => Value::float(&[1], vec![0.0])?,
    };
    Ok(vec![match fill {
        Value::Float(t) => {
            let v = to_vec(&t)?.first().copied().unwrap_or(0.0);
            Value::float(&shape, vec![v; count])?
        }
        Value::Int(a) => {
            let v = a.array.data().first().copied().unwrap_or(0);
            Value::Int(IntArray {
                array: HostArray::new(shape, vec![v; count])?,
                kind: a.kind,
            })
        }
        Value::Bool(a) => {
            let v = a.data().first().copied().unwrap_or(false);
            Value::Bool(HostArray::new(shape, vec![v; count])?)
        }
    }])
}

/// Float to integer drops the fraction and the gradient; NaN gives 0.
fn convert(value: &Value, to: Element) -> Result<Value, OpError> {
    Ok(match (value, to) {
        (Value::Float(t), Element::Float) => Value::Float(t.clone()),
        (Value::Float(t), Element::Int(kind)) => {
            let data = to_vec(t)?
                .into_iter()
                .map(|v| kind.wrap(v as i64))
                .collect();
            Value::Int(IntArray {
                array: HostArray::new(t.dims().to_vec(), data)?,
                kind,
            })
        }
        (Value::Float(t), Element::Bool) => Value::Bool(HostArray::new(
            t.dims().to_vec(),
            to_vec(t)?.into_iter().map(|v| v != 0.0).collect(),
        )?),
        (Value::Int(a), Element::Float) => Value::float(
            a.array.shape(),
            a.array.data().iter().map(|&v| v as f32).collect(),
        )?,
        (Value::Int(a), Element::Int(kind)) => Value::Int(IntArray {
            array: a.array.map(|&v| kind.wrap(v)),
            kind,
        }),
        (Value::Int(a), Element::Bool) => Value::Bool(a.array.map(|&v| v != 0)),
        (Value::Bool(a), Element::Float) => Value::float(
            a.shape(),
            a.data()
                .iter()
                .map(|&v| if v { 1.0 } else { 0.0 })
                .collect(),
        )?,
        (Value::Bool(a), Element::Int(kind)) => Value::Int(IntArray {
            array: a.map(|&v| i64::from(v)),
            kind,
        }),
        (Value::Bool(a), Element::Bool) => Value::Bool(a.clone()),
    })
}
