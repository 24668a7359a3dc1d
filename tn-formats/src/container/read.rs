//! Reading a container: every field is checked, and nothing is allocated from a length that was not.

use ndarray::{Array2, Array3, Array4, ArrayD, IxDyn};
use quant_core::{QuantParams, QuantScheme, QuantizedTensor, Signedness};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::Container;
use super::header::{CRC_KEY, Crc32, Header, KEY, Kind, VERSION, bad};
use crate::error::{Result, checked_product};
use crate::matrix::{TtMatrix, TtMatrixCore};
use crate::modes::MatrixModes;
use crate::quantized::{QuantizedTensorTrain, QuantizedTtMatrix, QuantizedTucker};
use crate::scalar::Real;
use crate::train::{TensorTrain, TtCore};
use crate::tucker::Tucker;

/// Most cores or factors a container may have.
const MAX_PARTS: usize = 4096;

/// A file whose header, names and checksum are right.
struct File<'a> {
    header: Header,
    tensors: SafeTensors<'a>,
}

impl Container {
    /// Reads a container.
    ///
    /// # Numerics
    /// Floats come back bit for bit. Memory stays within a small multiple of the file's size.
    ///
    /// # Errors
    /// [`crate::Error::Container`] for anything FORMAT.md does not allow, a wrong checksum included;
    /// [`crate::Error::Quant`] for codes and scales that break their scheme; the errors of the types' own constructors.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut file = File::open(bytes)?;
        let modes = file.header.modes.take().map(|m| m.check()).transpose()?;
        let quantized = file
            .header
            .parts
            .iter()
            .filter(|p| p.scheme.is_some())
            .count();
        if quantized == file.header.parts.len() {
            return file.quantized(modes);
        }
        if quantized > 0 {
            return Err(bad(
                "parts",
                "a scheme in every part or in none",
                format!("{quantized} with a scheme"),
            ));
        }
        let first = &file.header.parts[0].name;
        match file.tensor(first)?.dtype() {
            Dtype::F32 => file.floats::<f32>(modes),
            Dtype::F64 => file.floats::<f64>(modes),
            other => Err(bad(first, "F32 or F64", format!("{other:?}"))),
        }
    }
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        let outer =
            |e: safetensors::SafeTensorError| bad("file", "a .safetensors file", e.to_string());
        let (len, metadata) = SafeTensors::read_metadata(bytes).map_err(outer)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(outer)?;
        let control = bytes[8..8 + len].iter().find(|b| **b < 0x20);
        if let Some(byte) = control {
            return Err(bad(
                "file",
                "a header without control characters",
                format!("{byte:#04x}"),
            ));
        }
        let texts = metadata.metadata().as_ref();
        let text = |key: &str| {
            texts
                .and_then(|m| m.get(key))
                .ok_or_else(|| bad("__metadata__", format!("the key `{key}`"), "none"))
        };
        let json = text(KEY)?;
        let header: Header = serde_json::from_str(json)
            .map_err(|e| bad(KEY, "the header of FORMAT.md", e.to_string()))?;
        if header.version != VERSION {
            return Err(bad(
                "version",
                VERSION.to_string(),
                header.version.to_string(),
            ));
        }
        if header.parts.is_empty() || header.parts.len() > MAX_PARTS {
            return Err(bad(
                "parts",
                format!("1 to {MAX_PARTS}"),
                header.parts.len().to_string(),
            ));
        }
        if (header.kind == Kind::TtMatrix) != header.modes.is_some() {
            return Err(bad(
                "modes",
                "modes for a tt_matrix and for nothing else",
                format!("{:?}", header.kind),
            ));
        }
        for (k, part) in header.parts.iter().enumerate() {
            let expected = Header::part_name(header.kind, k);
            if part.name != expected {
                return Err(bad("parts", expected, part.name.clone()));
            }
        }
        let file = Self { header, tensors };
        file.check_names_and_sum(json, text(CRC_KEY)?)?;
        Ok(file)
    }

    fn check_names_and_sum(&self, json: &str, expected: &str) -> Result<()> {
        let mut crc = Crc32::new();
        crc.update(json.as_bytes());
        let mut count = 0;
        for part in &self.header.parts {
            for name in tensor_names(&part.name, part.scheme.as_ref()) {
                crc.update(self.tensor(&name)?.data());
                count += 1;
            }
        }
        if count != self.tensors.len() {
            return Err(bad(
                "file",
                format!("{count} tensors"),
                self.tensors.len().to_string(),
            ));
        }
        if crc.hex() != expected {
            return Err(bad(CRC_KEY, crc.hex(), expected));
        }
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'a>> {
        self.tensors
            .tensor(name)
            .map_err(|_| bad(name, "a tensor of this name", "none"))
    }

    fn floats<T: Real>(self, modes: Option<MatrixModes>) -> Result<Container>
    where
        Container: From<TensorTrain<T>> + From<TtMatrix<T>> + From<Tucker<T>>,
    {
        let parts = self
            .header
            .parts
            .iter()
            .map(|p| self.float_part::<T>(&p.name, &p.shape));
        let mut parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(match (self.header.kind, modes) {
            (Kind::TtMatrix, Some(modes)) => {
                let cores = parts
                    .into_iter()
                    .map(|a| TtMatrixCore::new(axes::<_, 4, _>(a, Array4::from_shape_vec)?));
                TtMatrix::from_cores(modes, cores.collect::<Result<_>>()?)?.into()
            }
            (Kind::Tucker, _) => {
                let factors = parts
                    .split_off(1)
                    .into_iter()
                    .map(|a| axes::<_, 2, _>(a, Array2::from_shape_vec));
                let factors = factors.collect::<Result<_>>()?;
                Tucker::from_parts(parts.remove(0), factors)?.into()
            }
            _ => {
                let cores = parts
                    .into_iter()
                    .map(|a| TtCore::new(axes::<_, 3, _>(a, Array3::from_shape_vec)?));
                TensorTrain::from_cores(cores.collect::<Result<_>>()?)?.into()
            }
        })
    }

    fn float_part<T: Real>(&self, name: &str, shape: &[usize]) -> Result<ArrayD<T>> {
        let view = self.tensor(name)?;
        let dtype = if T::BYTES == 4 {
            Dtype::F32
        } else {
            Dtype::F64
        };
        check_view(name, &view, dtype, shape)?;
        let values: Vec<T> = match T::BYTES {
            4 => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| T::narrow(f32::from_le_bytes(*b).into()))
                .collect(),
            _ => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| T::narrow(f64::from_le_bytes(*b)))
                .collect(),
        };
        if values.iter().any(|x| !x.is_finite()) {
            return Err(bad(name, "finite numbers", "NaN or infinity"));
        }
        ArrayD::from_shape_vec(IxDyn(shape), values)
            .map_err(|e| bad(name, format!("shape {shape:?}"), e.to_string()))
    }

    fn quantized(self, modes: Option<MatrixModes>) -> Result<Container> {
        let parts = self
            .header
            .parts
            .iter()
            .filter_map(|p| Some((p, p.scheme?)));
        let mut parts = parts
            .map(|(p, s)| self.quantized_part(&p.name, &p.shape, s))
            .collect::<Result<Vec<_>>>()?;
        Ok(match (self.header.kind, modes) {
            (Kind::TtMatrix, Some(modes)) => QuantizedTtMatrix::from_cores(modes, parts)?.into(),
            (Kind::Tucker, _) => {
                let factors = parts.split_off(1);
                QuantizedTucker::from_parts(parts.remove(0), factors)?.into()
            }
            _ => QuantizedTensorTrain::from_cores(parts)?.into(),
        })
    }

    fn quantized_part(
        &self,
        name: &str,
        shape: &[usize],
        scheme: QuantScheme,
    ) -> Result<QuantizedTensor> {
        let elements = checked_product(shape)?;
        let codes_name = format!("{name}.codes");
        let codes = self.tensor(&codes_name)?;
        let signed = scheme.signedness() == Signedness::Signed;
        let whole = scheme.bits().get() == 8;
        let dtype = if whole && signed {
            Dtype::I8
        } else {
            Dtype::U8
        };
        let packed = quant_core::packed_len(elements, scheme.bits());
        let stored = if whole { shape.to_vec() } else { vec![packed] };
        check_view(&codes_name, &codes, dtype, &stored)?;

        let scales_name = format!("{name}.scales");
        let scales = self.tensor(&scales_name)?;
        let groups = scales.data().len() / 4;
        check_view(&scales_name, &scales, Dtype::F32, &[groups])?;
        let scales: Vec<f32> = scales
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let params = if scheme.has_zero_points() {
            let zeros_name = format!("{name}.zero_points");
            let zeros = self.tensor(&zeros_name)?;
            check_view(&zeros_name, &zeros, Dtype::I32, &[groups])?;
            let zeros = zeros
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| i32::from_le_bytes(*b))
                .collect();
            QuantParams::new(scheme, scales, zeros)?
        } else {
            QuantParams::from_scales(scheme, scales)?
        };
        Ok(QuantizedTensor::from_packed(
            shape,
            params,
            codes.data().to_vec(),
        )?)
    }
}

