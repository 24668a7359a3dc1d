//! How the model's output moves per unit of a weight's error.

use ndarray::{Array2, ArrayD};
use rayon::prelude::*;
use tn_formats::npy::NpyArray;

use super::batches::{Batch, Values};
use super::segment::{floats, typed};
use super::target::{Target, TargetKind};
use crate::engine::Engine;
use crate::error::Result;
use crate::model::Model;
use crate::proto::{self, GraphProto, ValueInfoProto};
use crate::view::GraphView;

/// One weight's part in what the model loses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sensitivity {
    /// `||Δ output||² / ||output||²` for an error of the weight's result of mean square 1 per row.
    pub gain: f64,
}

/// Measures every weight's sensitivity: its result gets the error that rounding the weight makes, all other weights stay.
///
/// One model is loaded in which every weight's result has an added input; a run per weight sets that input alone.
///
/// # Numerics
/// The outputs' rows that count are compared; sums in f64.
///
/// # Errors
/// Those of the engine.
pub(crate) fn measure(
    model: &Model,
    view: &GraphView<'_>,
    targets: &[Target],
    batch: &Batch,
    rounding: &(dyn Fn(&Target) -> Result<Array2<f32>> + Sync),
) -> Result<Vec<Sensitivity>> {
    let reads: Vec<String> = targets.iter().map(|t| read_by(view, t)).collect();
    let taps = tapped(model, view, targets, &reads, batch)?;
    let mut noise_inputs = Values::new();
    let mut noises: Vec<ArrayD<f32>> = Vec::with_capacity(targets.len());
    for (t, target) in targets.iter().enumerate() {
        let result = floats(&taps, &result_of(view, target))?;
        let error = rounding(target)?;
        let rows = match target.kind() {
            TargetKind::Dense(layers) => {
                let x = floats(&taps, &reads[t])?;
                let x = if layers[0].is_input_transposed() {
                    x.reversed_axes()
                } else {
                    x
                };
                let k = x.shape().last().copied().unwrap_or(1).max(1);
                let flat: Vec<f32> = x.iter().copied().collect();
                let x = Array2::from_shape_vec((flat.len() / k, k), flat)
                    .unwrap_or_else(|_| Array2::zeros((0, k)));
                x.dot(&error.t())
            }
            TargetKind::Table(_) => {
                let indices = floats(&taps, &reads[t])?;
                let count = error.nrows() as i64;
                let row = |v: &f32| (*v as i64).rem_euclid(count.max(1)) as usize;
                let rows: Vec<usize> = indices.iter().map(row).collect();
                error.select(ndarray::Axis(0), &rows)
            }
        };
        // The mean of an error is taken up by the layer's bias, so it is no part of what is measured.
        let mut rows = rows;
        if matches!(target.kind(), TargetKind::Dense(layers) if layers[0].bias().is_some())
            && let Some(mean) = rows.mean_axis(ndarray::Axis(0))
        {
            rows -= &mean;
        }
        let flat: Vec<f32> = rows.iter().copied().collect();
        let noise = ArrayD::from_shape_vec(result.shape(), flat)
            .unwrap_or_else(|_| ArrayD::zeros(result.shape()));
        noise_inputs.insert(noise_name(t), NpyArray::F32(ArrayD::zeros(result.shape())));
        noises.push(noise);
    }
    let engine = noisy(model, view, targets, batch, &noise_inputs)?;
    let names: Vec<String> = engine.inputs().iter().map(|i| i.name.clone()).collect();
    let run = |only: Option<usize>| -> Result<Vec<NpyArray>> {
        let inputs = names.iter().map(|name| {
            let own = only
                .filter(|&t| *name == noise_name(t))
                .map(|t| NpyArray::F32(noises[t].clone()));
            own.or_else(|| {
                noise_inputs
                    .get(name)
                    .or_else(|| batch.inputs.get(name))
                    .cloned()
            })
            .unwrap_or_else(|| NpyArray::F32(ArrayD::zeros(vec![0])))
        });
        engine.run(&inputs.collect::<Vec<_>>())
    };
    let still = run(None)?;
    let measured = (0..targets.len()).into_par_iter().map(|t| {
        let loss = relative_loss(batch, &still, &run(Some(t))?);
        let rows = batch.rows(&noises[t]);
        let energy =
            rows.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / rows.nrows().max(1) as f64;
        Ok(Sensitivity {
            gain: if energy > 0.0 { loss / energy } else { 0.0 },
        })
    });
    measured.collect()
}

/// `||a - b||² / ||a||²` over the rows of all floating-point outputs that count.
pub(crate) fn relative_loss(batch: &Batch, a: &[NpyArray], b: &[NpyArray]) -> f64 {
    let [error, norm] = square_sums(batch, a, b);
    if error == 0.0 {
        0.0
    } else {
        error / norm.max(f64::MIN_POSITIVE)
    }
}

