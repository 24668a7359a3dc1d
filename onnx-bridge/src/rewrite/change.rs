//! A network in the place of a weight: the nodes and initializers that a patch adds for it and takes away.

use std::collections::BTreeSet;

use prost::Message;

use super::Rewritten;
use crate::choice::Growth;
use crate::conv_layer::ConvLayer;
use crate::dense_layer::DenseLayer;
use crate::emit::{self, Emitter};
use crate::in_place::Way;
use crate::inspect::Format;
use crate::network::Network;
use crate::patch::GraphPatch;
use crate::proto::{NodeProto, TensorProto};
use crate::skip::SkipReason;
use crate::view::GraphView;
use crate::weight::{Role, Weight};

/// The name that what replaces a weight starts with.
fn prefix(weight: &str, format: Format) -> String {
    format!("{weight}/{}", format.name())
}

/// What the nodes and initializers of one weight take the place of.
#[derive(Debug, Default)]
struct Change {
    inserted: Vec<(usize, Vec<NodeProto>)>,
    removed: BTreeSet<usize>,
}

pub(super) fn emit(
    emitter: &mut Emitter,
    view: &GraphView<'_>,
    (weight, growth): (&Weight<'_>, Growth),
    rewritten: &Rewritten,
    patch: &mut GraphPatch,
) -> Result<(), SkipReason> {
    let mark = emitter.mark();
    let made = change(emitter, view, weight, rewritten).and_then(|change| {
        let added = &emitter.initializers[mark.1..];
        match growth {
            Growth::Refused => check_gain(view, weight, &change, added).map(|()| change),
            Growth::Allowed => Ok(change),
        }
    });
    let change = match made {
        Ok(change) => change,
        Err(reason) => {
            emitter.reset(mark);
            return Err(reason);
        }
    };
    for (place, nodes) in change.inserted {
        patch.insert_before(place, nodes);
    }
    change
        .removed
        .into_iter()
        .for_each(|node| patch.remove_node(node));
    if view.initializer(weight.name()).is_some() {
        patch.remove_initializer(weight.name());
    }
    Ok(())
}

fn change(
    emitter: &mut Emitter,
    view: &GraphView<'_>,
    weight: &Weight<'_>,
    rewritten: &Rewritten,
) -> Result<Change, SkipReason> {
    let prefix = prefix(weight.name(), rewritten.format);
    let mut change = Change::default();
    let role = match Way::of(view, weight)? {
        Way::Layers(role) => role,
        Way::InPlace(stored) => {
            let Network::Dense(matrix) = &rewritten.network else {
                return Err(SkipReason::Misfit {
                    problem: "expected dense codes, found a network".to_string(),
                });
            };
            emit::place_stored(emitter, &prefix, matrix, (weight.name(), &stored))?;
            change
                .inserted
                .push((stored.first_use(), emitter.take_nodes()));
            change.removed.extend(stored.producer());
            return Ok(change);
        }
    };
    let placed = place(emitter, role, &prefix, &rewritten.network)?;
    let nodes = role.nodes();
    for (k, &node) in nodes.iter().enumerate() {
        match &placed {
            Standing::Matrix(layers, placed) => {
                emit::emit_layer(emitter, view, &layers[k], &prefix, placed);
            }
            Standing::Kernel(layers, placed) => {
                emit::emit_kernel(emitter, view, &layers[k], &prefix, placed);
            }
            Standing::Table(placed) => {
                emit::emit_lookup(emitter, view, node, &format!("{prefix}/rows"), placed);
            }
            Standing::Train(placed) => {
                emit::emit_train_lookup(emitter, view, node, &format!("{prefix}/rows"), placed);
            }
        }
        debug_assert!(nodes[0] <= node, "uses are in the order of the nodes");
        change.inserted.push((node, emitter.take_nodes()));
        change.removed.insert(node);
    }
    change.removed.extend(role.weight_nodes());
    Ok(change)
}

/// The operators around the codes of a small weight can outweigh what it saves: then it stays, so that no file grows.
fn check_gain(
    view: &GraphView<'_>,
    weight: &Weight<'_>,
    change: &Change,
    initializers: &[TensorProto],
) -> Result<(), SkipReason> {
    let field = |bytes: usize| (1 + prost::length_delimiter_len(bytes) + bytes) as u64;
    let inputs = if view.ir_version() < 4 {
        let infos = initializers.iter().map(crate::proto::value_info);
        infos.map(|v| field(v.encoded_len())).sum()
    } else {
        0
    };
    let nodes = change.inserted.iter().flat_map(|(_, nodes)| nodes);
    let best = nodes.map(|n| field(n.encoded_len())).sum::<u64>()
        + initializers
            .iter()
            .map(|t| field(t.encoded_len()))
            .sum::<u64>()
        + inputs;
    let gone = change.removed.iter().map(|&n| view.node(n).encoded_len());
    let stored = view.initializer(weight.name()).map(Message::encoded_len);
    let bytes: u64 = gone.chain(stored).map(field).sum();
    if best < bytes {
        Ok(())
    } else {
        Err(SkipReason::NoGain { bytes, best })
    }
}

/// A network that stands in the graph, and the layers that use it.
enum Standing<'a> {
    Matrix(&'a [DenseLayer], emit::Placed),
    Kernel(&'a [ConvLayer], emit::PlacedKernel),
    Table(emit::PlacedTable),
    Train(emit::PlacedTableTrain),
}

fn place<'a>(
    emitter: &mut Emitter,
    role: &'a Role,
    prefix: &str,
    network: &Network,
) -> Result<Standing<'a>, SkipReason> {
    Ok(match role {
        Role::Dense(layers) => Standing::Matrix(layers, emit::place(emitter, prefix, network)?),
        Role::Conv(layers) => {
            let layer = layers.first().ok_or(SkipReason::Unused)?;
            let placed = emit::place_kernel(emitter, prefix, layer, network)?;
            Standing::Kernel(layers, placed)
        }
        Role::Table(_) => match network {
            Network::Table(table) => {
                let name = format!("{prefix}/table");
                let placed = emit::place_table(emitter, &name, table.left(), table.right())?;
                Standing::Table(placed)
            }
            Network::TableTrain(table) => {
                Standing::Train(emit::place_table_train(emitter, prefix, table)?)
            }
            _ => {
                return Err(SkipReason::Misfit {
                    problem: "expected the codes of a table, found another network".into(),
                });
            }
        },
    })
}
