//! Looking at every weight and at what the original gives it, stage by stage.

use ndarray::Array2;
use rayon::prelude::*;

use super::context::{Context, failed, norm, weight};
use super::metric::Metric;
use super::runner::{Networks, Runner};
use crate::calibrate::{Moments, Operand, TargetKind};
use crate::error::{Error, Result};

/// What is done with a weight, by its index: its matrix and its metric.
type Visit<'a> = dyn Fn(usize, &Array2<f32>, &Metric) -> Result<()> + Sync + 'a;

/// The same, with the moments of its inputs.
type VisitMoments<'a> = dyn Fn(usize, &Array2<f32>, &mut Moments) -> Result<()> + Sync + 'a;

/// Calls `visit` with every weight and the norm of what the original gives it, stage by stage. Of a table the visitor gets
/// `TABLE_ROWS` rows or a few more, spread evenly.
pub(crate) fn survey(
    context: &Context<'_>,
    visit: &Visit<'_>,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<()> {
    let with_norm = |t: usize, weight: &Array2<f32>, seen: &mut Moments| {
        visit(t, weight, &norm(context, t, seen)?.0)
    };
    survey_moments(context, &with_norm, done)
}

/// As [`survey`], with the moments themselves.
pub(crate) fn survey_moments(
    context: &Context<'_>,
    visit: &VisitMoments<'_>,
    done: &(dyn Fn(usize) -> bool + Sync),
) -> Result<()> {
    let mut runner = Runner::new(context, Networks::Original);
    let stages = context.stages.stages().len();
    for (s, stage) in context.stages.stages().iter().enumerate() {
        if context.stages.stages()[s..]
            .iter()
            .flatten()
            .all(|&t| done(t))
        {
            break;
        }
        (context.progress)("calibrate", s, stages);
        runner.advance(s, &[])?;
        stage.par_iter().filter(|&&t| !done(t)).try_for_each(|&t| {
            let target = &context.targets[t];
            let weight = sampled(context, t)?;
            visit(t, &weight, &mut runner.seen(t, &weight)?).map_err(|e| match e {
                Error::Plan { problem, .. } => failed(target, problem),
                other => other,
            })
        })?;
    }
    (context.progress)("calibrate", stages, stages);
    Ok(())
}

/// Rows of a table that its curve is measured on.
const TABLE_ROWS: usize = 2048;

/// The matrix of a dense layer, some rows of a table.
fn sampled(context: &Context<'_>, t: usize) -> Result<Array2<f32>> {
    let target = &context.targets[t];
    let rows = target.shape()[0];
    if matches!(target.kind(), TargetKind::Table(_)) {
        let step = (rows / TABLE_ROWS).max(1);
        let some: Vec<usize> = (0..rows).step_by(step).collect();
        if let Some(found) = Operand::original(context.view, target)?.rows(&some) {
            return Ok(found);
        }
    }
    weight(context, t)
}
