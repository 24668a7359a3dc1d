//! Compressing a model: every weight is rewritten as its spec says, or skipped with a reason.

use std::collections::{BTreeSet, HashSet};

use ndarray::ArrayView2;
use prost::Message;
use rayon::prelude::*;
use serde::Serialize;

use crate::auto;
use crate::choice::{
    CoreGranularity, FormatRule, Growth, Job, LayerChoice, MappingChoice, NetworkChoice, Spec,
};
use crate::conv_layer::ConvLayer;
use crate::dense_layer::DenseLayer;
use crate::emit::{self, Emitter};
use crate::error::Result;
use crate::in_place::Way;
use crate::inspect::{Format, WeightInfo, info};
use crate::model::Model;
use crate::nested::{Names, each_graph};
use crate::network::Network;
use crate::patch::GraphPatch;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::skip::SkipReason;
use crate::subject::Subject;
use crate::view::GraphView;
use crate::weight::{Role, Weight};

/// The most bytes of weights that are built at the same time, so that memory follows the largest weight and not the model.
const SIDE_BY_SIDE: u64 = 128 << 20;

/// What a weight became.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Rewritten {
    /// The form.
    pub format: Format,
    /// `interleaved` or `split`, of a train.
    pub layout: Option<&'static str>,
    /// Row (output) modes of a train.
    pub row_modes: Vec<usize>,
    /// Column (input) modes of a train.
    pub col_modes: Vec<usize>,
    /// See [`Network::ranks`].
    pub ranks: Vec<usize>,
    /// Bits of a code.
    pub bits: u8,
    /// Symmetric or affine.
    pub mapping: MappingChoice,
    /// Which codes share a scale.
    pub granularity: CoreGranularity,
    /// Stored codes.
    pub parameters: usize,
    /// The bytes of its codes, scales and zero points in the file.
    pub bytes: u64,
    /// `||W - W~|| / ||W||` in the Frobenius norm, decomposition and quantization together; 0 for a zero matrix.
    pub error: f64,
    /// The codes themselves.
    #[serde(skip)]
    pub network: Network,
}

/// What happened to one weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It became a network.
    Rewritten(Box<Rewritten>),
    /// It stays.
    Skipped(SkipReason),
}

/// One weight of the model and what happened to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RewriteEntry {
    /// The weight as it was.
    pub weight: WeightInfo,
    /// What happened to it.
    pub outcome: Outcome,
}

/// One entry for every weight of a model, in the order of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RewriteReport {
    /// The bytes of the original in one file.
    pub bytes_before: u64,
    /// The bytes of the rewritten model in one file.
    pub bytes_after: u64,
    /// The weights.
    pub weights: Vec<RewriteEntry>,
}

impl RewriteReport {
    /// The weights that became networks, with their names.
    pub fn rewritten(&self) -> impl Iterator<Item = (&str, &Rewritten)> {
        self.weights
            .iter()
            .filter_map(|entry| match &entry.outcome {
                Outcome::Rewritten(rewritten) => {
                    Some((entry.weight.name.as_str(), rewritten.as_ref()))
                }
                Outcome::Skipped(_) => None,
            })
    }

    /// The weights that stay, with their reasons.
    pub fn skipped(&self) -> impl Iterator<Item = (&str, &SkipReason)> {
        self.weights
            .iter()
            .filter_map(|entry| match &entry.outcome {
                Outcome::Rewritten(_) => None,
                Outcome::Skipped(reason) => Some((entry.weight.name.as_str(), reason)),
            })
    }
}

/// Rewrites a model as a job says.
///
/// # Numerics
/// Deterministic: the same model and job give the same bytes.
///
/// # Errors
/// Those of [`Model::from_proto`], should the result break a rule of ONNX; a weight that cannot be rewritten is an entry
/// of the report.
pub fn compress(model: &Model, job: &Job) -> Result<(Model, RewriteReport)> {
    compress_with(model, job, &|_| {})
}

/// As [`compress`], calling `progress` with the name of every weight that is done, in no fixed order.
///
/// # Errors
/// As [`compress`].
pub fn compress_with(
    model: &Model,
    job: &Job,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(Model, RewriteReport)> {
    let file_bytes = model.encoded_len();
    let mut work = Work {
        job,
        progress,
        file_bytes,
        taken: all_names(model),
        names: Names::default(),
        entries: Vec::new(),
    };
    let rewritten = each_graph(model, &mut |graph, place| work.graph(graph, place))?;
    let rewritten = rewritten.unwrap_or_else(|| model.clone());
    let report = RewriteReport {
        bytes_before: file_bytes,
        bytes_after: rewritten.encoded_len(),
        weights: work.entries,
    };
    Ok((rewritten, report))
}

/// A job under way, graph by graph.
struct Work<'j> {
    job: &'j Job,
    progress: &'j (dyn Fn(&str) + Sync),
    file_bytes: u64,
    /// Every name of the model: new ones must differ from those around a subgraph and inside it.
    taken: HashSet<String>,
    names: Names,
    entries: Vec<RewriteEntry>,
}

