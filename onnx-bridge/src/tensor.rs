//! Reading the data of a `TensorProto`: its element type, its length, its values as `f32`.

use bytes::Bytes;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::proto::{DataType, TensorProto};

/// The lowercase name of an element type, as the reports print it.
pub fn type_name(data_type: i32) -> &'static str {
    match DataType::try_from(data_type) {
        Ok(DataType::Float) => "float32",
        Ok(DataType::Double) => "float64",
        Ok(DataType::Float16) => "float16",
        Ok(DataType::Bfloat16) => "bfloat16",
        Ok(DataType::Int8) => "int8",
        Ok(DataType::Uint8) => "uint8",
        Ok(DataType::Int16) => "int16",
        Ok(DataType::Uint16) => "uint16",
        Ok(DataType::Int32) => "int32",
        Ok(DataType::Uint32) => "uint32",
        Ok(DataType::Int64) => "int64",
        Ok(DataType::Uint64) => "uint64",
        Ok(DataType::Bool) => "bool",
        Ok(DataType::String) => "string",
        Ok(DataType::Int4) => "int4",
        Ok(DataType::Uint4) => "uint4",
        Ok(DataType::Int2) => "int2",
        Ok(DataType::Uint2) => "uint2",
        Ok(DataType::Complex64) => "complex64",
        Ok(DataType::Complex128) => "complex128",
        Ok(DataType::Undefined) => "undefined",
        Ok(_) => "float8",
        Err(_) => "unknown",
    }
}

/// Bits of one element in `raw_data`; `None` for strings and unknown types.
fn element_bits(data_type: DataType) -> Option<usize> {
    Some(match data_type {
        DataType::Undefined | DataType::String => return None,
        DataType::Complex128 => 128,
        DataType::Double | DataType::Int64 | DataType::Uint64 | DataType::Complex64 => 64,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 32,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 16,
        DataType::Int4 | DataType::Uint4 | DataType::Float4e2m1 => 4,
        DataType::Int2 | DataType::Uint2 => 2,
        _ => 8,
    })
}

/// The shape of a tensor.
///
/// # Errors
/// [`Error::BadTensor`] for a negative dimension or more elements than memory can address.
pub fn shape(tensor: &TensorProto) -> Result<Vec<usize>> {
    let bad = |problem: String| Error::BadTensor {
        tensor: tensor.name().to_string(),
        field: "dims",
        problem,
    };
    let mut count = 1usize;
    let mut shape = Vec::with_capacity(tensor.dims.len());
    for &dim in &tensor.dims {
        let n = usize::try_from(dim).map_err(|_| {
            bad(format!(
                "expected sizes of 0 or more, found {:?}",
                tensor.dims
            ))
        })?;
        count = count
            .checked_mul(n)
            .filter(|&c| c <= isize::MAX as usize / 16)
            .ok_or_else(|| {
                bad(format!(
                    "expected a number of elements that fits memory, found {:?}",
                    tensor.dims
                ))
            })?;
        shape.push(n);
    }
    Ok(shape)
}

/// The bytes that the elements take in `raw_data`; `None` for strings.
///
/// # Errors
/// [`Error::BadTensor`] for an unknown element type or an impossible shape.
pub fn data_bytes(tensor: &TensorProto) -> Result<Option<usize>> {
    let count: usize = shape(tensor)?.iter().product();
    let data_type = DataType::try_from(tensor.data_type())
        .ok()
        .filter(|t| *t != DataType::Undefined);
    let Some(data_type) = data_type else {
        return Err(Error::BadTensor {
            tensor: tensor.name().to_string(),
            field: "data_type",
            problem: format!(
                "expected a type of the schema, found {}",
                tensor.data_type()
            ),
        });
    };
    Ok(element_bits(data_type).map(|bits| (count * bits).div_ceil(8)))
}

