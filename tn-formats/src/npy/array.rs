//! One array.

use std::io::{Read, Write};

use half::f16;
use ndarray::{ArrayD, IxDyn, ShapeBuilder};

use super::header::{Dtype, Header, MAX_HEADER, bad};
use crate::error::{Result, checked_product};

/// An array of one of the element types that are read and written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum NpyArray {
    /// `float16`.
    F16(ArrayD<f16>),
    /// `float32`.
    F32(ArrayD<f32>),
    /// `float64`.
    F64(ArrayD<f64>),
    /// `int64`.
    I64(ArrayD<i64>),
    /// `int32`.
    I32(ArrayD<i32>),
    /// `int8`.
    I8(ArrayD<i8>),
    /// `uint8`.
    U8(ArrayD<u8>),
    /// `bool`.
    Bool(ArrayD<bool>),
}

macro_rules! for_each_variant {
    ($value:expr, $a:ident => $body:expr) => {
        match $value {
            NpyArray::F16($a) => $body,
            NpyArray::F32($a) => $body,
            NpyArray::F64($a) => $body,
            NpyArray::I64($a) => $body,
            NpyArray::I32($a) => $body,
            NpyArray::I8($a) => $body,
            NpyArray::U8($a) => $body,
            NpyArray::Bool($a) => $body,
        }
    };
}

