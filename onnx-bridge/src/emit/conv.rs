//! The kernels of convolutions: one Conv node for each core of their train, or one for dense codes.

use quant_core::QuantizedTensor;

use super::{Emitter, Operand};
#[cfg(feature = "tract")]
use crate::blocks::BlockMatrix;
use crate::conv_layer::{ConvLayer, ConvOp};
use crate::network::Network;
use crate::proto::DataType;
use crate::skip::SkipReason;
use crate::view::GraphView;

/// A node of a chain, whose weight stands in the graph.
#[derive(Debug, Clone)]
struct Link {
    op: &'static str,
    /// The spatial axes whose window it takes.
    axes: Vec<usize>,
    groups: usize,
    weight: String,
}

/// A kernel whose arrays stand in the graph.
#[derive(Debug, Clone)]
pub(crate) struct PlacedKernel {
    links: Vec<Link>,
}

/// The arrays of a kernel's network in the order of the chain, each as a matrix out by in.
fn operands(network: &Network) -> Result<Vec<Operand>, SkipReason> {
    // A core `[r, m, n, r']` is `[(r' m), (r n)]`: m is the outputs in the last core and 1 in all others.
    let core = |core: &QuantizedTensor| Operand::new(core, &[3, 1, 0, 2], 2);
    match network {
        Network::Dense(matrix) => Ok(vec![Operand::new(matrix, &[0, 1], 1)]),
        Network::Tt(train) => Ok(train.cores().iter().map(core).collect()),
        Network::Tucker(_) | Network::Table(_) | Network::TableTrain(_) => {
            Err(SkipReason::Misfit {
                problem: "expected a train or dense codes for a kernel, found another network"
                    .into(),
            })
        }
    }
}

/// The bytes of the initializers that [`place_kernel`] makes, but for those that all layers share.
pub(crate) fn kernel_bytes(network: &Network) -> Result<u64, SkipReason> {
    Ok(operands(network)?.iter().map(Operand::stored_bytes).sum())
}

/// Stores the arrays of a kernel's network under names that start with `prefix`.
pub(crate) fn place_kernel(
    e: &mut Emitter,
    prefix: &str,
    layer: &ConvLayer,
    network: &Network,
) -> Result<PlacedKernel, SkipReason> {
    let operands = operands(network)?;
    let dense = operands.len() == 1;
    chain(e, layer, operands.len(), |e, k, (op, groups), window| {
        let name = if dense {
            format!("{prefix}/weight")
        } else {
            format!("{prefix}/core{k}")
        };
        let operand = &operands[k];
        let shape = stored_shape(operand.matrix(), (op, groups), window);
        let whole = operand.place_as(e, &name, &shape)?;
        Ok(turned(e, &name, whole, (op, groups), &shape, window))
    })
}

/// Stores the parts of a kernel on few levels, each out by in, in the order of the chain.
#[cfg(feature = "tract")]
pub(crate) fn place_parts(
    e: &mut Emitter,
    prefix: &str,
    layer: &ConvLayer,
    parts: &[&BlockMatrix],
) -> Result<PlacedKernel, SkipReason> {
    chain(e, layer, parts.len(), |e, k, (op, groups), window| {
        let name = match parts {
            [_] => prefix.to_string(),
            _ => format!("{prefix}/{k}"),
        };
        let value = super::blocks::joined(e, &name, parts[k])?;
        let shape = stored_shape(parts[k].shape(), (op, groups), window);
        let dims: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let whole = e.reshape(&format!("{name}/k"), &value, &dims);
        Ok(turned(e, &name, whole, (op, groups), &shape, window))
    })
}

/// A chain of so many nodes, whose weights `place` makes: given the number of the node, its operator and groups, and its
/// window.
fn chain(
    e: &mut Emitter,
    layer: &ConvLayer,
    nodes: usize,
    mut place: impl FnMut(&mut Emitter, usize, (ConvOp, usize), &[usize]) -> Result<String, SkipReason>,
) -> Result<PlacedKernel, SkipReason> {
    let groups = if nodes == 1 { layer.groups() } else { 1 };
    let mut links = Vec::with_capacity(nodes);
    for (k, axes) in layer.chain(nodes).into_iter().enumerate() {
        let op = match layer.op() {
            ConvOp::ConvTranspose if !axes.is_empty() => ConvOp::ConvTranspose,
            _ => ConvOp::Conv,
        };
        let weight = place(e, k, (op, groups), &layer.window(&axes))?;
        let op = match op {
            ConvOp::Conv => "Conv",
            ConvOp::ConvTranspose => "ConvTranspose",
        };
        links.push(Link {
            op,
            axes,
            groups,
            weight,
        });
    }
    Ok(PlacedKernel { links })
}

/// The shape in which a matrix out by in is stored: its operator's own, or one that a Transpose turns into that.
fn stored_shape(
    [out, inner]: [usize; 2],
    (op, groups): (ConvOp, usize),
    window: &[usize],
) -> Vec<usize> {
    let taps: usize = window.iter().product();
    let channels = inner / taps.max(1);
    match op {
        ConvOp::Conv => [out, channels].iter().chain(window).copied().collect(),
        ConvOp::ConvTranspose => vec![groups, out / groups.max(1), channels, taps],
    }
}

/// A stored weight as its operator reads it.
fn turned(
    e: &mut Emitter,
    name: &str,
    whole: String,
    (op, groups): (ConvOp, usize),
    shape: &[usize],
    window: &[usize],
) -> String {
    if op == ConvOp::Conv {
        return whole;
    }
    let turned = e.transpose(&format!("{name}/turn"), &whole, &[0, 2, 1, 3]);
    let dims = [groups * shape[2], shape[1]];
    let dims: Vec<i64> = dims.iter().chain(window).map(|&n| n as i64).collect();
    e.reshape(&format!("{name}/kernel"), &turned, &dims)
}

/// Emits the nodes of one convolution; the last one makes its own output.
pub(crate) fn emit_kernel(
    e: &mut Emitter,
    view: &GraphView<'_>,
    layer: &ConvLayer,
    prefix: &str,
    placed: &PlacedKernel,
) {
    let element = layer.element();
    let mut x = layer.input().to_string();
    let mut bias = layer.bias().map(str::to_string);
    if element != DataType::Float {
        x = e.cast(&format!("{prefix}/input/f32"), &x, DataType::Float);
        bias = bias.map(|b| e.cast(&format!("{prefix}/bias/f32"), &b, DataType::Float));
    }
    let last = placed.links.len() - 1;
    for (k, link) in placed.links.iter().enumerate() {
        let name = if k == last {
            format!("{prefix}/output")
        } else {
            format!("{prefix}/step{k}")
        };
        let mut inputs = vec![x.as_str(), &link.weight];
        inputs.extend(bias.as_deref().filter(|_| k == last));
        let attributes = layer.attributes(view, &link.axes, link.groups);
        x = e.node(link.op, &name, &inputs, attributes);
    }
    if element != DataType::Float {
        e.cast(&format!("{prefix}/output/cast"), &x, element);
    }
    if let Some(node) = e.nodes.last_mut() {
        node.output = vec![layer.output().to_string()];
    }
}
