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

/// Calls `visit` with every weight and the norm of what the original gives it, stage by stage. Of a table the visitor gets some
/// rows: those that count most, and others that stand for all the rest.
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
            let (weight, mut seen) = given(&runner, t)?;
            visit(t, &weight, &mut seen).map_err(|e| match e {
                Error::Plan { problem, .. } => failed(target, problem),
                other => other,
            })
        })?;
    }
    (context.progress)("calibrate", stages, stages);
    Ok(())
}

/// Rows of a table that its curve is measured on: so many that count most, and about as many of the rest.
const TABLE_ROWS: usize = 2048;

/// The matrix of a layer and the moments of its inputs; some rows of a table, and how much they count.
fn given(runner: &Runner<'_>, t: usize) -> Result<(Array2<f32>, Moments)> {
    let context = runner.context;
    let target = &context.targets[t];
    let TargetKind::Table(_) = target.kind() else {
        let weight = weight(context, t)?;
        let seen = runner.seen(t, &weight)?;
        return Ok((weight, seen));
    };
    let (some, counts) = strata(runner.seen_rows(t).rows(), TABLE_ROWS);
    let found = Operand::original(context.view, target)?.rows(&some);
    let problem = || failed(target, "expected a matrix of floats".into());
    Ok((found.ok_or_else(problem)?, Moments::of_rows(counts)))
}

/// The `most` rows of most importance above the least, and about as many of the others, spread evenly: each of these counts
/// as much as the rows that it stands for.
fn strata(importance: &[f64], most: usize) -> (Vec<usize>, Vec<f64>) {
    let least = importance.iter().copied().fold(f64::INFINITY, f64::min);
    let mut first: Vec<usize> = (0..importance.len())
        .filter(|&i| importance[i] > least)
        .collect();
    first.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]));
    first.truncate(most);
    first.sort_unstable();
    let others: Vec<usize> = (0..importance.len())
        .filter(|i| first.binary_search(i).is_err())
        .collect();
    let mut rows: Vec<(usize, f64)> = first.iter().map(|&i| (i, importance[i])).collect();
    for some in others.chunks((others.len() / most).max(1)) {
        rows.push((some[0], some.iter().map(|&i| importance[i]).sum()));
    }
    rows.sort_unstable_by_key(|(i, _)| *i);
    rows.into_iter().unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_sample_count_for_all() {
        let mut importance = vec![0.5; 100];
        (importance[7], importance[50], importance[99]) = (20.0, 9.0, 3.0);
        let (rows, counts) = strata(&importance, 2);
        assert_eq!((rows.len(), rows[0]), (4, 0));
        assert!(rows.contains(&7) && rows.contains(&50));
        let whole = importance.iter().sum::<f64>();
        assert!((counts.iter().sum::<f64>() - whole).abs() < 1e-9);
        let all = strata(&importance, 100);
        assert_eq!(all, ((0..100).collect(), importance));
        assert_eq!(strata(&[1.0; 6], 3), (vec![0, 2, 4], vec![2.0; 3]));
        assert_eq!(strata(&[], 3), (vec![], vec![]));
    }
}