impl Work<'_> {
    /// Rewrites one graph; `None` where nothing changes.
    fn graph(&mut self, model: &Model, place: &str) -> Result<Option<Model>> {
        let view = GraphView::new(model);
        let weights = Weight::all(&view);
        let infos: Vec<WeightInfo> = weights
            .iter()
            .map(|w| {
                let name = self.names.of(place, w.name());
                info(&view, w, (name, place), self.file_bytes)
            })
            .collect();
        let mut built: Vec<Result<Rewritten, SkipReason>> = Vec::with_capacity(weights.len());
        let mut named = weights.iter().zip(&infos).collect::<Vec<_>>().into_iter();
        for group in side_by_side(&weights) {
            let group: Vec<_> = named.by_ref().take(group.len()).collect();
            built.par_extend(group.par_iter().map(|(weight, info)| {
                let (spec, importance) =
                    (self.job.spec(&info.name), self.job.importance(&info.name));
                let built = build(&view, weight, spec, importance);
                (self.progress)(&info.name);
                built
            }));
            model.release();
        }
        let mut patch = GraphPatch::new();
        let growth = self.job.growth();
        let mut emitter = Emitter::new(self.taken.clone(), model.opset());
        for ((weight, info), built) in weights.iter().zip(infos).zip(built) {
            let emitted = built.and_then(|rewritten| match &mut emitter {
                Ok(emitter) => emit(emitter, &view, (weight, growth), &rewritten, &mut patch)
                    .map(|()| rewritten),
                Err(reason) => Err(reason.clone()),
            });
            let outcome = match emitted {
                Ok(rewritten) => Outcome::Rewritten(Box::new(rewritten)),
                Err(reason) => Outcome::Skipped(reason),
            };
            self.entries.push(RewriteEntry {
                weight: info,
                outcome,
            });
        }
        if let Ok(mut emitter) = emitter {
            let made = std::mem::take(&mut emitter.initializers);
            made.into_iter().for_each(|t| patch.add_initializer(t));
            self.taken = emitter.into_taken();
        }
        if patch.is_empty() {
            return Ok(None);
        }
        patch.apply(model).map(Some)
    }
}

