//! What the model's output loses by the error of one weight.

use ndarray::{Array2, ArrayD, ArrayView2, Axis};
use rayon::prelude::*;
use tn_formats::npy::NpyArray;

use super::batches::{Batch, Values};
use super::native;
use super::segment::{Cut, Operands, Overrides};
use super::tail::Tail;
use super::target::TargetKind;
use super::windows::Windows;
use crate::error::Result;

/// The error number `p` of weight `t`, or of the rows of a table that are looked up; `None` for one that there is not.
pub(crate) type WeightError<'a> =
    dyn Fn(usize, usize, Array2<f32>) -> Result<Option<Array2<f32>>> + Sync + 'a;

/// Errors whose effects one thread follows through the rest of the network side by side: its weights are read once for all.
const TOGETHER: usize = 4;

/// Measures what the model's output loses, `||Δ output||² / ||output||²`, by so many errors of every weight as `counts` says, one
/// after the other, all other weights as they are; 0 for an error that there is not.
///
/// The original runs segment by segment; where a weight's operator has run, the rest of the network runs once more from
/// the values with what the error makes of the operator's result, without its mean where a bias takes that up.
///
/// # Numerics
/// The outputs' rows that count are compared; sums in f64.
///
/// # Errors
/// Those of the engine.
pub(crate) fn measure(
    cut: &Cut<'_>,
    batch: &Batch,
    counts: &[usize],
    errors: &WeightError<'_>,
) -> Result<Vec<Vec<f64>>> {
    let none = Overrides::new();
    let tail = Tail::new(cut, batch)?;
    let mut measured: Vec<Vec<f64>> = counts.iter().map(|&n| vec![0.0; n]).collect();
    let mut values = batch.inputs.clone();
    for s in 0..cut.stages.segments().len() {
        let read = values.clone();
        cut.run_uses(s, &cut.originals(s)?, &none, &mut values)?;
        let firsts = cut.stages.uses(s).iter().filter(|(_, nth)| *nth == 0);
        let each: Vec<(usize, usize)> = firsts
            .flat_map(|&(t, _)| (0..counts[t]).map(move |p| (t, p)))
            .collect();
        let moved = |&(t, p): &(usize, usize)| -> Result<Option<Values>> {
            let output = &cut.view.node(cut.targets[t].nodes()[0]).output[0];
            let Some(NpyArray::F32(result)) = values.get(output) else {
                return Ok(None);
            };
            let Some(noise) = noise(cut, t, batch, &read, &|weight| errors(t, p, weight))? else {
                return Ok(None);
            };
            let flat: Vec<f32> = noise.iter().copied().collect();
            let Ok(noise) = ArrayD::from_shape_vec(result.shape(), flat) else {
                return Ok(None);
            };
            let mut moved = values.clone();
            moved.insert(output.clone(), NpyArray::F32(result + &noise));
            cut.run_rest(s, tail.loaded(s), &mut moved)?;
            Ok(Some(moved))
        };
        let together = each.len().div_ceil(rayon::current_num_threads());
        let losses = each
            .par_chunks(together.clamp(1, TOGETHER))
            .map(|some| tail.losses(s, some.iter().map(moved).collect::<Result<_>>()?));
        let losses: Vec<Vec<f64>> = losses.collect::<Result<_>>()?;
        for (&(t, p), loss) in each.iter().zip(losses.concat()) {
            measured[t][p] = loss;
        }
        cut.run_rest(s, tail.loaded(s), &mut values)?;
        cut.model.release();
    }
    Ok(measured)
}

/// What the model's output loses, `||Δ output||² / ||output||²`, where every segment up to one is run with what its weights
/// became and with these biases, all behind as it is; for the segments one after the other.
///
/// # Errors
/// Those of the engine.
pub(crate) fn measure_up_to_each<'o>(
    cut: &Cut<'_>,
    batch: &Batch,
    operands: &dyn Fn(usize) -> Result<Operands<'o>>,
    overrides: &Overrides,
) -> Result<Vec<f64>> {
    let tail = Tail::new(cut, batch)?;
    let segments: Vec<usize> = (0..cut.stages.segments().len()).collect();
    let mut values = batch.inputs.clone();
    let mut measured = Vec::with_capacity(segments.len());
    for some in segments.chunks(rayon::current_num_threads()) {
        let mut reached = Vec::with_capacity(some.len());
        for &s in some {
            cut.run(s, &operands(s)?, overrides, &mut values)?;
            reached.push((s, values.clone()));
        }
        let losses = reached
            .into_par_iter()
            .map(|(s, values)| tail.losses(s, vec![Some(values)]));
        measured.extend(losses.collect::<Result<Vec<_>>>()?.concat());
        cut.model.release();
    }
    Ok(measured)
}

