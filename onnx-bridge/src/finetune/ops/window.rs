//! Convolution and pooling over one or two spatial axes.

use candle_core::Tensor;

use super::super::kernels::{self, BinaryOp, Pooling, Window};
use super::super::value::volume;
use super::{Call, OpError, OpFn, Outputs, one, sizes};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "Conv" => conv,
        "MaxPool" => |c| pool(c, Pooling::Max),
        "AveragePool" => |c| {
            pool(
                c,
                if c.int("count_include_pad", 0) != 0 {
                    Pooling::MeanOfTaps
                } else {
                    Pooling::MeanOfPresent
                },
            )
        },
        "GlobalAveragePool" => |c| global(c, |t, axes| t.mean_keepdim(axes)),
        "GlobalMaxPool" => |c| {
            global(c, |t, axes| {
                axes.into_iter()
                    .try_fold(t.contiguous()?, |t, at| t.max_keepdim(at))
            })
        },
        _ => return None,
    })
}

/// A per-axis attribute, with one spatial axis widened to two by `neutral` rows.
fn per_axis(
    call: &Call<'_>,
    name: &str,
    spatial: usize,
    default: usize,
    neutral: usize,
) -> Result<[usize; 2], OpError> {
    let list = match call.ints(name) {
        Some(list) => sizes(list)?,
        None => vec![default; spatial],
    };
    match (spatial, list.as_slice()) {
        (1, [a]) => Ok([neutral, *a]),
        (2, [a, b]) => Ok([*a, *b]),
        _ => Err(OpError::new(format!(
            "attribute `{name}`: expected {spatial} numbers, found {list:?}"
        ))),
    }
}

/// The windows of a node over an image of `size`.
fn window(
    call: &Call<'_>,
    size: [usize; 2],
    kernel: [usize; 2],
    spatial: usize,
) -> Result<Window, OpError> {
    let stride = per_axis(call, "strides", spatial, 1, 1)?;
    let dilation = per_axis(call, "dilations", spatial, 1, 1)?;
    let auto = call.text("auto_pad", "NOTSET")?;
    let pads = match call.ints("pads") {
        Some(list) => sizes(list)?,
        None => vec![0; 2 * spatial],
    };
    if pads.len() != 2 * spatial {
        return Err(OpError::new(format!(
            "attribute `pads`: expected {} numbers, found {pads:?}",
            2 * spatial
        )));
    }
    let ceil = call.int("ceil_mode", 0) != 0;
    let (mut before, mut output) = ([0; 2], [0; 2]);
    for k in 0..2 {
        if stride[k] == 0 || dilation[k] == 0 || kernel[k] == 0 {
            return Err(OpError::new(
                "expected strides, dilations and kernel sizes of 1 or more",
            ));
        }
        let reach = dilation[k] * (kernel[k] - 1) + 1;
        let own = k + spatial >= 2;
        let at = (k + spatial).saturating_sub(2);
        let (first, last) = match auto {
            "SAME_UPPER" | "SAME_LOWER" if own => {
                let total = ((size[k].div_ceil(stride[k])).saturating_sub(1) * stride[k] + reach)
                    .saturating_sub(size[k]);
                let small = total / 2;
                if auto == "SAME_UPPER" {
                    (small, total - small)
                } else {
                    (total - small, small)
                }
            }
            "NOTSET" if own => (pads[at], pads[at + spatial]),
            _ => (0, 0),
        };
        let room = (size[k] + first + last).checked_sub(reach).ok_or_else(|| {
            OpError::new(format!(
                "expected an image larger than the kernel, found {size:?}"
            ))
        })?;
        before[k] = first;
        output[k] = if ceil {
            room.div_ceil(stride[k])
        } else {
            room / stride[k]
        } + 1;
        // A window that would start in the padding behind the image is left out.
        if ceil && (output[k] - 1) * stride[k] >= size[k] + first {
            output[k] -= 1;
        }
    }
    Ok(Window {
        kernel,
        stride,
        dilation,
        before,
        output,
    })
}

/// `[n, c, w]` as `[n, c, 1, w]`, and how many spatial axes there were.
fn image(t: &Tensor) -> Result<(Tensor, usize), OpError> {
    match t.rank() {
        3 => Ok((t.unsqueeze(2)?, 1)),
        4 => Ok((t.clone(), 2)),
        _ => Err(OpError::new(format!(
            "expected one or two spatial axes, found {:?}",
            t.dims()
        ))),
    }
}

fn conv(call: &Call<'_>) -> Outputs {
    let (x, spatial) = image(call.floats(0)?)?;
    let (weight, _) = image(call.floats(1)?)?;
    let groups = sizes(&[call.int("group", 1)])?[0].max(1);
    let (&[n, c, h, w], &[m, per_group, kh, kw]) = (x.dims(), weight.dims()) else {
        return Err(OpError::new(format!(
            "expected images, found {:?} and {:?}",
            x.dims(),
            weight.dims()
        )));
    };
    if per_group * groups != c || m % groups != 0 {
        return Err(OpError::new(format!(
            "expected {c} channels in {groups} groups, found a weight {:?}",
            weight.dims()
        )));
    }
    let window = window(call, [h, w], [kh, kw], spatial)?;
    let pointwise = [kh, kw] == [1, 1]
        && window.stride == [1, 1]
        && window.before == [0, 0]
        && window.output == [h, w];
    let inner = per_group * kh * kw;
    let places = volume(&window.output);
    let columns = if pointwise {
        x
    } else {
        kernels::im2col(&x, window)?
    };
    let y = kernels::matmul(
        &weight.reshape((1, groups, m / groups, inner))?,
        &columns.reshape((n, groups, inner, places))?,
    )?;
    let mut shape = vec![n, m];
    shape.extend(&window.output[2 - spatial..]);
    let y = y.reshape(shape)?;
    if call.optional(2).is_none() {
        return one(y);
    }
    let mut wide = vec![1; y.rank()];
    wide[1] = m;
    one(kernels::binary(
        &y,
        &call.floats(2)?.reshape(wide)?,
        BinaryOp::Add,
    )?)
}

fn pool(call: &Call<'_>, pooling: Pooling) -> Outputs {
    if call.node.output.len() > 1 && !call.node.output[1].is_empty() {
        return Err(OpError::new("expected one output, found indices too"));
    }
    let (x, spatial) = image(call.floats(0)?)?;
    let kernel = per_axis(call, "kernel_shape", spatial, 1, 1)?;
    let window = window(call, [x.dims()[2], x.dims()[3]], kernel, spatial)?;
    let y = match pooling {
        Pooling::Max => kernels::max_pool(&x, window)?,
        _ => kernels::average_pool(&x, window, pooling)?,
    };
    one(if spatial == 1 { y.squeeze(2)? } else { y })
}

fn global(call: &Call<'_>, f: fn(&Tensor, Vec<usize>) -> candle_core::Result<Tensor>) -> Outputs {
    let x = call.floats(0)?;
    if x.rank() < 3 {
        return Err(OpError::new(format!(
            "expected [n, c, ..], found {:?}",
            x.dims()
        )));
    }
    one(f(x, (2..x.rank()).collect())?)
}
