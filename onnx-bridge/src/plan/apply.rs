//! Writing what the weights became into a model.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::form::{Candidate, Form};
use crate::calibrate::{Target, TargetKind};
use crate::emit::packed::{RunsOn, place_packed};
use crate::emit::{Emitter, Placed, blocks, embedding, emit_kernel, emit_layer, place_parts};
use crate::error::Result;
use crate::model::Model;
use crate::patch::GraphPatch;
use crate::proto::TensorProto;
use crate::skip::SkipReason;
use crate::tensor;
use crate::view::GraphView;

/// What one weight became, and the bias of its layer where that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Solved {
    /// What was made of it: what was chosen, or matrix blocks of no more bytes where those were found to do better.
    pub choice: Candidate,
    /// The weight.
    pub form: Form,
    /// The new bias, of as many values as the old one.
    pub bias: Option<Vec<f32>>,
    /// What the layer's outputs lose.
    pub loss: OutputLoss,
}

/// What a layer's outputs lose: `E ||W x - V y||² / E ||W y||²` over the calibration data, `x` being what the original network
/// gives the layer, `y` what the compressed one gives it, about the mean where a bias takes that up, and with the part of
/// the drift of the residual stream that the layer was asked to take back. Of a table the rows' squared error.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct OutputLoss {
    /// As it was solved.
    pub own: f64,
    /// As blocks of a dense matrix of no more bytes, rounded with error feedback: tried for every other form where
    /// they are allowed. Never below `own`.
    pub dense: Option<f64>,
}

impl Solved {
    /// A weight in a form, before anything is known of it.
    pub(crate) fn new(choice: Candidate, form: Form) -> Self {
        Self {
            choice,
            form,
            bias: None,
            loss: OutputLoss::default(),
        }
    }
}

/// The rewritten model, and why a weight could not be written as it was to be.
pub(crate) fn apply(
    model: &Model,
    view: &GraphView<'_>,
    targets: &[Target],
    solved: &[Solved],
    runs_on: RunsOn,
) -> Result<(Model, Vec<Option<SkipReason>>)> {
    let mut patch = GraphPatch::new();
    let mut emitter = match Emitter::new(crate::rewrite::names(view), model.opset()) {
        Ok(emitter) => emitter,
        Err(reason) => {
            return Ok((
                model.clone(),
                targets.iter().map(|_| Some(reason.clone())).collect(),
            ));
        }
    };
    let mut reasons = Vec::with_capacity(targets.len());
    for (target, solved) in targets.iter().zip(solved) {
        let mark = emitter.mark();
        let written = write(&mut emitter, view, target, solved, runs_on, &mut patch);
        if written.is_err() {
            emitter.reset(mark);
        }
        reasons.push(written.err());
    }
    for (domain, version) in emitter.domains() {
        patch.require_domain(domain.clone(), *version);
    }
    emitter
        .initializers
        .into_iter()
        .for_each(|t| patch.add_initializer(t));
    let rewritten = if patch.is_empty() {
        model.clone()
    } else {
        patch.apply(model)?
    };
    Ok((rewritten, reasons))
}