/// Names of the tensors of one part, in the order of the checksum.
fn tensor_names(part: &str, scheme: Option<&QuantScheme>) -> Vec<String> {
    let Some(scheme) = scheme else {
        return vec![part.to_owned()];
    };
    let mut names = vec![format!("{part}.codes"), format!("{part}.scales")];
    if scheme.has_zero_points() {
        names.push(format!("{part}.zero_points"));
    }
    names
}

fn check_view(name: &str, view: &TensorView<'_>, dtype: Dtype, shape: &[usize]) -> Result<()> {
    if view.dtype() != dtype {
        return Err(bad(
            name,
            format!("{dtype:?}"),
            format!("{:?}", view.dtype()),
        ));
    }
    if view.shape() != shape {
        return Err(bad(
            name,
            format!("shape {shape:?}"),
            format!("{:?}", view.shape()),
        ));
    }
    Ok(())
}

/// An array of D axes from one of any number.
fn axes<T: Real, const D: usize, A>(
    a: ArrayD<T>,
    build: impl Fn([usize; D], Vec<T>) -> std::result::Result<A, ndarray::ShapeError>,
) -> Result<A> {
    let found = a.shape().to_vec();
    let shape: [usize; D] = a
        .shape()
        .try_into()
        .map_err(|_| bad("parts", format!("{D} axes"), format!("shape {found:?}")))?;
    let (values, _) = a.into_raw_vec_and_offset();
    build(shape, values).map_err(|e| bad("parts", format!("{D} axes"), e.to_string()))
}
