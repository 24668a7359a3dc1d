//! What a plan works on, and what all of its stages ask of a weight.

use ndarray::Array2;

use super::apply::bias_name;
use super::metric::Metric;
use super::store::Store;
use crate::calibrate::segment::Cut;
use crate::calibrate::{Batch, Centre, Moments, Stages, Target, TargetKind};
use crate::digest::Digest;
use crate::emit::packed::RunsOn;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::view::GraphView;

/// Damping of the norm, in parts of the mean energy of an input.
const DAMPING: f64 = 0.01;

/// What a plan works on.
pub(crate) struct Context<'a> {
    pub(crate) model: &'a Model,
    pub(crate) view: &'a GraphView<'a>,
    pub(crate) targets: Vec<Target>,
    pub(crate) stages: Stages,
    pub(crate) batches: Vec<Batch>,
    pub(crate) base: Digest,
    pub(crate) runs_on: RunsOn,
    pub(crate) store: &'a dyn Store,
    pub(crate) progress: &'a (dyn Fn(&str, usize, usize) + Sync),
}

impl Context<'_> {
    /// The graph and where it is cut.
    pub(crate) fn cut(&self) -> Cut<'_> {
        Cut {
            model: self.model,
            view: self.view,
            targets: &self.targets,
            stages: &self.stages,
        }
    }
}

/// An error of one weight.
pub(crate) fn failed(target: &Target, problem: String) -> Error {
    Error::Plan {
        weight: target.name().to_string(),
        problem,
    }
}

/// The matrix of a weight.
pub(super) fn weight(context: &Context<'_>, t: usize) -> Result<Array2<f32>> {
    let target = &context.targets[t];
    target
        .matrix(context.view)
        .map_err(|reason| failed(target, reason.to_string()))
}

/// The norm of a weight's inputs, and the moment that it was made of, where there is one.
pub(super) fn norm(
    context: &Context<'_>,
    t: usize,
    seen: &mut Moments,
) -> Result<(Metric, Option<Array2<f64>>)> {
    let target = &context.targets[t];
    match target.kind() {
        TargetKind::Table(_) => {
            let alike = Metric::identity(target.shape()[1]);
            Ok((alike.with_rows(seen.rows()), None))
        }
        TargetKind::Dense(_) | TargetKind::Conv(_) => {
            let own = seen.take_own(centre(context, t));
            let metric = Metric::new(own.view(), DAMPING);
            Ok((
                metric.map_err(|problem| failed(target, problem))?,
                Some(own),
            ))
        }
    }
}

/// About what a weight's moments are taken.
pub(super) fn centre(context: &Context<'_>, t: usize) -> Centre {
    if bias_name(context.view, &context.targets[t]).is_some() {
        Centre::Mean
    } else {
        Centre::Zero
    }
}
