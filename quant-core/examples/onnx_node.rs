//! ONNX's quantization operators on stdin, for the interop suite: one JSON case per line in, one result per line out.
//!
//! A case has `op` and the operator's inputs as `{"shape": [..], "data": [..]}`; quantized tensors also have `bits` and
//! `signed`. A result has `outputs` in the operator's order, or `error`.
//!
//! ```text
//! echo '{"op": "DynamicQuantizeLinear", "x": {"shape": [2], "data": [-1, 3]}}' | cargo run -p quant-core --example onnx_node
//! ```
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::io::BufRead;

use quant_core::{
    Bits, Granularity, MatrixLayout, PackedMatrix, QuantParams, QuantScheme, QuantizedTensor,
    Signedness,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Floats {
    shape: Vec<usize>,
    data: Vec<f32>,
}

#[derive(Deserialize, Serialize)]
struct Codes {
    shape: Vec<usize>,
    data: Vec<i32>,
    bits: u8,
    signed: Signed,
}

#[derive(Deserialize, Serialize, Clone, Copy)]
#[serde(from = "bool", into = "bool")]
struct Signed(Signedness);

impl From<bool> for Signed {
    fn from(signed: bool) -> Self {
        Signed(if signed {
            Signedness::Signed
        } else {
            Signedness::Unsigned
        })
    }
}

impl From<Signed> for bool {
    fn from(signed: Signed) -> bool {
        signed.0 == Signedness::Signed
    }
}

#[derive(Deserialize)]
#[serde(tag = "op")]
enum Case {
    QuantizeLinear {
        x: Floats,
        scale: Floats,
        zero_point: Codes,
        axis: usize,
        block_size: usize,
    },
    DequantizeLinear {
        x: Codes,
        scale: Floats,
        zero_point: Codes,
        axis: usize,
        block_size: usize,
    },
    DynamicQuantizeLinear {
        x: Floats,
    },
    MatMulInteger {
        a: Codes,
        b: Codes,
        a_zero_point: Vec<i32>,
        b_zero_point: Vec<i32>,
    },
    QLinearMatMul {
        a: Codes,
        b: Codes,
        a_zero_point: Vec<i32>,
        b_zero_point: Vec<i32>,
        a_scale: f32,
        b_scale: f32,
        y_scale: f32,
        y_zero_point: Codes,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Output {
    Floats { shape: Vec<usize>, data: Vec<f32> },
    Codes(Codes),
}

type Outcome<T> = Result<T, Box<dyn Error>>;

/// ONNX's parameters: a scalar scale is one for the tensor, a vector one per index of the axis, else blocks.
fn params(
    scale: &Floats,
    zero_point: &Codes,
    axis: usize,
    block_size: usize,
) -> Outcome<QuantParams> {
    let granularity = match (scale.shape.len(), block_size) {
        (_, 1..) => Granularity::per_block(axis, block_size)?,
        (0, _) => Granularity::PerTensor,
        _ => Granularity::per_axis(axis),
    };
    let scheme = QuantScheme::affine(Bits::new(zero_point.bits)?)
        .with_signedness(zero_point.signed.0)
        .with_granularity(granularity);
    Ok(QuantParams::new(
        scheme,
        scale.data.clone(),
        zero_point.data.clone(),
    )?)
}

fn codes(q: &QuantizedTensor) -> Codes {
    let scheme = q.scheme();
    Codes {
        shape: q.shape().to_vec(),
        data: q.codes(),
        bits: scheme.bits().get(),
        signed: Signed(scheme.signedness()),
    }
}

/// The batched product: leading axes of both operands are the same, or `b` has none.
fn product(
    a: &Codes,
    b: &Codes,
    a_zero: &[i32],
    b_zero: &[i32],
) -> Outcome<(Vec<usize>, Vec<i32>)> {
    let [lead @ .., m, k] = a.shape.as_slice() else {
        return Err("a needs two axes".into());
    };
    let [b_lead @ .., b_k, n] = b.shape.as_slice() else {
        return Err("b needs two axes".into());
    };
    if k != b_k || !(b_lead.is_empty() || b_lead == lead) {
        return Err(format!("shapes {:?} and {:?} do not multiply", a.shape, b.shape).into());
    }
    let bytes = |codes: &[i32]| codes.iter().map(|&c| c as u8).collect::<Vec<_>>();
    let mut out = Vec::new();
    for i in 0..lead.iter().product() {
        let j = if b_lead.is_empty() { 0 } else { i };
        let matrix = bytes(&b.data[j * k * n..][..k * n]);
        let packed =
            PackedMatrix::new(&matrix, [*k, *n], MatrixLayout::InByOut, b.signed.0, b_zero)?;
        let mut y = vec![0; m * n];
        packed.matmul(
            &bytes(&a.data[i * m * k..][..m * k]),
            a.signed.0,
            a_zero,
            &mut y,
        )?;
        out.append(&mut y);
    }
    Ok(([lead, &[*m, *n]].concat(), out))
}

fn run(case: Case) -> Outcome<Vec<Output>> {
    Ok(match case {
        Case::QuantizeLinear {
            x,
            scale,
            zero_point,
            axis,
            block_size,
        } => {
            let params = params(&scale, &zero_point, axis, block_size)?;
            let q = QuantizedTensor::quantize_with(&x.data, &x.shape, params)?;
            vec![Output::Codes(codes(&q))]
        }
        Case::DequantizeLinear {
            x,
            scale,
            zero_point,
            axis,
            block_size,
        } => {
            let params = params(&scale, &zero_point, axis, block_size)?;
            let q = QuantizedTensor::from_codes(&x.shape, params, &x.data)?;
            vec![Output::Floats {
                data: q.dequantize(),
                shape: x.shape,
            }]
        }
        Case::DynamicQuantizeLinear { x } => {
            let q = QuantizedTensor::quantize(&x.data, &x.shape, &QuantScheme::affine(Bits::B8))?;
            let mut zero_point = codes(&q);
            (zero_point.shape, zero_point.data) = (Vec::new(), q.params().zero_points().to_vec());
            let scale = Output::Floats {
                shape: Vec::new(),
                data: q.params().scales().to_vec(),
            };
            vec![Output::Codes(codes(&q)), scale, Output::Codes(zero_point)]
        }
        Case::MatMulInteger {
            a,
            b,
            a_zero_point,
            b_zero_point,
        } => {
            let (shape, data) = product(&a, &b, &a_zero_point, &b_zero_point)?;
            vec![Output::Codes(Codes {
                shape,
                data,
                bits: 32,
                signed: Signed(Signedness::Signed),
            })]
        }
        Case::QLinearMatMul {
            a,
            b,
            a_zero_point,
            b_zero_point,
            a_scale,
            b_scale,
            y_scale,
            y_zero_point,
        } => {
            let (shape, sums) = product(&a, &b, &a_zero_point, &b_zero_point)?;
            // The product's real values, requantized: scales of one tensor each.
            let scheme = QuantScheme::affine(Bits::new(y_zero_point.bits)?)
                .with_signedness(y_zero_point.signed.0);
            let params = QuantParams::new(scheme, vec![1.0], y_zero_point.data)?;
            let factor = a_scale * b_scale / y_scale;
            let steps: Vec<f32> = sums.iter().map(|&s| s as f32 * factor).collect();
            let q = QuantizedTensor::quantize_with(&steps, &shape, params)?;
            vec![Output::Codes(codes(&q))]
        }
    })
}

fn main() -> Outcome<()> {
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)
            .map_err(Into::into)
            .and_then(run)
        {
            Ok(outputs) => serde_json::json!({ "outputs": outputs }),
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        println!("{answer}");
    }
    Ok(())
}
