//! Matrix trains, products with a bias, and attention as single nodes: no file has them, fusing puts them into a graph.

use candle_core::Tensor;

use super::super::kernels::{self, Attention, CoreOrder, TrainShape};
use super::super::value::volume;
use super::{Back, BackFn, Call, OpError, OpFn, Outputs, one};
use crate::proto::{self, AttributeProto, NodeProto};

/// The domain of operators that stand in no file.
const DOMAIN: &str = "tnq.finetune";

/// A node that gives `[B, M]` for `x [.., N]` and cores of the given shapes.
pub(crate) fn train_node(
    name: &str,
    input: &str,
    cores: &[&str],
    output: &str,
    shape: &TrainShape,
) -> NodeProto {
    let inputs: Vec<&str> = [input].into_iter().chain(cores.iter().copied()).collect();
    let sizes: Vec<i64> = shape.cores.iter().flatten().map(|&n| n as i64).collect();
    let backward = i64::from(shape.order == CoreOrder::Backward);
    let attributes = vec![
        proto::ints_attribute("cores", &sizes),
        proto::int_attribute("backward", backward),
    ];
    let mut node = proto::node("Train", name, &inputs, output, attributes);
    node.domain = Some(DOMAIN.into());
    node
}

/// A node that gives `x w + bias`.
pub(crate) fn linear_node(name: &str, [x, w, bias]: [&str; 3], output: &str) -> NodeProto {
    let mut node = proto::node("Linear", name, &[x, w, bias], output, Vec::new());
    node.domain = Some(DOMAIN.into());
    node
}

/// A node that gives `softmax(scale q kᵀ + mask) v`, positions before heads in all of them.
pub(crate) fn attention_node(name: &str, inputs: &[&str], scale: f32, output: &str) -> NodeProto {
    let attributes = vec![AttributeProto {
        name: Some("scale".into()),
        f: Some(scale),
        ..AttributeProto::default()
    }];
    let mut node = proto::node("Attention", name, inputs, output, attributes);
    node.domain = Some(DOMAIN.into());
    node
}

pub(super) fn lookup(domain: &str, op_type: &str) -> Option<OpFn> {
    match (domain, op_type) {
        (DOMAIN, "Train") => Some(train),
        (DOMAIN, "Linear") => Some(linear),
        (DOMAIN, "Attention") => Some(|c| one(attention(c)?.forward()?)),
        _ => None,
    }
}

pub(super) fn way_back(domain: &str, op_type: &str) -> Option<BackFn> {
    match (domain, op_type) {
        (DOMAIN, "Linear") => Some(linear_back),
        (DOMAIN, "Attention") => Some(|b| {
            let [.., of_mask] = b.needed::<4>();
            Ok(attention(&b.call)?.gradients(b.gradient, of_mask)?.into())
        }),
        _ => None,
    }
}

fn attention<'a>(call: &Call<'a>) -> Result<Attention<'a>, OpError> {
    Ok(Attention {
        queries: call.floats(0)?,
        keys: call.floats(1)?,
        values: call.floats(2)?,
        mask: call.optional(3).map(|_| call.floats(3)).transpose()?,
        scale: call.float("scale", 1.0),
    })
}

fn linear(call: &Call<'_>) -> Outputs {
    let [x, w, bias] = [call.floats(0)?, call.floats(1)?, call.floats(2)?];
    one(kernels::linear(x, w, bias)?)
}

fn linear_back(b: &Back<'_>) -> Result<Vec<Option<Tensor>>, OpError> {
    let [x, w, bias] = [b.call.floats(0)?, b.call.floats(1)?, b.call.floats(2)?];
    let [of_x, of_w, of_bias] = b.needed();
    let [dx, dw] = kernels::matmul_gradients(x, w, b.gradient, [of_x, of_w])?;
    let db = of_bias.then(|| kernels::summed(b.gradient, bias.dims()));
    Ok(vec![dx, dw, db.transpose()?])
}

fn train(call: &Call<'_>) -> Outputs {
    let sizes = call.ints("cores").unwrap_or_default();
    let shape = TrainShape {
        cores: sizes
            .chunks_exact(4)
            .map(|c| [0, 1, 2, 3].map(|k| c[k] as usize))
            .collect(),
        order: match call.int("backward", 0) {
            0 => CoreOrder::Forward,
            _ => CoreOrder::Backward,
        },
    };
    let columns: usize = shape.cores.iter().map(|c| c[2]).product();
    let x = call.floats(0)?;
    if columns == 0 || !volume(x.dims()).is_multiple_of(columns) {
        return Err(OpError::new(format!(
            "expected rows of {columns}, found {:?}",
            x.dims()
        )));
    }
    let x = x.reshape((volume(x.dims()) / columns, columns))?;
    let cores = (1..=shape.cores.len())
        .map(|k| call.floats(k).cloned())
        .collect::<Result<Vec<_>, _>>()?;
    one(kernels::train(&x, &cores, &shape)?)
}