/// Groups of weights that are built at the same time: of at most [`SIDE_BY_SIDE`] bytes, or one weight.
fn side_by_side<'w, 'a>(weights: &'w [Weight<'a>]) -> Vec<&'w [Weight<'a>]> {
    let (mut groups, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (k, weight) in weights.iter().enumerate() {
        if k > from && bytes + weight.bytes() > SIDE_BY_SIDE {
            groups.push(&weights[from..k]);
            (from, bytes) = (k, 0);
        }
        bytes += weight.bytes();
    }
    groups.push(&weights[from..]);
    groups
}

/// Every name that a graph uses, of values and of nodes, in its subgraphs too.
pub(crate) fn names(view: &GraphView<'_>) -> HashSet<String> {
    let mut found = HashSet::new();
    collect_names(view.graph(), &mut found);
    found
}

fn collect_names(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(graph.input.iter().map(|i| i.name().to_string()));
    names.extend(graph.initializer.iter().map(|t| t.name().to_string()));
    let sparse = graph.sparse_initializer.iter().flat_map(|s| &s.values);
    names.extend(sparse.map(|t| t.name().to_string()));
    collect_node_names(&graph.node, names);
}

fn collect_node_names(nodes: &[NodeProto], names: &mut HashSet<String>) {
    for node in nodes {
        names.extend(node.output.iter().cloned());
        names.insert(node.name().to_string());
        crate::walk::subgraphs(node).for_each(|g| collect_names(g, names));
    }
}

/// The names of all graphs of a model and of its functions.
fn all_names(model: &Model) -> HashSet<String> {
    let mut found = HashSet::new();
    collect_names(model.graph(), &mut found);
    for function in &model.proto().functions {
        found.extend(function.input.iter().cloned());
        collect_node_names(&function.node, &mut found);
    }
    found
}

fn build(
    view: &GraphView<'_>,
    weight: &Weight<'_>,
    spec: &Spec,
    importance: Option<&[f64]>,
) -> Result<Rewritten, SkipReason> {
    let way = Way::of(view, weight)?;
    if spec.format == FormatRule::Keep {
        return Err(SkipReason::Kept {
            rule: "the job".to_string(),
        });
    }
    let (subject, shape, matrix) = match &way {
        Way::Layers(Role::Dense(layers)) => {
            let layer = layers.first().ok_or(SkipReason::Unused)?;
            let shape = [layer.outputs(), layer.inputs()];
            (Subject::Matrix(shape), shape, layer.matrix(view)?)
        }
        Way::Layers(Role::Conv(layers)) => {
            let layer = layers.first().ok_or(SkipReason::Unused)?;
            let shape = [layer.outputs(), layer.inputs()];
            (Subject::Kernel(view, layer), shape, layer.matrix(view)?)
        }
        Way::Layers(Role::Table(layers)) => {
            let layer = layers.first().ok_or(SkipReason::Unused)?;
            let subject = Subject::Table(layer.shape(), importance);
            (subject, layer.shape(), layer.matrix(view)?)
        }
        Way::InPlace(stored) => {
            let shape = stored.matrix();
            (Subject::Stored(shape), shape, stored.values(weight)?)
        }
    };
    let w = ArrayView2::from_shape(shape, &matrix).map_err(|e| SkipReason::Misfit {
        problem: e.to_string(),
    })?;
    let (choice, network) = match spec.format {
        FormatRule::Use(format) => {
            let choice = subject.resolve(spec, format)?;
            let network = subject.build(w, &choice)?;
            (choice, network)
        }
        FormatRule::Auto | FormatRule::Keep => auto::best(w, spec, &subject)?,
    };
    let bytes = subject.stored_bytes(&network)?;
    if bytes >= weight.bytes() {
        return Err(SkipReason::NoGain {
            bytes: weight.bytes(),
            best: bytes,
        });
    }
    Ok(describe(w, &choice, network, bytes))
}

/// Every use of a shared weight must read the same matrix.
pub(crate) fn agree(view: &GraphView<'_>, role: &Role) -> Result<(), SkipReason> {
    let same = match role {
        Role::Dense(layers) => layers.iter().all(|l| l.reads_like(&layers[0])),
        Role::Conv(layers) => layers.iter().all(|l| l.reads_like(&layers[0])),
        Role::Table(layers) => layers
            .iter()
            .all(|l| l.weight_value() == layers[0].weight_value()),
    };
    if same {
        return Ok(());
    }
    let because = SkipReason::Misfit {
        problem: "expected uses of one and the same matrix, found a transposed one".into(),
    };
    let nodes = role.nodes().into_iter();
    Err(SkipReason::Shared {
        nodes: nodes
            .map(|n| crate::error::node_place(view.node(n)))
            .collect(),
        because: Box::new(because),
    })
}

fn describe(
    w: ArrayView2<'_, f32>,
    choice: &LayerChoice,
    network: Network,
    bytes: u64,
) -> Rewritten {
    let (layout, row_modes, col_modes) = match choice.network() {
        NetworkChoice::Tt { modes, .. } => {
            let layout = match modes.layout() {
                tn_formats::Layout::Interleaved => "interleaved",
                tn_formats::Layout::Split => "split",
            };
            (
                Some(layout),
                modes.row_modes().to_vec(),
                modes.col_modes().to_vec(),
            )
        }
        _ => (None, vec![w.nrows()], vec![w.ncols()]),
    };
    let mut ranks = network.ranks();
    if choice.format() == Format::Tucker && layout.is_some() {
        // A kernel's Tucker network is a train; its ranks are those of the channel modes.
        ranks = ranks[1..ranks.len() - 1].to_vec();
    }
    let quantization = choice.quantization();
    Rewritten {
        format: choice.format(),
        layout,
        row_modes,
        col_modes,
        ranks,
        bits: quantization.bits.get(),
        mapping: quantization.mapping,
        granularity: quantization.granularity,
        parameters: network.parameters(),
        bytes,
        error: auto::relative_error(w, &network),
        network,
    }
}

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

fn emit(
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
        Role::Table(_) => {
            let Network::Table(table) = network else {
                return Err(SkipReason::Misfit {
                    problem: "expected the codes of a table, found another network".into(),
                });
            };
            let name = format!("{prefix}/table");
            let placed = emit::place_table(emitter, &name, table.left(), table.right())?;
            Standing::Table(placed)
        }
    })
}