/// What the weight's error makes of its first operator's inputs, in the order of the result's elements; `None` where the
/// operator's inputs are not at hand.
fn noise(
    cut: &Cut<'_>,
    t: usize,
    batch: &Batch,
    values: &Values,
    error: &dyn Fn(Array2<f32>) -> Result<Option<Array2<f32>>>,
) -> Result<Option<ArrayD<f32>>> {
    let target = &cut.targets[t];
    let original = native::Operand::original(cut.view, target)?;
    let layer = match target.kind() {
        TargetKind::Table(nodes) => {
            let Some((rows, _)) = native::looked_up(cut.view, target, nodes[0], values) else {
                return Ok(None);
            };
            let mut distinct = rows.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let Some(table) = original.rows(&distinct) else {
                return Ok(None);
            };
            let Some(error) = error(table)? else {
                return Ok(None);
            };
            let places: Vec<usize> = rows
                .iter()
                .filter_map(|row| distinct.binary_search(row).ok())
                .collect();
            return Ok(Some(error.select(Axis(0), &places).into_dyn()));
        }
        TargetKind::Conv(layers) => {
            let (Some(NpyArray::F32(x)), native::Operand::Matrix(weight)) =
                (values.get(layers[0].input()), original)
            else {
                return Ok(None);
            };
            let Some(error) = error(weight.into_owned())? else {
                return Ok(None);
            };
            let error = native::Operand::Matrix(error.into());
            let made = Windows::over(cut.view, &layers[0], x.shape())
                .and_then(|w| w.convolve(x.view(), |rows| error.multiply(rows.view())));
            return Ok(made.map(|mut noise| {
                if layers[0].bias().is_some() {
                    let means = channel_means(&noise);
                    native::add_to_channels(&mut noise, &means, -1.0);
                }
                noise
            }));
        }
        TargetKind::Dense(layers) => &layers[0],
    };
    let (Some(NpyArray::F32(x)), native::Operand::Matrix(weight)) =
        (values.get(layer.input()), original)
    else {
        return Ok(None);
    };
    let Some(error) = error(weight.into_owned())? else {
        return Ok(None);
    };
    let x = if layer.is_input_transposed() {
        x.t()
    } else {
        x.view()
    };
    let standard = x.as_standard_layout();
    let k = error.ncols().max(1);
    let rows = ArrayView2::from_shape((x.len() / k, k), standard.as_slice().unwrap_or(&[]));
    let Some(noise) = rows
        .ok()
        .and_then(|rows| tn_formats::linalg::matmul(rows, error.t()).ok())
    else {
        return Ok(None);
    };
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = error.nrows();
    }
    let Ok(mut noise) = noise.into_dyn().into_shape_with_order(shape) else {
        return Ok(None);
    };
    // The mean of an error over the rows that count is taken up by the layer's bias, so it is no part of what is measured.
    if layer.bias().is_some()
        && let Some(mean) = batch.rows(noise.view()).mean_axis(Axis(0))
    {
        noise -= &mean;
    }
    Ok(Some(noise))
}

