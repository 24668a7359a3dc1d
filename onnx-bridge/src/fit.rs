//! The networks of a job made for what its layers are given: the layer-wise fit of `compress` without a goal.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ndarray::{Array2, ArrayView2};

use crate::calibrate::{Batch, Centre, Moments, Stages, Target, TargetKind};
use crate::choice::{FormatRule, Job, LayerChoice};
use crate::dataset::Dataset;
use crate::digest::Digest;
use crate::emit::packed::RunsOn;
use crate::engine::check_data;
use crate::error::Result;
use crate::inspect::Format;
use crate::model::Model;
use crate::network::Network;
use crate::plan::{Context, MemoryStore, survey_moments};
use crate::skip::SkipReason;
use crate::subject::Subject;
use crate::view::GraphView;

/// The most samples that a fit runs on, spread evenly over the data.
const SAMPLES: usize = 1024;

/// Networks by the name of their weight, and what was chosen for them.
pub(crate) type Networks = BTreeMap<String, (LayerChoice, Network)>;

/// The same job with its trains, low ranks and Tucker networks fitted to what the layers are given when the original runs on
/// data. Matrices of dense layers and kernels of convolutions without groups are fitted, of at least 4096 numbers; all other
/// weights are decomposed when the job is done, as they would be without this.
///
/// # Numerics
/// As [`Network::fit`]; moments in f32 over a batch, summed in f64. Memory follows the largest layer and its second moment,
/// not the model.
///
/// # Errors
/// [`crate::Error::Engine`] where tract does not run the model, [`crate::Error::MissingInput`] and
/// [`crate::Error::Dataset`] where the data does not fit it.
pub fn fit_job(
    model: &Model,
    mut job: Job,
    data: &Dataset,
    progress: &(dyn Fn(&str, usize, usize) + Sync),
) -> Result<Job> {
    fit_jobs(model, &mut [&mut job], data, progress)?;
    Ok(job)
}

/// As [`fit_job`], several jobs for one model in one pass over the data.
///
/// # Errors
/// As [`fit_job`]; the jobs are then as they were.
pub fn fit_jobs(
    model: &Model,
    jobs: &mut [&mut Job],
    data: &Dataset,
    progress: &(dyn Fn(&str, usize, usize) + Sync),
) -> Result<()> {
    let view = GraphView::new(model);
    let asked = |target: &Target| jobs.iter().any(|job| wanted(job, target).is_some());
    let targets: Vec<Target> = Target::all(&view)
        .into_iter()
        .filter_map(|(_, found)| found.ok())
        .filter(asked)
        .collect();
    if targets.is_empty() {
        return Ok(());
    }
    check_data(model, data)?;
    let context = Context {
        model,
        view: &view,
        stages: Stages::new(&view, &targets),
        targets,
        batches: Batch::all(model, data, SAMPLES)?,
        base: Digest::default(),
        runs_on: RunsOn::Portable,
        store: &MemoryStore::default(),
        progress,
    };
    let networks = Mutex::new(vec![Networks::new(); jobs.len()]);
    let visit = |t: usize, weight: &Array2<f32>, seen: &mut Moments| {
        let target = &context.targets[t];
        let moment = seen.take_own(Centre::Zero);
        for (n, job) in jobs.iter().enumerate() {
            // One that cannot take the form is skipped with its reason when the job is done.
            if let Some(Ok(made)) = fitted(&view, job, target, weight, moment.view())
                && let Ok(mut networks) = networks.lock()
            {
                networks[n].insert(target.name().to_string(), made);
            }
        }
        Ok(())
    };
    survey_moments(&context, &visit, &|_| false)?;
    let networks = networks.into_inner().unwrap_or_default();
    for (job, networks) in jobs.iter_mut().zip(networks) {
        job.set_networks(networks);
    }
    Ok(())
}

/// The form of a weight that can be fitted.
fn wanted(job: &Job, target: &Target) -> Option<Format> {
    match (job.spec(target.name()).format, target.kind()) {
        (_, TargetKind::Table(_)) => None,
        (FormatRule::Use(format), _) if format != Format::Dense => Some(format),
        _ => None,
    }
}

fn fitted(
    view: &GraphView<'_>,
    job: &Job,
    target: &Target,
    weight: &Array2<f32>,
    moment: ArrayView2<'_, f64>,
) -> Option<std::result::Result<(LayerChoice, Network), SkipReason>> {
    let format = wanted(job, target)?;
    let subject = match target.kind() {
        TargetKind::Dense(_) => Subject::Matrix(target.shape()),
        TargetKind::Conv(layers) => Subject::Kernel(view, layers.first()?),
        TargetKind::Table(_) => return None,
    };
    let choice = subject.resolve(job.spec(target.name()), format);
    Some(choice.and_then(|choice| {
        let network = Network::fit(weight.view(), moment, &choice)?;
        Ok((choice, network))
    }))
}
