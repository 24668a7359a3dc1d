//! Convolution and pooling over one or two spatial axes.

use candle_core::Tensor;

use super::super::kernels::{self, BinaryOp, Pooling, Window};
use super::super::value::volume;
use super::{Call, OpError, OpFn, Outputs, one, sizes};

pub(super) fn lookup(op_type: &str) -> Option<OpFn> {
    Some(match op_type {
        "Conv" => conv,
        "ConvTranspose" => conv_transpose,
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
    biased(call, y.reshape(shape)?)
}

/// `[n, m, ..]` and a bias for each channel, where the node has one.
fn biased(call: &Call<'_>, y: Tensor) -> Outputs {
    if call.optional(2).is_none() {
        return one(y);
    }
    let mut wide = vec![1; y.rank()];
    wide[1] = y.dims()[1];
    one(kernels::binary(
        &y,
        &call.floats(2)?.reshape(wide)?,
        BinaryOp::Add,
    )?)
}

/// Every input element makes a window of the output; where windows overlap, they add up.
fn conv_transpose(call: &Call<'_>) -> Outputs {
    let (x, spatial) = image(call.floats(0)?)?;
    let (weight, _) = image(call.floats(1)?)?;
    let groups = sizes(&[call.int("group", 1)])?[0].max(1);
    let (&[n, c, h, w], &[channels, per_group, kh, kw]) = (x.dims(), weight.dims()) else {
        return Err(OpError::new(format!(
            "expected images, found {:?} and {:?}",
            x.dims(),
            weight.dims()
        )));
    };
    if channels != c || c % groups != 0 {
        return Err(OpError::new(format!(
            "expected a weight of {c} channels in {groups} groups, found {:?}",
            weight.dims()
        )));
    }
    let (window, size) = spread(call, [h, w], [kh, kw], spatial)?;
    let own = c / groups;
    let kernel = weight.reshape((1, groups, own, per_group * kh * kw))?;
    let columns = kernels::matmul(
        &kernel.transpose(2, 3)?,
        &x.reshape((n, groups, own, h * w))?,
    )?;
    let columns = columns.reshape((n, groups * per_group * kh * kw, h * w))?;
    let y = kernels::col2im(&columns, window, size)?;
    biased(call, if spatial == 1 { y.squeeze(2)? } else { y })
}

/// The windows that a transposed convolution makes of an image of `size`, and the size of what they lie in.
fn spread(
    call: &Call<'_>,
    size: [usize; 2],
    kernel: [usize; 2],
    spatial: usize,
) -> Result<(Window, [usize; 2]), OpError> {
    let stride = per_axis(call, "strides", spatial, 1, 1)?;
    let dilation = per_axis(call, "dilations", spatial, 1, 1)?;
    let extra = per_axis(call, "output_padding", spatial, 0, 0)?;
    let auto = call.text("auto_pad", "NOTSET")?;
    let same = auto.starts_with("SAME");
    let pads = match call.ints("pads") {
        Some(list) if auto == "NOTSET" => sizes(list)?,
        _ => vec![0; 2 * spatial],
    };
    let wanted = match call.ints("output_shape") {
        Some(list) => Some(sizes(&list[list.len().saturating_sub(spatial)..])?),
        None => None,
    };
    let counts = [Some(pads.len()), wanted.as_ref().map(|w| 2 * w.len())];
    if counts.iter().flatten().any(|&found| found != 2 * spatial) {
        return Err(OpError::new(format!(
            "expected `pads` of {} numbers and an `output_shape` of {spatial}, found {pads:?} and {wanted:?}",
            2 * spatial
        )));
    }
    let (mut before, mut output) = ([0; 2], [1; 2]);
    for k in (2 - spatial)..2 {
        let at = k + spatial - 2;
        if stride[k] == 0 || dilation[k] == 0 || kernel[k] == 0 {
            return Err(OpError::new(
                "expected strides, dilations and kernel sizes of 1 or more",
            ));
        }
        let reach = dilation[k] * (kernel[k] - 1) + 1;
        let whole = size[k].saturating_sub(1) * stride[k] + extra[k] + reach;
        let room = |cut: usize| {
            whole.checked_sub(cut).ok_or_else(|| {
                OpError::new(format!(
                    "expected at most {whole} elements of padding, found {cut}"
                ))
            })
        };
        let same = same.then(|| size[k] * stride[k]);
        (before[k], output[k]) = match wanted.as_ref().map(|w| w[at]).or(same) {
            Some(given) => {
                let cut = room(given)?;
                let small = cut / 2;
                let first = if auto == "SAME_UPPER" {
                    small
                } else {
                    cut - small
                };
                (first, given)
            }
            None => (pads[at], room(pads[at] + pads[at + spatial])?),
        };
    }
    let window = Window {
        kernel,
        stride,
        dilation,
        before,
        output: size,
    };
    Ok((window, output))
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