/// The mean of every channel of `[samples, channels, ..]`.
fn channel_means(value: &ArrayD<f32>) -> Vec<f32> {
    let channels = value.shape().get(1).copied().unwrap_or(0);
    let mut sums = vec![0.0f64; channels];
    for sample in value.outer_iter() {
        for (sum, channel) in sums.iter_mut().zip(sample.outer_iter()) {
            *sum += channel.iter().map(|&v| f64::from(v)).sum::<f64>();
        }
    }
    let count = (value.len() / channels.max(1)).max(1) as f64;
    sums.into_iter().map(|s| (s / count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use super::super::segment::typed;
    use super::super::{Stages, Target};
    use super::*;
    use crate::dataset::Dataset;
    use crate::model::Model;
    use crate::proto::node;
    use crate::proto::{GraphProto, ModelProto, OperatorSetIdProto};
    use crate::tensor;
    use crate::view::GraphView;

    /// Calls `test` with a model cut where weights stand, and sixteen samples.
    fn on(model: &Model, data: &Dataset, test: impl FnOnce(&Cut<'_>, &Batch)) {
        let view = GraphView::new(model);
        let targets: Vec<Target> = Target::all(&view)
            .into_iter()
            .filter_map(|(_, t)| t.ok())
            .collect();
        let stages = Stages::new(&view, &targets);
        let cut = Cut {
            model,
            view: &view,
            targets: &targets,
            stages: &stages,
        };
        test(&cut, &Batch::all(model, data, 16).unwrap()[0]);
    }

    fn digits() -> (Model, Dataset) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/digits");
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let model = Model::decode(read("model.onnx")).unwrap();
        let data = Dataset::from_npz(Cursor::new(read("calib.npz"))).unwrap();
        (model, data)
    }

    #[test]
    fn losses_are_quadratic_in_small_errors_and_do_not_depend_on_what_else_is_measured() {
        let (model, data) = digits();
        on(&model, &data, |cut, batch| {
            assert_eq!(batch.samples.len(), 16);
            let scales = [1e-3, 2e-3, 0.0, 1e-3, 1e-3, 2e-3];
            let errors = |t: usize, p: usize, weight: Array2<f32>| {
                Ok((t + p != 0).then(|| weight * scales[p]))
            };
            let counts = vec![scales.len(); cut.targets.len()];
            let measured = measure(cut, batch, &counts, &errors).unwrap();
            for (t, losses) in measured.iter().enumerate() {
                let (one, two) = (losses[3], losses[1]);
                assert!((3.8..4.2).contains(&(two / one)), "{t}: {losses:?}");
                assert_eq!((losses[4], losses[5]), (one, two), "{t}");
                assert_eq!(losses[2], 0.0, "{t}");
                // There is no such error of the first weight.
                assert_eq!(losses[0], if t == 0 { 0.0 } else { one }, "{t}");
            }
            let few = measure(cut, batch, &vec![1; cut.targets.len()], &errors).unwrap();
            assert!(few.iter().zip(&measured).all(|(f, m)| f[0] == m[0]));
        });
    }

    #[test]
    fn an_error_is_there_from_its_weight_on() {
        let (model, data) = digits();
        on(&model, &data, |cut, batch| {
            let changed = |at: Option<usize>| {
                let operands = |s: usize| {
                    let mut operands = cut.originals(s)?;
                    if let Some((t, operand)) = at.and_then(|at| operands.get_key_value(&at))
                        && let native::Operand::Matrix(weight) = operand
                    {
                        let other = weight.mapv(|w| w * 1.1);
                        operands.insert(*t, native::Operand::Matrix(other.into()));
                    }
                    Ok(operands)
                };
                measure_up_to_each(cut, batch, &operands, &Overrides::new()).unwrap()
            };
            let still = changed(None);
            assert_eq!(still, vec![0.0; cut.stages.segments().len()]);
            for (s, stage) in cut.stages.stages().iter().enumerate() {
                let losses = changed(Some(stage[0]));
                let (ahead, behind) = losses.split_at(s + 1);
                assert!(ahead.iter().all(|l| *l == 0.0), "{s}: {losses:?}");
                let first = behind[0];
                assert!(first > 0.0, "{s}: {losses:?}");
                let same = |l: &f64| (l / first - 1.0).abs() < 1e-4;
                assert!(behind.iter().all(same), "{s}: {losses:?}");
            }
        });
    }

    #[test]
    fn a_bias_takes_up_the_mean_over_the_positions_that_count() {
        let values = |n: usize| {
            (0..n)
                .map(|i| ((i * 7 % 11) as f32) - 5.0)
                .collect::<Vec<f32>>()
        };
        let graph = GraphProto {
            name: Some("g".into()),
            node: vec![
                node("MatMul", "product", &["x", "w"], "xw", vec![]),
                node("Add", "sum", &["xw", "b"], "y", vec![]),
            ],
            initializer: vec![
                tensor::from_f32("w", &[8, 8], &values(64)),
                tensor::from_f32("b", &[8], &values(8)),
            ],
            input: vec![
                typed("x", &NpyArray::F32(ArrayD::zeros(vec![4, 5, 8]))),
                typed("attention_mask", &NpyArray::I64(ArrayD::zeros(vec![4, 5]))),
            ],
            output: vec![typed("y", &NpyArray::F32(ArrayD::zeros(vec![4, 5, 8])))],
            ..GraphProto::default()
        };
        let model = Model::from_proto(ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto {
                domain: None,
                version: Some(13),
            }],
            graph: Some(graph),
            ..ModelProto::default()
        });
        // Where the mask is on all rows are the same, so an error makes nothing there but a mean.
        let on_at = |i: usize, j: usize| j < 2 + i % 3;
        let x = ArrayD::from_shape_fn(vec![4, 5, 8], |d| {
            if on_at(d[0], d[1]) {
                d[2] as f32
            } else {
                9.0 * (d[1] * 3 + d[2] % 4) as f32
            }
        });
        let mask = ArrayD::from_shape_fn(vec![4, 5], |d| i64::from(on_at(d[0], d[1])));
        let data = Dataset::new(vec![
            ("x".into(), NpyArray::F32(x)),
            ("attention_mask".into(), NpyArray::I64(mask)),
        ]);
        on(&model.unwrap(), &data.unwrap(), |cut, batch| {
            let errors = |_, _, weight: Array2<f32>| Ok(Some(weight * 0.3));
            let measured = measure(cut, batch, &[1], &errors).unwrap();
            assert!(measured[0][0] < 1e-10, "{measured:?}");
        });
    }
}
