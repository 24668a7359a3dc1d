//! Writing a container.

use std::io::Write;

use quant_core::{QuantizedTensor, Signedness};
use serde_json::{Map, Value, json};

use super::Container;
use super::header::{CRC_KEY, Crc32, Header, KEY, Kind, Modes, Part, VERSION, bad};
use crate::error::Result;
use crate::matrix::TtMatrix;
use crate::scalar::Real;
use crate::train::TensorTrain;
use crate::tucker::Tucker;

/// One tensor of the file.
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Parts and tensors collected in order.
#[derive(Default)]
struct Contents {
    parts: Vec<Part>,
    tensors: Vec<Tensor>,
}

impl Contents {
    fn float<T: Real>(&mut self, kind: Kind, shape: &[usize], values: &[T]) {
        let name = Header::part_name(kind, self.parts.len());
        let bytes = match T::BYTES {
            4 => values
                .iter()
                .flat_map(|x| (x.widen() as f32).to_le_bytes())
                .collect(),
            _ => values
                .iter()
                .flat_map(|x| x.widen().to_le_bytes())
                .collect(),
        };
        self.tensors.push(Tensor {
            name: name.clone(),
            dtype: T::DTYPE,
            shape: shape.to_vec(),
            bytes,
        });
        self.parts.push(Part {
            name,
            shape: shape.to_vec(),
            scheme: None,
        });
    }

    fn quantized(&mut self, kind: Kind, tensor: &QuantizedTensor) {
        let name = Header::part_name(kind, self.parts.len());
        let (scheme, params) = (*tensor.scheme(), tensor.params());
        let packed = tensor.packed_bytes().to_vec();
        let (dtype, shape) = match (scheme.bits().get(), scheme.signedness()) {
            (8, Signedness::Signed) => ("I8", tensor.shape().to_vec()),
            (8, Signedness::Unsigned) => ("U8", tensor.shape().to_vec()),
            _ => ("U8", vec![packed.len()]),
        };
        self.tensors.push(Tensor {
            name: format!("{name}.codes"),
            dtype,
            shape,
            bytes: packed,
        });
        let scales: Vec<u8> = params
            .scales()
            .iter()
            .flat_map(|s| s.to_le_bytes())
            .collect();
        self.tensors.push(Tensor {
            name: format!("{name}.scales"),
            dtype: "F32",
            shape: vec![params.scales().len()],
            bytes: scales,
        });
        if scheme.has_zero_points() {
            let zeros = params.zero_points();
            self.tensors.push(Tensor {
                name: format!("{name}.zero_points"),
                dtype: "I32",
                shape: vec![zeros.len()],
                bytes: zeros.iter().flat_map(|z| z.to_le_bytes()).collect(),
            });
        }
        self.parts.push(Part {
            name,
            shape: tensor.shape().to_vec(),
            scheme: Some(scheme),
        });
    }

    fn train<T: Real>(&mut self, train: &TensorTrain<T>) {
        train
            .cores()
            .iter()
            .for_each(|c| self.float(Kind::TensorTrain, c.view().shape(), c.as_slice()));
    }

    fn matrix<T: Real>(&mut self, matrix: &TtMatrix<T>) {
        matrix
            .cores()
            .iter()
            .for_each(|c| self.float(Kind::TtMatrix, &c.shape(), c.as_slice()));
    }

    fn tucker<T: Real>(&mut self, tucker: &Tucker<T>) {
        let core = tucker.core();
        self.float(
            Kind::Tucker,
            core.shape(),
            core.as_slice().expect("a core is row-major"),
        );
        for factor in tucker.factors() {
            self.float(
                Kind::Tucker,
                factor.shape(),
                factor.as_slice().expect("a factor is row-major"),
            );
        }
    }
}

impl Container {
    /// Writes the container; equal contents give equal bytes.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write(&self, writer: &mut impl Write) -> Result<()> {
        let mut contents = Contents::default();
        let (kind, modes) = match self {
            Self::TensorTrain(t) => {
                contents.train(t);
                (Kind::TensorTrain, None)
            }
            Self::TensorTrainF64(t) => {
                contents.train(t);
                (Kind::TensorTrain, None)
            }
            Self::TtMatrix(m) => {
                contents.matrix(m);
                (Kind::TtMatrix, Some(Modes::of(m.modes())))
            }
            Self::TtMatrixF64(m) => {
                contents.matrix(m);
                (Kind::TtMatrix, Some(Modes::of(m.modes())))
            }
            Self::Tucker(t) => {
                contents.tucker(t);
                (Kind::Tucker, None)
            }
            Self::TuckerF64(t) => {
                contents.tucker(t);
                (Kind::Tucker, None)
            }
            Self::QuantizedTensorTrain(t) => {
                t.cores()
                    .iter()
                    .for_each(|c| contents.quantized(Kind::TensorTrain, c));
                (Kind::TensorTrain, None)
            }
            Self::QuantizedTtMatrix(m) => {
                m.cores()
                    .iter()
                    .for_each(|c| contents.quantized(Kind::TtMatrix, c));
                (Kind::TtMatrix, Some(Modes::of(m.modes())))
            }
            Self::QuantizedTucker(t) => {
                contents.quantized(Kind::Tucker, t.core());
                t.factors()
                    .iter()
                    .for_each(|f| contents.quantized(Kind::Tucker, f));
                (Kind::Tucker, None)
            }
        };
        let header = Header {
            version: VERSION,
            kind,
            modes,
            parts: contents.parts,
        };
        let header = serde_json::to_string(&header)
            .map_err(|e| bad("header", "what JSON can hold", e.to_string()))?;
        write_file(writer, &header, contents.tensors)
    }
}

fn write_file(writer: &mut impl Write, header: &str, mut tensors: Vec<Tensor>) -> Result<()> {
    let mut crc = Crc32::new();
    crc.update(header.as_bytes());
    tensors.iter().for_each(|t| crc.update(&t.bytes));
    // Widest elements first keeps every tensor aligned; the sort is stable.
    tensors.sort_by_key(|t| std::cmp::Reverse(width(t.dtype)));
    let mut outer = Map::new();
    outer.insert(
        "__metadata__".into(),
        json!({ KEY: header, CRC_KEY: crc.hex() }),
    );
    let mut offset = 0;
    for t in &tensors {
        let end = offset + t.bytes.len();
        let entry = json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": [offset, end] });
        outer.insert(t.name.clone(), entry);
        offset = end;
    }
    let mut outer = Value::Object(outer).to_string().into_bytes();
    outer.resize(outer.len().next_multiple_of(8), b' ');
    writer.write_all(&(outer.len() as u64).to_le_bytes())?;
    writer.write_all(&outer)?;
    for t in &tensors {
        writer.write_all(&t.bytes)?;
    }
    Ok(())
}

fn width(dtype: &str) -> usize {
    match dtype {
        "F64" => 8,
        "F32" | "I32" => 4,
        _ => 1,
    }
}