/// `||a - b||²` and `||a||²`.
pub(crate) fn square_sums(batch: &Batch, a: &[NpyArray], b: &[NpyArray]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (a, b) in a.iter().zip(b) {
        if !matches!(a, NpyArray::F16(_) | NpyArray::F32(_) | NpyArray::F64(_)) {
            continue;
        }
        let (a, b) = (batch.rows(&a.to_f32()), batch.rows(&b.to_f32()));
        for (x, y) in a.iter().zip(&b) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            sums[0] += (x - y) * (x - y);
            sums[1] += x * x;
        }
    }
    sums
}

fn noise_name(t: usize) -> String {
    format!("tnq/noise/{t}")
}

/// The value that a weight is applied to.
fn read_by(view: &GraphView<'_>, target: &Target) -> String {
    match target.kind() {
        TargetKind::Dense(layers) => layers[0].input().to_string(),
        TargetKind::Table(nodes) => view.node(nodes[0]).input[1].clone(),
    }
}

/// What a weight's first use makes.
fn result_of(view: &GraphView<'_>, target: &Target) -> String {
    view.node(target.nodes()[0]).output[0].clone()
}

/// Runs the original once and returns what the weights read and make.
fn tapped(
    model: &Model,
    view: &GraphView<'_>,
    targets: &[Target],
    reads: &[String],
    batch: &Batch,
) -> Result<Values> {
    let mut wanted: Vec<String> = reads
        .iter()
        .cloned()
        .chain(targets.iter().map(|t| result_of(view, t)))
        .collect();
    wanted.sort();
    wanted.dedup();
    let mut taps: Values = Values::new();
    let constant = |v: &String| crate::constant::Constant::find(view, v);
    wanted.retain(|v| {
        if let Some(array) = batch.inputs.get(v) {
            taps.insert(v.clone(), array.clone());
        } else if let Some(values) =
            constant(v).filter(|_| view.is_output(v) || view.producer(v).is_none())
        {
            let ints = crate::tensor::to_i64(values.tensor());
            if let Some(array) =
                ints.and_then(|i| ArrayD::from_shape_vec(values.shape().to_vec(), i).ok())
            {
                taps.insert(v.clone(), NpyArray::I64(array));
            }
        }
        !taps.contains_key(v)
    });
    let graph = GraphProto {
        input: retyped(view, batch),
        output: wanted
            .iter()
            .map(|v| ValueInfoProto {
                name: Some(v.clone()),
                ..Default::default()
            })
            .collect(),
        ..view.graph().clone()
    };
    let engine = Engine::load(&with_graph(model, graph)?)?;
    let inputs: Vec<NpyArray> = engine
        .inputs()
        .iter()
        .filter_map(|i| batch.inputs.get(&i.name))
        .cloned()
        .collect();
    taps.extend(wanted.into_iter().zip(engine.run(&inputs)?));
    Ok(taps)
}

/// The original with an input added to the result of every weight.
fn noisy(
    model: &Model,
    view: &GraphView<'_>,
    targets: &[Target],
    batch: &Batch,
    noise: &Values,
) -> Result<Engine> {
    let mut graph = view.graph().clone();
    let mut adds = Vec::new();
    for (t, target) in targets.iter().enumerate() {
        let n = target.nodes()[0];
        let result = result_of(view, target);
        let still = format!("tnq/still/{t}");
        graph.node[n].output[0].clone_from(&still);
        let add = proto::node(
            "Add",
            &format!("tnq/add/{t}"),
            &[&still, &noise_name(t)],
            &result,
            Vec::new(),
        );
        adds.push((n, add));
    }
    adds.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    for (n, add) in adds {
        graph.node.insert(n + 1, add);
    }
    graph.input = retyped(view, batch);
    graph
        .input
        .extend(noise.iter().map(|(name, array)| typed(name, array)));
    Engine::load(&with_graph(model, graph)?)
}

/// The graph's inputs with the shapes of a batch.
fn retyped(view: &GraphView<'_>, batch: &Batch) -> Vec<ValueInfoProto> {
    let inputs = view.graph().input.iter();
    inputs
        .map(|i| {
            batch
                .inputs
                .get(i.name())
                .map_or_else(|| i.clone(), |a| typed(i.name(), a))
        })
        .collect()
}

fn with_graph(model: &Model, graph: GraphProto) -> Result<Model> {
    let graph = GraphProto {
        value_info: Vec::new(),
        ..graph
    };
    Model::from_proto(proto::ModelProto {
        graph: Some(graph),
        ..model.proto().clone()
    })
}