impl NpyArray {
    /// The shape.
    pub fn shape(&self) -> &[usize] {
        for_each_variant!(self, a => a.shape())
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        for_each_variant!(self, a => a.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// numpy's name of the element type.
    pub fn dtype(&self) -> &'static str {
        match self {
            Self::F16(_) => "float16",
            Self::F32(_) => "float32",
            Self::F64(_) => "float64",
            Self::I64(_) => "int64",
            Self::I32(_) => "int32",
            Self::I8(_) => "int8",
            Self::U8(_) => "uint8",
            Self::Bool(_) => "bool",
        }
    }

    /// The elements as `f32`: floats rounded to the nearest, integers converted, booleans as 0 and 1.
    pub fn to_f32(&self) -> ArrayD<f32> {
        match self {
            Self::F16(a) => a.mapv(f16::to_f32),
            Self::F32(a) => a.clone(),
            Self::F64(a) => a.mapv(|x| x as f32),
            Self::I64(a) => a.mapv(|x| x as f32),
            Self::I32(a) => a.mapv(|x| x as f32),
            Self::I8(a) => a.mapv(f32::from),
            Self::U8(a) => a.mapv(f32::from),
            Self::Bool(a) => a.mapv(|x| if x { 1.0 } else { 0.0 }),
        }
    }
}

/// Reads one `.npy` array; bytes after it are left alone.
///
/// # Numerics
/// Little-endian data in row- or column-major order; the array is row-major either way.
///
/// # Errors
/// [`crate::Error::Npy`] for anything that breaks the format or is of another element type, [`crate::Error::Io`] when the
/// data ends early. Memory grows with the bytes that arrive, not with what the header promises.
pub fn read_npy(reader: &mut impl Read) -> Result<NpyArray> {
    let mut start = [0u8; 8];
    reader.read_exact(&mut start)?;
    if &start[..6] != b"\x93NUMPY" {
        return Err(bad("magic", "\\x93NUMPY", format!("{:02x?}", &start[..6])));
    }
    let header_len = match start[6] {
        1 => {
            let mut len = [0u8; 2];
            reader.read_exact(&mut len)?;
            usize::from(u16::from_le_bytes(len))
        }
        2 | 3 => {
            let mut len = [0u8; 4];
            reader.read_exact(&mut len)?;
            u32::from_le_bytes(len) as usize
        }
        version => return Err(bad("version", "1, 2 or 3", version.to_string())),
    };
    if header_len > MAX_HEADER {
        return Err(bad(
            "header length",
            format!("at most {MAX_HEADER}"),
            header_len.to_string(),
        ));
    }
    let mut text = vec![0u8; header_len];
    reader.read_exact(&mut text)?;
    let text =
        String::from_utf8(text).map_err(|_| bad("header", "text", "bytes that are not UTF-8"))?;
    let header = Header::parse(&text)?;

    let elements = checked_product(&header.shape)?;
    let bytes = elements * header.dtype.bytes();
    let mut data = Vec::new();
    reader.take(bytes as u64).read_to_end(&mut data)?;
    if data.len() != bytes {
        return Err(bad(
            "data",
            format!("{bytes} bytes"),
            data.len().to_string(),
        ));
    }
    from_bytes(&header, &data)
}

fn from_bytes(header: &Header, data: &[u8]) -> Result<NpyArray> {
    fn array<const N: usize, E: Clone>(
        header: &Header,
        data: &[u8],
        f: impl Fn([u8; N]) -> E,
    ) -> Result<ArrayD<E>> {
        let values: Vec<E> = data.as_chunks::<N>().0.iter().map(|c| f(*c)).collect();
        let shape = IxDyn(&header.shape);
        let array = if header.fortran {
            ArrayD::from_shape_vec(shape.f(), values).map(|a| a.as_standard_layout().into_owned())
        } else {
            ArrayD::from_shape_vec(shape, values)
        };
        array.map_err(|e| bad("data", format!("shape {:?}", header.shape), e.to_string()))
    }
    Ok(match header.dtype {
        Dtype::F16 => NpyArray::F16(array(header, data, f16::from_le_bytes)?),
        Dtype::F32 => NpyArray::F32(array(header, data, f32::from_le_bytes)?),
        Dtype::F64 => NpyArray::F64(array(header, data, f64::from_le_bytes)?),
        Dtype::I64 => NpyArray::I64(array(header, data, i64::from_le_bytes)?),
        Dtype::I32 => NpyArray::I32(array(header, data, i32::from_le_bytes)?),
        Dtype::I8 => NpyArray::I8(array(header, data, i8::from_le_bytes)?),
        Dtype::U8 => NpyArray::U8(array(header, data, u8::from_le_bytes)?),
        Dtype::Bool => {
            if let Some(byte) = data.iter().find(|b| **b > 1) {
                return Err(bad("data", "0 or 1 for a boolean", byte.to_string()));
            }
            NpyArray::Bool(array(header, data, |[b]: [u8; 1]| b == 1)?)
        }
    })
}

/// Writes one array as `.npy`, version 1.0, row-major, little-endian.
///
/// # Errors
/// [`crate::Error::Io`].
///
/// ```
/// use ndarray::array;
/// use tn_formats::npy::{NpyArray, read_npy, write_npy};
/// let a = NpyArray::F32(array![[1.0f32, 2.0, 3.0]].into_dyn());
/// let mut file = Vec::new();
/// write_npy(&mut file, &a)?;
/// assert_eq!(file.len(), 128 + 12);
/// assert_eq!(read_npy(&mut file.as_slice())?, a);
/// # Ok::<(), tn_formats::Error>(())
/// ```
pub fn write_npy(writer: &mut impl Write, array: &NpyArray) -> Result<()> {
    let dtype = match array {
        NpyArray::F16(_) => Dtype::F16,
        NpyArray::F32(_) => Dtype::F32,
        NpyArray::F64(_) => Dtype::F64,
        NpyArray::I64(_) => Dtype::I64,
        NpyArray::I32(_) => Dtype::I32,
        NpyArray::I8(_) => Dtype::I8,
        NpyArray::U8(_) => Dtype::U8,
        NpyArray::Bool(_) => Dtype::Bool,
    };
    let header = Header {
        dtype,
        fortran: false,
        shape: array.shape().to_vec(),
    };
    writer.write_all(&header.to_bytes())?;
    let mut data = Vec::with_capacity(array.len() * dtype.bytes());
    match array {
        NpyArray::F16(a) => a.iter().for_each(|x| data.extend(x.to_le_bytes())),
        NpyArray::F32(a) => a.iter().for_each(|x| data.extend(x.to_le_bytes())),
        NpyArray::F64(a) => a.iter().for_each(|x| data.extend(x.to_le_bytes())),
        NpyArray::I64(a) => a.iter().for_each(|x| data.extend(x.to_le_bytes())),
        NpyArray::I32(a) => a.iter().for_each(|x| data.extend(x.to_le_bytes())),
        NpyArray::I8(a) => a.iter().for_each(|x| data.extend(x.to_le_bytes())),
        NpyArray::U8(a) => data.extend(a.iter()),
        NpyArray::Bool(a) => data.extend(a.iter().map(|&x| u8::from(x))),
    }
    writer.write_all(&data)?;
    Ok(())
}
