//! Normalizations and softmax.

use candle_core::Tensor;

use super::super::kernels::{self, BinaryOp, UnaryOp};
use super::super::value::volume;
use super::{Back, BackFn, Call, OpError, OpFn, Outputs, axis, one};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "LayerNormalization" => layer_normalization,
        "RMSNormalization" => rms_normalization,
        "BatchNormalization" => batch_normalization,
        "InstanceNormalization" => instance_normalization,
        "GroupNormalization" => group_normalization,
        "Softmax" => softmax,
        "LogSoftmax" => |c| match softmax(c)?.pop() {
            Some(super::Value::Float(t)) => one(kernels::unary(&t, UnaryOp::Log)?),
            _ => Err(OpError::new("expected floats")),
        },
        _ => return None,
    })
}

pub(super) fn way_back(op_type: &str) -> Option<BackFn> {
    Some(match op_type {
        "LayerNormalization" => layer_normalization_back,
        "Softmax" => |b: &Back<'_>| {
            let dx = over_last(&b.call, [b.output, b.gradient], |[y, g]| {
                kernels::softmax_gradient(y, g)
            })?;
            Ok(vec![Some(dx)])
        },
        _ => return None,
    })
}

fn single_output(call: &Call<'_>) -> Result<(), OpError> {
    match call.node.output.iter().skip(1).find(|o| !o.is_empty()) {
        Some(name) => Err(OpError::new(format!(
            "expected one output, found `{name}` too"
        ))),
        None => Ok(()),
    }
}

/// Scale and bias of the normalized axes, and the shape of those.
fn affine<'a>(call: &Call<'a>) -> Result<(Tensor, Tensor, &'a [usize]), OpError> {
    let (x, scale) = (call.floats(0)?, call.floats(1)?);
    let at = axis(call.int("axis", -1), x.rank())?;
    let normalized = &x.dims()[at..];
    let spread = |t: &Tensor| -> Result<Tensor, OpError> {
        Ok(if t.elem_count() == volume(normalized) {
            t.flatten_all()?
        } else {
            t.broadcast_as(normalized)?.flatten_all()?
        })
    };
    let scale = spread(scale)?;
    let bias = match call.optional(2) {
        Some(_) => spread(call.floats(2)?)?,
        None => scale.zeros_like()?,
    };
    Ok((scale, bias, normalized))
}

fn layer_normalization(call: &Call<'_>) -> Outputs {
    single_output(call)?;
    let (scale, bias, _) = affine(call)?;
    let epsilon = call.float("epsilon", 1e-5);
    one(kernels::layer_norm(
        call.floats(0)?,
        &scale,
        &bias,
        epsilon,
    )?)
}

fn layer_normalization_back(b: &Back<'_>) -> Result<Vec<Option<Tensor>>, OpError> {
    let call = &b.call;
    let (scale, bias, normalized) = affine(call)?;
    let epsilon = call.float("epsilon", 1e-5);
    let operands = [call.floats(0)?, &scale, &bias];
    let [dx, ds, db] = kernels::layer_norm_gradients(operands, epsilon, b.gradient, b.needed())?;
    let own = |g: Option<Tensor>, k: usize| -> Result<Option<Tensor>, OpError> {
        let Some(g) = g else { return Ok(None) };
        let dims = call.floats(k)?.dims();
        Ok(Some(kernels::summed(&g.reshape(normalized)?, dims)?))
    };
    Ok(vec![dx, own(ds, 1)?, own(db, 2)?])
}

fn rms_normalization(call: &Call<'_>) -> Outputs {
    let (x, scale) = (call.floats(0)?, call.floats(1)?);
    let at = axis(call.int("axis", -1), x.rank())?;
    let axes: Vec<usize> = (at..x.rank()).collect();
    let mean = kernels::unary(x, UnaryOp::Pow(2.0))?.mean_keepdim(axes)?;
    let inverse = kernels::unary(
        &(mean + f64::from(call.float("epsilon", 1e-5)))?,
        UnaryOp::Pow(-0.5),
    )?;
    let normal = kernels::binary(x, &inverse, BinaryOp::Mul)?;
    one(kernels::binary(&normal, scale, BinaryOp::Mul)?)
}

/// A vector over channels in the shape that broadcasts over `[n, c, ..]`.
fn per_channel(t: &Tensor, order: usize) -> Result<Tensor, OpError> {
    let mut shape = vec![1; order];
    shape[1] = t.elem_count();
    Ok(t.reshape(shape)?)
}

