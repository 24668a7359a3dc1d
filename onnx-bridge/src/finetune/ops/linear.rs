//! Matrix products.

use candle_core::Tensor;

use super::super::kernels::{self, BinaryOp};
use super::super::value::volume;
use super::{Back, BackFn, Call, OpError, OpFn, Outputs, one};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "MatMul" => |c| one(kernels::matmul(c.floats(0)?, c.floats(1)?)?),
        "Gemm" => gemm,
        "Einsum" => einsum,
        _ => return None,
    })
}

pub(super) fn way_back(op_type: &str) -> Option<BackFn> {
    (op_type == "MatMul").then_some(|b: &Back<'_>| {
        let (x, y) = (b.call.floats(0)?, b.call.floats(1)?);
        Ok(kernels::matmul_gradients(x, y, b.gradient, b.needed())?.into())
    })
}

fn scaled(t: Tensor, by: f32) -> Result<Tensor, OpError> {
    Ok(if by == 1.0 { t } else { (t * f64::from(by))? })
}

fn gemm(call: &Call<'_>) -> Outputs {
    let turned = |k: usize, name: &str| -> Result<Tensor, OpError> {
        let t = call.floats(k)?;
        if t.rank() != 2 {
            return Err(OpError::new(format!(
                "input {k}: expected a matrix, found {:?}",
                t.dims()
            )));
        }
        Ok(if call.int(name, 0) != 0 {
            t.t()?
        } else {
            t.clone()
        })
    };
    let product = kernels::matmul(&turned(0, "transA")?, &turned(1, "transB")?)?;
    let product = scaled(product, call.float("alpha", 1.0))?;
    if call.optional(2).is_none() {
        return one(product);
    }
    let bias = scaled(call.floats(2)?.clone(), call.float("beta", 1.0))?;
    one(kernels::binary(&product, &bias, BinaryOp::Add)?)
}

/// Einsum of one or two operands without repeated letters inside one of them and without an ellipsis.
fn einsum(call: &Call<'_>) -> Outputs {
    let equation: String = call
        .text("equation", "")?
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let (left, right) = match equation.split_once("->") {
        Some((l, r)) => (l.to_string(), r.to_string()),
        None => {
            let mut once: Vec<char> = equation.chars().filter(|c| *c != ',').collect();
            once.sort_unstable();
            let single = once
                .iter()
                .filter(|c| equation.matches(**c).count() == 1)
                .collect();
            (equation.clone(), single)
        }
    };
    let terms: Vec<Vec<char>> = left.split(',').map(|t| t.chars().collect()).collect();
    let unique = |t: &[char]| {
        t.iter()
            .enumerate()
            .all(|(i, c)| c.is_ascii_alphabetic() && !t[..i].contains(c))
    };
    let out: Vec<char> = right.chars().collect();
    if terms.len() != call.inputs.len()
        || terms.len() > 2
        || !terms.iter().all(|t| unique(t))
        || !unique(&out)
    {
        return Err(OpError::new(format!(
            "expected an equation of at most two plain operands, found `{equation}`"
        )));
    }
    let operand = |k: usize, wanted: &[char]| -> Result<Tensor, OpError> {
        let t = call.floats(k)?;
        if t.rank() != terms[k].len() {
            return Err(OpError::new(format!(
                "input {k}: expected {} axes, found {:?}",
                terms[k].len(),
                t.dims()
            )));
        }
        let gone: Vec<usize> = (0..terms[k].len())
            .filter(|&i| !wanted.contains(&terms[k][i]))
            .collect();
        let t = if gone.is_empty() {
            t.clone()
        } else {
            t.sum_keepdim(gone.clone())?
        };
        let kept: Vec<char> = terms[k]
            .iter()
            .copied()
            .filter(|c| wanted.contains(c))
            .collect();
        let shape: Vec<usize> = (0..t.rank())
            .filter(|i| !gone.contains(i))
            .map(|i| t.dims()[i])
            .collect();
        let order: Vec<usize> = wanted
            .iter()
            .filter_map(|c| kept.iter().position(|k| k == c))
            .collect();
        Ok(t.reshape(shape)?.permute(order)?)
    };
    if terms.len() == 1 {
        return one(operand(0, &out)?.contiguous()?);
    }
    let (a, b) = (&terms[0], &terms[1]);
    let in_out = |c: &&char| out.contains(c);
    let batch: Vec<char> = out
        .iter()
        .copied()
        .filter(|c| a.contains(c) && b.contains(c))
        .collect();
    let inner: Vec<char> = a
        .iter()
        .copied()
        .filter(|c| b.contains(c) && !out.contains(c))
        .collect();
    let rows: Vec<char> = a
        .iter()
        .filter(in_out)
        .copied()
        .filter(|c| !b.contains(c))
        .collect();
    let columns: Vec<char> = b
        .iter()
        .filter(in_out)
        .copied()
        .filter(|c| !a.contains(c))
        .collect();
    let x = operand(0, &[batch.clone(), rows.clone(), inner.clone()].concat())?;
    let y = operand(1, &[batch.clone(), inner.clone(), columns.clone()].concat())?;
    let (nb, nr, ni) = (batch.len(), rows.len(), inner.len());
    let (xs, ys) = (x.dims().to_vec(), y.dims().to_vec());
    let x = x.reshape((
        volume(&xs[..nb]),
        volume(&xs[nb..nb + nr]),
        volume(&xs[nb + nr..]),
    ))?;
    let y = y.reshape((
        volume(&ys[..nb]),
        volume(&ys[nb..nb + ni]),
        volume(&ys[nb + ni..]),
    ))?;
    let product = kernels::matmul(&x, &y)?;
    let shape = [&xs[..nb + nr], &ys[nb + ni..]].concat();
    let letters = [batch, rows, columns].concat();
    let order: Vec<usize> = out
        .iter()
        .filter_map(|c| letters.iter().position(|l| l == c))
        .collect();
    one(product.reshape(shape)?.permute(order)?)
}
