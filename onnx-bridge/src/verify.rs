//! Comparing a rewritten model with the original, by running both.

use ndarray::{ArrayD, ArrayView2, ArrayViewD, Axis, Slice};
use serde::Serialize;
use tn_formats::npy::NpyArray;

use crate::axes::place;
use crate::dataset::Dataset;
use crate::engine::{Engine, InputInfo, model_inputs};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::{DataType, int_or};
use crate::view::GraphView;

/// The size of an axis that the model leaves open, in inputs made up here.
const OPEN_AXIS: usize = 16;

/// How far a rewritten model's outputs are from the original's.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// Samples compared.
    pub samples: usize,
    /// Whether the inputs were made up.
    pub synthesized: Synthesized,
    /// `||y - y~|| / ||y||` over all samples and floating-point outputs.
    pub relative_l2: f64,
    /// The mean over the samples of the cosine between the outputs.
    pub cosine: f64,
    /// The share of samples whose largest class is the same; only of a model whose first output is `[sample, class]`.
    pub top1_agreement: Option<f64>,
    /// The share of samples that the original classifies as labelled.
    pub accuracy_before: Option<f64>,
    /// The share of samples that the rewritten model classifies as labelled.
    pub accuracy_after: Option<f64>,
    /// The sample with the largest relative error.
    pub worst_sample: usize,
    /// Its relative error.
    pub worst_relative_l2: f64,
}

/// Where the compared inputs come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Synthesized {
    /// The caller's data.
    No,
    /// [`synthesize`].
    Yes,
}

/// Makes up valid inputs: floats of unit variance, integers that are rows of the table they look up in, else ones.
///
/// # Numerics
/// Deterministic in `seed`.
///
/// # Errors
/// [`Error::Dataset`] for an input of a type that is not made up here.
pub fn synthesize(model: &Model, samples: usize, seed: u64) -> Result<Dataset> {
    synthesize_sized(model, samples, OPEN_AXIS, seed)
}

/// As [`synthesize`], with `open` as the size of every axis that the model leaves open, the samples' apart.
///
/// # Errors
/// As [`synthesize`].
pub fn synthesize_sized(model: &Model, samples: usize, open: usize, seed: u64) -> Result<Dataset> {
    let view = GraphView::new(model);
    let mut random = SplitMix(seed);
    let arrays = model_inputs(model).into_iter().map(|info| {
        let mut shape: Vec<usize> = info.dims.iter().map(|d| d.unwrap_or(open)).collect();
        match shape.first_mut() {
            Some(first) => *first = samples,
            None => shape.push(samples),
        }
        let array = made_up(&view, &info, &shape, &mut random)?;
        Ok((info.name, array))
    });
    Dataset::new(arrays.collect::<Result<_>>()?)
}

fn made_up(
    view: &GraphView<'_>,
    info: &InputInfo,
    shape: &[usize],
    random: &mut SplitMix,
) -> Result<NpyArray> {
    let rows = table_rows(view, &info.name);
    let mut index = || rows.map_or(1, |n| (random.next() % n as u64) as i64);
    Ok(match DataType::try_from(info.data_type) {
        Ok(DataType::Int64) => NpyArray::I64(ArrayD::from_shape_simple_fn(shape, index)),
        Ok(DataType::Int32) => {
            NpyArray::I32(ArrayD::from_shape_simple_fn(shape, || index() as i32))
        }
        Ok(DataType::Bool) => NpyArray::Bool(ArrayD::from_elem(shape, true)),
        Ok(DataType::Float) => NpyArray::F32(ArrayD::from_shape_simple_fn(shape, || random.unit())),
        Ok(DataType::Double) => NpyArray::F64(ArrayD::from_shape_simple_fn(shape, || {
            f64::from(random.unit())
        })),
        Ok(DataType::Float16) => NpyArray::F16(ArrayD::from_shape_simple_fn(shape, || {
            half::f16::from_f32(random.unit())
        })),
        _ => {
            let found = crate::tensor::type_name(info.data_type);
            let problem = format!(
                "expected an input of floats, integers or booleans to make up, found {found}"
            );
            return Err(Error::Dataset {
                array: info.name.clone(),
                problem,
            });
        }
    })
}