/// As at inference: with the stored mean and variance.
fn batch_normalization(call: &Call<'_>) -> Outputs {
    if call.int("training_mode", 0) != 0 {
        return Err(OpError::new(
            "expected inference mode, found training_mode = 1",
        ));
    }
    single_output(call)?;
    let x = call.floats(0)?;
    if x.rank() < 2 {
        return Err(OpError::new(format!(
            "expected [n, c, ..], found {:?}",
            x.dims()
        )));
    }
    let variance = (call.floats(4)? + f64::from(call.float("epsilon", 1e-5)))?;
    let inverse = kernels::unary(&variance, UnaryOp::Pow(-0.5))?;
    let slope = kernels::binary(call.floats(1)?, &inverse, BinaryOp::Mul)?;
    let drop = kernels::binary(call.floats(3)?, &slope, BinaryOp::Mul)?;
    let offset = kernels::binary(call.floats(2)?, &drop, BinaryOp::Sub)?;
    let y = kernels::binary(x, &per_channel(&slope, x.rank())?, BinaryOp::Mul)?;
    one(kernels::binary(
        &y,
        &per_channel(&offset, x.rank())?,
        BinaryOp::Add,
    )?)
}

/// `x` with groups of `channels / groups` channels brought to mean 0 and variance 1.
fn normalized_groups(x: &Tensor, groups: usize, epsilon: f32) -> Result<Tensor, OpError> {
    if x.rank() < 2 || groups == 0 || !x.dims()[1].is_multiple_of(groups) {
        return Err(OpError::new(format!(
            "expected channels in {groups} groups, found {:?}",
            x.dims()
        )));
    }
    let row = x.elem_count() / (x.dims()[0] * groups).max(1);
    let ones = Tensor::ones(row, candle_core::DType::F32, x.device())?;
    let flat = x.contiguous()?.reshape((x.dims()[0] * groups, row))?;
    Ok(kernels::layer_norm(&flat, &ones, &ones.zeros_like()?, epsilon)?.reshape(x.dims())?)
}

fn instance_normalization(call: &Call<'_>) -> Outputs {
    let x = call.floats(0)?;
    let groups = x.dims().get(1).copied().unwrap_or(0);
    scale_and_shift(
        call,
        &normalized_groups(x, groups, call.float("epsilon", 1e-5))?,
    )
}

fn group_normalization(call: &Call<'_>) -> Outputs {
    let x = call.floats(0)?;
    let groups = usize::try_from(call.int("num_groups", 1)).unwrap_or(0);
    let normal = normalized_groups(x, groups, call.float("epsilon", 1e-5))?;
    if call.opset >= 21 || call.floats(1)?.elem_count() == x.dims()[1] {
        return scale_and_shift(call, &normal);
    }
    Err(OpError::new(
        "expected one scale per channel, found one per group",
    ))
}

fn scale_and_shift(call: &Call<'_>, x: &Tensor) -> Outputs {
    let y = kernels::binary(x, &per_channel(call.floats(1)?, x.rank())?, BinaryOp::Mul)?;
    one(kernels::binary(
        &y,
        &per_channel(call.floats(2)?, x.rank())?,
        BinaryOp::Add,
    )?)
}

/// Tensors of the shape of the input, laid out so that softmax runs over the last axis of each, and what `f` makes of them laid out as
/// they were: from opset 13 over one axis (default the last), before over all axes from `axis` (default 1) on.
fn over_last<const N: usize>(
    call: &Call<'_>,
    tensors: [&Tensor; N],
    f: impl Fn([&Tensor; N]) -> candle_core::Result<Tensor>,
) -> Result<Tensor, OpError> {
    let dims = call.input(0)?.shape();
    let order = dims.len();
    let laid = |g: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| {
        let laid: candle_core::Result<Vec<Tensor>> = tensors.iter().map(|t| g(t)).collect();
        laid
    };
    let given = |laid: &[Tensor]| f(std::array::from_fn(|k| &laid[k]));
    if call.opset < 13 {
        let at = axis(call.int("axis", 1), order)?;
        let flat = (volume(&dims[..at]), volume(&dims[at..]));
        return Ok(given(&laid(&|t| t.contiguous()?.reshape(flat))?)?.reshape(dims)?);
    }
    let at = axis(call.int("axis", -1), order)?;
    if at + 1 == order {
        return Ok(f(tensors)?);
    }
    let turned = laid(&|t| t.transpose(at, order - 1)?.contiguous())?;
    Ok(given(&turned)?.transpose(at, order - 1)?)
}

fn softmax(call: &Call<'_>) -> Outputs {
    let x = call.floats(0)?;
    one(over_last(call, [x], |[x]| kernels::softmax_last(x))?)
}
