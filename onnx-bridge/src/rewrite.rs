//! Compressing a model: every weight is rewritten as its spec says, or skipped with a reason.

use std::collections::{BTreeSet, HashSet};

use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::Serialize;

use crate::auto;
use crate::choice::{
    CoreGranularity, FormatRule, Job, LayerChoice, MappingChoice, NetworkChoice, Spec,
};
use crate::dense_layer::DenseLayer;
use crate::emit::{self, Emitter};
use crate::error::Result;
use crate::inspect::{Format, WeightInfo, inspect};
use crate::model::Model;
use crate::network::Network;
use crate::patch::GraphPatch;
use crate::skip::SkipReason;
use crate::view::GraphView;
use crate::weight::Weight;

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
    let view = GraphView::new(model);
    let weights = Weight::all(&view);
    let mut built: Vec<Result<Rewritten, SkipReason>> = Vec::with_capacity(weights.len());
    for group in side_by_side(&weights) {
        built.par_extend(group.par_iter().map(|weight| {
            let built = build(&view, weight, job.spec(weight.name()));
            progress(weight.name());
            built
        }));
        model.release();
    }
    let mut patch = GraphPatch::new();
    let mut emitter = Emitter::new(names(&view), model.opset());
    let mut outcomes = Vec::with_capacity(weights.len());
    for (weight, built) in weights.iter().zip(built) {
        let emitted = built.and_then(|rewritten| match &mut emitter {
            Ok(emitter) => emit(emitter, &view, weight, &rewritten, &mut patch).map(|()| rewritten),
            Err(reason) => Err(reason.clone()),
        });
        outcomes.push(match emitted {
            Ok(rewritten) => Outcome::Rewritten(Box::new(rewritten)),
            Err(reason) => Outcome::Skipped(reason),
        });
    }
    if let Ok(emitter) = emitter {
        emitter
            .initializers
            .into_iter()
            .for_each(|t| patch.add_initializer(t));
    }
    let rewritten = if patch.is_empty() {
        model.clone()
    } else {
        patch.apply(model)?
    };
    let inspection = inspect(model);
    let entries = inspection.weights.into_iter().zip(outcomes);
    let report = RewriteReport {
        bytes_before: model.encoded_len(),
        bytes_after: rewritten.encoded_len(),
        weights: entries
            .map(|(weight, outcome)| RewriteEntry { weight, outcome })
            .collect(),
    };
    Ok((rewritten, report))
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
    fn collect(graph: &crate::proto::GraphProto, names: &mut HashSet<String>) {
        names.extend(graph.input.iter().map(|i| i.name().to_string()));
        names.extend(graph.initializer.iter().map(|t| t.name().to_string()));
        for node in &graph.node {
            names.extend(node.output.iter().cloned());
            names.insert(node.name().to_string());
            crate::walk::subgraphs(node).for_each(|g| collect(g, names));
        }
    }
    let mut found = HashSet::new();
    collect(view.graph(), &mut found);
    found
}

fn build(view: &GraphView<'_>, weight: &Weight<'_>, spec: &Spec) -> Result<Rewritten, SkipReason> {
    let layers = weight.layers().map_err(Clone::clone)?;
    if spec.format == FormatRule::Keep {
        return Err(SkipReason::Kept {
            rule: "the job".to_string(),
        });
    }
    let layer = layers.first().ok_or(SkipReason::Unused)?;
    agree(view, layers)?;
    let matrix = layer.matrix(view)?;
    let w = ArrayView2::from_shape((layer.outputs(), layer.inputs()), &matrix).map_err(|e| {
        SkipReason::Misfit {
            problem: e.to_string(),
        }
    })?;
    let (choice, network) = match spec.format {
        FormatRule::Use(format) => {
            let choice = spec.resolve(format, [w.nrows(), w.ncols()])?;
            let network = Network::build(w, &choice)?;
            (choice, network)
        }
        FormatRule::Auto | FormatRule::Keep => auto::best(w, spec)?,
    };
    let bytes = emit::stored_bytes(&network)?;
    if bytes >= weight.bytes() {
        return Err(SkipReason::NoGain {
            bytes: weight.bytes(),
            best: bytes,
        });
    }
    Ok(describe(w, &choice, network, bytes))
}

/// Every use of a shared weight must read the same matrix.
fn agree(view: &GraphView<'_>, layers: &[DenseLayer]) -> Result<(), SkipReason> {
    let Some((first, others)) = layers.split_first() else {
        return Ok(());
    };
    if !others.iter().any(|l| !l.reads_like(first)) {
        return Ok(());
    }
    let nodes = layers
        .iter()
        .map(|l| crate::error::node_place(view.node(l.node())))
        .collect();
    let because = SkipReason::Misfit {
        problem: "expected uses of one and the same matrix, found a transposed one".into(),
    };
    Err(SkipReason::Shared {
        nodes,
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
    let quantization = choice.quantization();
    Rewritten {
        format: choice.format(),
        layout,
        row_modes,
        col_modes,
        ranks: network.ranks(),
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

fn emit(
    emitter: &mut Emitter,
    view: &GraphView<'_>,
    weight: &Weight<'_>,
    rewritten: &Rewritten,
    patch: &mut GraphPatch,
) -> Result<(), SkipReason> {
    let layers = weight.layers().map_err(Clone::clone)?;
    let prefix = prefix(weight.name(), rewritten.format);
    let mark = emitter.mark();
    let placed = match emit::place(emitter, &prefix, &rewritten.network) {
        Ok(placed) => placed,
        Err(reason) => {
            emitter.reset(mark);
            return Err(reason);
        }
    };
    let mut removed = BTreeSet::new();
    for (k, layer) in layers.iter().enumerate() {
        emit::emit_layer(emitter, view, layer, &prefix, &placed);
        let place = if k == 0 {
            layers.iter().map(DenseLayer::node).min().unwrap_or(0)
        } else {
            layer.node()
        };
        debug_assert!(place <= layer.node(), "uses are in the order of the nodes");
        patch.insert_before(place, emitter.take_nodes());
        patch.remove_node(layer.node());
        removed.extend(layer.weight_nodes().iter().copied());
    }
    removed.into_iter().for_each(|node| patch.remove_node(node));
    if view.initializer(weight.name()).is_some() {
        patch.remove_initializer(weight.name());
    }
    Ok(())
}