/// Writes one weight; nothing of it stands in the patch when it cannot be written.
fn write(
    e: &mut Emitter,
    view: &GraphView<'_>,
    target: &Target,
    solved: &Solved,
    runs_on: RunsOn,
    patch: &mut GraphPatch,
) -> Result<(), SkipReason> {
    let name = format!("{}/q", target.name());
    match target.kind() {
        TargetKind::Dense(layers) => {
            let placed: Placed = match &solved.form {
                Form::Keep => return Ok(()),
                Form::Dense(matrix) => match place_packed(e, &name, matrix, runs_on)? {
                    Some(packed) => Placed::Packed(packed),
                    None => blocks::place_dense(e, &name, matrix)?,
                },
                Form::LowRank { left, right } => blocks::place_low_rank(e, &name, left, right)?,
                Form::Corrected { base, left, right } => {
                    blocks::place_corrected(e, &name, base, [left, right])?
                }
                Form::Train {
                    first,
                    second,
                    modes,
                } => blocks::place_train(e, &name, [first, second], *modes)?,
                Form::Tucker { left, core, right } => {
                    blocks::place_tucker(e, &name, [left, core, right])?
                }
                Form::Kernel { .. } => {
                    let problem = "expected a form of a matrix, found one of a kernel".to_string();
                    return Err(SkipReason::Misfit { problem });
                }
            };
            let first = layers.iter().map(|l| l.node()).min().unwrap_or(0);
            let mut removed: HashSet<usize> = HashSet::new();
            for (k, layer) in layers.iter().enumerate() {
                emit_layer(e, view, layer, &format!("{}/y", target.name()), &placed);
                patch.insert_before(if k == 0 { first } else { layer.node() }, e.take_nodes());
                patch.remove_node(layer.node());
                removed.extend(layer.weight_nodes());
            }
            let mut removed: Vec<usize> = removed.into_iter().collect();
            removed.sort_unstable();
            removed.into_iter().for_each(|n| patch.remove_node(n));
            change_bias(view, target, solved, patch);
        }
        TargetKind::Conv(layers) => {
            let parts = match &solved.form {
                Form::Keep => return Ok(()),
                Form::Dense(matrix) => vec![matrix],
                Form::LowRank { left, right } => vec![right, left],
                Form::Kernel {
                    left, core, right, ..
                } => vec![right, core, left],
                Form::Corrected { .. } | Form::Train { .. } | Form::Tucker { .. } => {
                    let problem = "expected a form of a kernel, found one of a matrix".to_string();
                    return Err(SkipReason::Misfit { problem });
                }
            };
            let first = layers.first().ok_or(SkipReason::Unused)?;
            let placed = place_parts(e, &name, first, &parts)?;
            for layer in layers {
                emit_kernel(e, view, layer, &format!("{}/y", target.name()), &placed);
                patch.insert_before(layer.node(), e.take_nodes());
                patch.remove_node(layer.node());
                let between = layer.weight_nodes().iter();
                between.for_each(|&node| patch.remove_node(node));
            }
            change_bias(view, target, solved, patch);
        }
        TargetKind::Table(nodes) => {
            let placed = match &solved.form {
                Form::Keep => return Ok(()),
                Form::Dense(matrix) => embedding::place_table(e, &name, matrix, None)?,
                Form::LowRank { left, right } => {
                    embedding::place_table(e, &name, left, Some(right))?
                }
                Form::Corrected { .. }
                | Form::Train { .. }
                | Form::Kernel { .. }
                | Form::Tucker { .. } => {
                    let problem =
                        "expected a matrix on few levels or of low rank for a table".to_string();
                    return Err(SkipReason::Misfit { problem });
                }
            };
            let first = nodes.iter().copied().min().unwrap_or(0);
            for (k, &node) in nodes.iter().enumerate() {
                embedding::emit_lookup(e, view, node, &format!("{}/y", target.name()), &placed);
                patch.insert_before(if k == 0 { first } else { node }, e.take_nodes());
                patch.remove_node(node);
            }
        }
    }
    if view.initializer(target.name()).is_some() {
        patch.remove_initializer(target.name());
    }
    Ok(())
}

/// Puts the new bias in the place of the old one.
fn change_bias(view: &GraphView<'_>, target: &Target, solved: &Solved, patch: &mut GraphPatch) {
    if let Some((name, bias)) = changed_bias(view, target, solved) {
        patch.remove_initializer(name);
        patch.add_initializer(bias);
    }
}

/// The bias that a weight's layer gets with what the weight became, and the name of its initializer.
pub(super) fn changed_bias(
    view: &GraphView<'_>,
    target: &Target,
    solved: &Solved,
) -> Option<(String, TensorProto)> {
    let bias = solved.bias.as_ref()?;
    let name = bias_name(view, target)?;
    let tensor = tensor::from_f32(&name, &[bias.len()], bias);
    Some((name, tensor))
}

/// The initializer that holds the bias of a weight's only layer, where nothing else reads it: what a correction of the
/// mean can be taken up by.
pub(crate) fn bias_name(view: &GraphView<'_>, target: &Target) -> Option<String> {
    let (value, outputs) = match target.kind() {
        TargetKind::Dense(layers) => match layers.as_slice() {
            [layer] => (
                layer.bias().filter(|b| b.beta() == 1.0)?.value(),
                layer.outputs(),
            ),
            _ => return None,
        },
        TargetKind::Conv(layers) => match layers.as_slice() {
            [layer] => (layer.bias()?, layer.outputs()),
            _ => return None,
        },
        TargetKind::Table(_) => return None,
    };
    let stored = view.initializer(value)?;
    let plain = stored.dims == [outputs as i64]
        && stored.data_type() == crate::proto::DataType::Float as i32
        && view.consumers(value).len() == 1
        && !view.is_overridable(value)
        && !view.is_output(value);
    plain.then(|| value.to_string())
}
