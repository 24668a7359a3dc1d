//! Compressing a model: every weight is rewritten as its spec says, or skipped with a reason.

mod change;
mod names;
mod report;

use std::collections::HashSet;

use ndarray::ArrayView2;
use rayon::prelude::*;

#[cfg(feature = "tract")]
pub(crate) use names::names;
pub use report::{Outcome, RewriteEntry, RewriteReport, Rewritten};

use crate::auto;
use crate::choice::{FormatRule, Job, LayerChoice, NetworkChoice};
use crate::emit::Emitter;
use crate::error::Result;
use crate::in_place::Way;
use crate::inspect::{Format, WeightInfo, info};
use crate::model::Model;
use crate::nested::{Names, each_graph};
use crate::network::Network;
use crate::patch::GraphPatch;
use crate::skip::SkipReason;
use crate::subject::Subject;
use crate::view::GraphView;
use crate::weight::{Role, Weight};

/// The most bytes of weights that are built at the same time, so that memory follows the largest weight and not the model.
const SIDE_BY_SIDE: u64 = 128 << 20;

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
        taken: names::all_names(model),
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
                let built = build(&view, weight, self.job, &info.name);
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
                Ok(emitter) => {
                    change::emit(emitter, &view, (weight, growth), &rewritten, &mut patch)
                        .map(|()| rewritten)
                }
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

fn build(
    view: &GraphView<'_>,
    weight: &Weight<'_>,
    job: &Job,
    name: &str,
) -> Result<Rewritten, SkipReason> {
    let (spec, importance) = (job.spec(name), job.importance(name));
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
    let (choice, network) = match (job.network(name), spec.format) {
        (Some(made), _) => made.clone(),
        (None, FormatRule::Use(format)) => {
            let choice = subject.resolve(spec, format)?;
            let network = subject.build(w, &choice)?;
            (choice, network)
        }
        (None, FormatRule::Auto | FormatRule::Keep) => auto::best(w, spec, &subject)?,
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