/// Checks that a tensor's data has the length that its shape and type ask for.
///
/// # Errors
/// [`Error::TensorLength`] where it does not, [`Error::BadTensor`] for an impossible shape or type.
pub fn check(tensor: &TensorProto) -> Result<()> {
    let wanted_bytes = data_bytes(tensor)?;
    let count: usize = shape(tensor)?.iter().product();
    let wrong = |field, expected: String, found: String| Error::TensorLength {
        tensor: tensor.name().to_string(),
        field,
        kind: format!("{} {:?}", type_name(tensor.data_type()), tensor.dims),
        expected,
        found,
    };
    if let Some(raw) = &tensor.raw_data {
        return match wanted_bytes {
            Some(wanted) if wanted == raw.len() => Ok(()),
            Some(wanted) => Err(wrong(
                "raw_data",
                format!("{wanted} bytes"),
                format!("{} bytes", raw.len()),
            )),
            None => Err(Error::BadTensor {
                tensor: tensor.name().to_string(),
                field: "raw_data",
                problem: format!(
                    "expected `string_data` for strings, found {} raw bytes",
                    raw.len()
                ),
            }),
        };
    }
    let (field, found, wanted) = match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Float) => ("float_data", tensor.float_data.len(), count),
        Ok(DataType::Complex64) => ("float_data", tensor.float_data.len(), 2 * count),
        Ok(DataType::Double) => ("double_data", tensor.double_data.len(), count),
        Ok(DataType::Complex128) => ("double_data", tensor.double_data.len(), 2 * count),
        Ok(DataType::Int64) => ("int64_data", tensor.int64_data.len(), count),
        Ok(DataType::Uint64 | DataType::Uint32) => ("uint64_data", tensor.uint64_data.len(), count),
        Ok(DataType::String) => ("string_data", tensor.string_data.len(), count),
        Ok(DataType::Int4 | DataType::Uint4 | DataType::Float4e2m1) => {
            ("int32_data", tensor.int32_data.len(), count.div_ceil(2))
        }
        Ok(DataType::Int2 | DataType::Uint2) => {
            ("int32_data", tensor.int32_data.len(), count.div_ceil(4))
        }
        _ => ("int32_data", tensor.int32_data.len(), count),
    };
    if found == wanted {
        Ok(())
    } else {
        Err(wrong(
            field,
            format!("{wanted} elements"),
            format!("{found} elements"),
        ))
    }
}

/// Whether a tensor holds real numbers in floating point that [`to_f32`] can read.
pub fn is_float(tensor: &TensorProto) -> bool {
    matches!(
        DataType::try_from(tensor.data_type()),
        Ok(DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16)
    )
}

/// The values of a floating-point tensor, rounded to `f32` where it is wider; `None` for every other type.
///
/// # Numerics
/// float16 and bfloat16 are exact, float64 rounds half to even.
pub fn to_f32(tensor: &TensorProto) -> Option<Vec<f32>> {
    let data_type = DataType::try_from(tensor.data_type()).ok()?;
    let raw = tensor.raw_data.as_ref();
    let halves = || -> Box<dyn Iterator<Item = u16> + '_> {
        match raw {
            Some(raw) => Box::new(raw.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b))),
            None => Box::new(tensor.int32_data.iter().map(|&v| v as u16)),
        }
    };
    Some(match (data_type, raw) {
        (DataType::Float, Some(raw)) => raw
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        (DataType::Float, None) => tensor.float_data.clone(),
        (DataType::Double, Some(raw)) => raw
            .as_chunks()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b) as f32)
            .collect(),
        (DataType::Double, None) => tensor.double_data.iter().map(|&v| v as f32).collect(),
        (DataType::Float16, _) => halves().map(|h| f16::from_bits(h).to_f32()).collect(),
        (DataType::Bfloat16, _) => halves().map(|h| bf16::from_bits(h).to_f32()).collect(),
        _ => return None,
    })
}

/// Some values of a `float32` tensor, in their order; `None` for every other type and for a range that leaves it.
#[cfg(feature = "tract")]
pub(crate) fn f32_range(tensor: &TensorProto, range: std::ops::Range<usize>) -> Option<Vec<f32>> {
    if tensor.data_type() != DataType::Float as i32 {
        return None;
    }
    match tensor.raw_data.as_ref() {
        Some(raw) => {
            let values = raw.as_chunks().0.get(range)?;
            Some(values.iter().map(|b| f32::from_le_bytes(*b)).collect())
        }
        None => tensor.float_data.get(range).map(<[f32]>::to_vec),
    }
}

/// The values of an `int64` or `int32` tensor; `None` for every other type.
pub fn to_i64(tensor: &TensorProto) -> Option<Vec<i64>> {
    Some(
        match (
            DataType::try_from(tensor.data_type()).ok()?,
            tensor.raw_data.as_ref(),
        ) {
            (DataType::Int64, Some(raw)) => raw
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b))
                .collect(),
            (DataType::Int64, None) => tensor.int64_data.clone(),
            (DataType::Int32, Some(raw)) => raw
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from(i32::from_le_bytes(*b)))
                .collect(),
            (DataType::Int32, None) => tensor.int32_data.iter().map(|&v| i64::from(v)).collect(),
            _ => return None,
        },
    )
}

/// A `float32` tensor from its values.
pub(crate) fn from_f32(name: &str, shape: &[usize], values: &[f32]) -> TensorProto {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    crate::proto::raw_tensor(name, DataType::Float, shape, Bytes::from(bytes))
}
