//! The kernels of convolutions: one Conv node for each core of their train, or one for dense codes.

use quant_core::QuantizedTensor;

use super::{Emitter, Operand};
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
        Network::Tucker(_) | Network::Table(_) => Err(SkipReason::Misfit {
            problem: "expected a train or dense codes for a kernel, found another network".into(),
        }),
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
    let chain = layer.chain(operands.len());
    let dense = operands.len() == 1;
    let mut links = Vec::with_capacity(operands.len());
    for (k, (operand, axes)) in operands.iter().zip(chain).enumerate() {
        let name = if dense {
            format!("{prefix}/weight")
        } else {
            format!("{prefix}/core{k}")
        };
        let op = match layer.op() {
            ConvOp::ConvTranspose if !axes.is_empty() => ConvOp::ConvTranspose,
            _ => ConvOp::Conv,
        };
        let groups = if dense { layer.groups() } else { 1 };
        let window = layer.window(&axes);
        let weight = place_weight(e, &name, operand, (op, groups), &window)?;
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

/// A matrix out by in as the weight of its operator.
fn place_weight(
    e: &mut Emitter,
    name: &str,
    operand: &Operand,
    (op, groups): (ConvOp, usize),
    window: &[usize],
) -> Result<String, SkipReason> {
    let taps: usize = window.iter().product();
    let [out, inner] = operand.matrix();
    let channels = inner / taps;
    let with_window = |leading: [usize; 2]| leading.into_iter().chain(window.iter().copied());
    match op {
        ConvOp::Conv => {
            operand.place_as(e, name, &with_window([out, channels]).collect::<Vec<_>>())
        }
        ConvOp::ConvTranspose => {
            let each = out / groups;
            let whole = operand.place_as(e, name, &[groups, each, channels, taps])?;
            let turned = e.transpose(&format!("{name}/turn"), &whole, &[0, 2, 1, 3]);
            let dims: Vec<i64> = with_window([groups * channels, each])
                .map(|n| n as i64)
                .collect();
            Ok(e.reshape(&format!("{name}/kernel"), &turned, &dims))
        }
    }
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