/// The rows of the smallest table that an input looks up in.
fn table_rows(view: &GraphView<'_>, input: &str) -> Option<usize> {
    let mut smallest = None;
    for at in view.consumers(input) {
        let Some(node) = view.graph().node.get(at.node) else {
            continue;
        };
        let rows = match (node.op_type(), at.input) {
            ("Gather", 1) => {
                let table = view.initializer(&node.input[0]);
                let axis = int_or(node, "axis", 0);
                table
                    .and_then(|t| t.dims.get(place(axis, t.dims.len())?))
                    .and_then(|&n| usize::try_from(n).ok())
                    .filter(|&n| n > 0)
            }
            ("Cast" | "Identity", 0) => node.output.first().and_then(|o| table_rows(view, o)),
            _ => None,
        };
        smallest = [smallest, rows].into_iter().flatten().min();
    }
    smallest
}

/// Vigna's splitmix64: a small generator whose stream is fixed by its definition.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform with mean 0 and variance 1.
    fn unit(&mut self) -> f32 {
        let uniform = (self.next() >> 40) as f32 / (1u64 << 24) as f32;
        (uniform - 0.5) * 12f32.sqrt()
    }
}

/// Runs both models on a data set, batch by batch, and compares their outputs.
///
/// Where the data has a mask, positions that it switches off do not count in outputs `[sample, position, ..]`: an integer
/// input `[sample, position]` of zeros and ones with "mask" in its name.
///
/// # Numerics
/// Errors and norms are accumulated in `f64`. An output whose first axis is not the sample counts for the first sample of
/// its batch.
///
/// # Errors
/// [`Error::Engine`] where tract does not take a model, [`Error::MissingInput`] where the data lacks an input,
/// [`Error::Outputs`] where the outputs differ in number or shape.
pub fn verify(original: &Model, rewritten: &Model, data: &Dataset) -> Result<Verification> {
    let engines = [Engine::load(original)?, Engine::load(rewritten)?];
    let batch = engines[0].batch();
    let mask = crate::calibrate::mask(original, data);
    let mut tally = Tally::default();
    for from in (0..data.len()).step_by(batch) {
        let range = from..(from + batch).min(data.len());
        let samples: Vec<usize> = range.clone().collect();
        let before = engines[0].run_samples(data, range.clone())?;
        let after = engines[1].run_samples(data, range.clone())?;
        let mask = mask
            .as_ref()
            .map(|m| m.slice_axis(Axis(0), Slice::from(range)));
        let compared = Compared {
            names: engines[0].outputs(),
            outputs: [&before, &after],
            samples: &samples,
            size: samples.len(),
            mask,
        };
        tally.add(&compared, data.labels())?;
    }
    Ok(tally.finish(Synthesized::No))
}

/// As [`verify`], on inputs made up by [`synthesize`].
///
/// # Errors
/// Those of [`synthesize`] and [`verify`].
pub fn verify_synthesized(
    original: &Model,
    rewritten: &Model,
    samples: usize,
    seed: u64,
) -> Result<Verification> {
    let data = synthesize(original, samples, seed)?;
    Ok(Verification {
        synthesized: Synthesized::Yes,
        ..verify(original, rewritten, &data)?
    })
}

/// The outputs of two models for one batch.
#[derive(Debug)]
pub(crate) struct Compared<'a> {
    /// The outputs' names.
    pub(crate) names: &'a [String],
    /// Their values before and after, in the order of the names.
    pub(crate) outputs: [&'a [NpyArray]; 2],
    /// Which samples of the data stand in the batch.
    pub(crate) samples: &'a [usize],
    /// The rows of an output whose first axis is the sample; those behind the samples only fill the batch.
    pub(crate) size: usize,
    /// The positions that count.
    pub(crate) mask: Option<ArrayView2<'a, bool>>,
}

/// Sums over batches.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    samples: usize,
    error: f64,
    norm: f64,
    cosines: f64,
    worst: (usize, f64),
    classified: usize,
    agreed: usize,
    labelled: usize,
    right: [usize; 2],
}

impl Tally {
    /// Takes in a batch.
    pub(crate) fn add(&mut self, batch: &Compared<'_>, labels: Option<&[i64]>) -> Result<()> {
        let [before, after] = batch.outputs;
        let wrong = |output: &str, expected: String, found: String| Error::Outputs {
            output: output.to_string(),
            expected,
            found,
        };
        if before.len() != after.len() {
            let [expected, found] = [before, after].map(|o| format!("{} outputs", o.len()));
            return Err(wrong("*", expected, found));
        }
        let count = batch.samples.len();
        if count == 0 {
            return Ok(());
        }
        let mut samples = vec![[0.0f64; 4]; count];
        let mut classes = None;
        for (name, (before, after)) in batch.names.iter().zip(before.iter().zip(after)) {
            if before.shape() != after.shape() {
                let [expected, found] = [before, after].map(|o| format!("{:?}", o.shape()));
                return Err(wrong(name, expected, found));
            }
            if !matches!(
                before,
                NpyArray::F16(_) | NpyArray::F32(_) | NpyArray::F64(_)
            ) {
                continue;
            }
            let (before, after) = (before.to_f32(), after.to_f32());
            if before.shape().first() != Some(&batch.size) {
                add(&mut samples[0], before.view(), after.view());
                continue;
            }
            let mask = batch
                .mask
                .filter(|m| before.ndim() > 2 && before.shape()[1] == m.ncols());
            for (i, sums) in samples.iter_mut().enumerate() {
                let [before, after] = [&before, &after].map(|a| a.index_axis(Axis(0), i));
                match &mask {
                    Some(mask) => {
                        for (p, _) in mask.row(i).iter().enumerate().filter(|(_, on)| **on) {
                            let [before, after] =
                                [&before, &after].map(|a| a.index_axis(Axis(0), p));
                            add(sums, before, after);
                        }
                    }
                    None => add(sums, before, after),
                }
            }
            let is_first = classes.is_none();
            if is_first && before.ndim() == 2 && before.shape()[1] > 1 {
                classes = Some([before, after]);
            }
        }
        self.samples += count;
        for (i, [error, norm, other, dot]) in samples.into_iter().enumerate() {
            self.error += error;
            self.norm += norm;
            self.cosines += if norm == 0.0 && other == 0.0 {
                1.0
            } else {
                dot / (norm * other).sqrt().max(f64::MIN_POSITIVE)
            };
            let relative = ratio(error, norm);
            if relative > self.worst.1 || relative.is_nan() {
                self.worst = (batch.samples[i], relative);
            }
        }
        let Some(classes) = classes else {
            return Ok(());
        };
        for i in 0..count {
            let [before, after] = [0, 1].map(|k| largest(classes[k].index_axis(Axis(0), i)));
            self.classified += 1;
            self.agreed += usize::from(before == after);
            if let Some(&label) = labels.and_then(|l| l.get(batch.samples[i])) {
                self.labelled += 1;
                self.right[0] += usize::from(before as i64 == label);
                self.right[1] += usize::from(after as i64 == label);
            }
        }
        Ok(())
    }

    /// What the sums say.
    pub(crate) fn finish(&self, synthesized: Synthesized) -> Verification {
        let samples = self.samples;
        let share = |part: usize, of: usize| (of > 0).then(|| part as f64 / of as f64);
        Verification {
            samples,
            synthesized,
            relative_l2: ratio(self.error, self.norm),
            cosine: self.cosines / samples.max(1) as f64,
            top1_agreement: share(self.agreed, self.classified),
            accuracy_before: share(self.right[0], self.labelled),
            accuracy_after: share(self.right[1], self.labelled),
            worst_sample: self.worst.0,
            worst_relative_l2: self.worst.1,
        }
    }
}

/// Square root of a quotient of sums of squares; 0 for 0 by 0.
fn ratio(error: f64, norm: f64) -> f64 {
    if error == 0.0 {
        0.0
    } else {
        (error / norm.max(f64::MIN_POSITIVE)).sqrt()
    }
}

fn add(sums: &mut [f64; 4], before: ArrayViewD<'_, f32>, after: ArrayViewD<'_, f32>) {
    for (&a, &b) in before.iter().zip(after.iter()) {
        let (a, b) = (f64::from(a), f64::from(b));
        sums[0] += (a - b) * (a - b);
        sums[1] += a * a;
        sums[2] += b * b;
        sums[3] += a * b;
    }
}

fn largest(row: ArrayViewD<'_, f32>) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &v) in row.iter().enumerate() {
        if v > best.1 {
            best = (i, v);
        }
    }
    best.0
}
