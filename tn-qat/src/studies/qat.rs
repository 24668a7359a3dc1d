//! Exercise 1: quantizing after training against training with quantization, at the same budget of steps.

use ndarray::{Array2, ArrayView2};
use quant_core::{Bits, QuantScheme};
use serde::{Deserialize, Serialize};
use tn_formats::MatrixModes;

use super::report::{Axis, digits};
use super::{Series, Stroke, Study, StudyReport};
use crate::error::{QatError, Result, check_len};
use crate::fake_quant::{QatPhase, StepInit};
use crate::fit::{FitConfig, fit_train};
use crate::layers::{FixedLinear, Layer, TtLinear};
use crate::train::{Activation, Network, Objective, TrainConfig, accuracy, train};

/// One layer of the original.
#[derive(Debug, Clone)]
pub struct QatLayer {
    /// The dense weight `[M, N]`.
    pub weight: Array2<f32>,
    /// The bias, if there is one.
    pub bias: Option<Vec<f32>>,
    /// What follows.
    pub activation: Activation,
    /// How to cut the weight into modes; `None` leaves the layer as it is and does not train it.
    pub modes: Option<MatrixModes>,
}

/// An original (a layer, or layers one after the other) and data.
#[derive(Debug, Clone)]
pub struct QatProblem<'a> {
    /// The original.
    pub layers: Vec<QatLayer>,
    /// Inputs to train on; no labels are used.
    pub x: ArrayView2<'a, f32>,
    /// Inputs to judge on.
    pub held_out: ArrayView2<'a, f32>,
    /// Their classes, if the outputs are logits. Training then matches the softmax, otherwise the outputs.
    pub labels: Option<&'a [i64]>,
}

/// What to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QatConfig {
    /// Largest ranks of the trains.
    pub ranks: Vec<usize>,
    /// Widths of the codes.
    pub bits: Vec<Bits>,
    /// Gradient steps of the float train; PTQ and QAT then each get as many again.
    pub steps: u64,
    /// Samples per step.
    pub batch: usize,
    /// Peak learning rate.
    pub rate: f64,
    /// Seed of the order of samples.
    pub seed: u64,
}

impl Default for QatConfig {
    /// Ranks 16, 8 and 4; 8, 4 and 2 bits; 400 steps of 128 samples, twice.
    fn default() -> Self {
        Self {
            ranks: vec![16, 8, 4],
            bits: vec![Bits::B8, Bits::B4, Bits::B2],
            steps: 400,
            batch: 128,
            rate: 4e-3,
            seed: 1,
        }
    }
}

/// How good a network is on the held-out inputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Relative L2 distance of the outputs from the original's.
    pub error: f64,
    /// Part of the samples classified as the labels say.
    pub accuracy: Option<f64>,
}

/// One rank and width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QatRow {
    /// Largest rank.
    pub rank: usize,
    /// Width of the codes.
    pub bits: Bits,
    /// Bytes of the quantized cores.
    pub bytes: usize,
    /// Bytes of the dense weights they replace, in f32.
    pub dense_bytes: usize,
    /// The float train after all steps.
    pub float: Quality,
    /// That train quantized.
    pub ptq: Quality,
    /// The train whose second half of the steps was quantization-aware.
    pub qat: Quality,
}

/// What `qat` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QatStudy {
    /// The original on the held-out inputs, if there are labels.
    pub original: Option<f64>,
    /// One row for each rank and width.
    pub rows: Vec<QatRow>,
}

/// The trains in place of the layers that have modes.
type Trains = Vec<Option<TtLinear<f32>>>;

struct Run<'a, 'd> {
    problem: &'a QatProblem<'d>,
    config: &'a QatConfig,
    teacher: Array2<f32>,
    judge: Array2<f32>,
}

impl Run<'_, '_> {
    /// The original with trains put in.
    fn network<'b>(&self, trains: &'b mut Trains) -> Result<Network<'b>> {
        let layers = self
            .problem
            .layers
            .iter()
            .zip(trains)
            .map(|(layer, train)| {
                let boxed: Box<dyn Layer<f32> + 'b> = match train {
                    Some(train) => Box::new(train),
                    None => Box::new(dense(layer)?),
                };
                Ok((boxed, layer.activation))
            });
        Network::new(layers.collect::<Result<_>>()?)
    }

    fn train(&self, trains: &mut Trains, part: u64) -> Result<()> {
        let config = TrainConfig {
            steps: self.config.steps,
            batch: self.config.batch,
            rate: self.config.rate,
            seed: self.config.seed + part,
            ..TrainConfig::default()
        };
        let teacher = self.teacher.view();
        let objective = match self.problem.labels {
            Some(_) => Objective::Logits {
                teacher,
                temperature: 2.0,
            },
            None => Objective::Outputs {
                target: teacher,
                through: Activation::Identity,
            },
        };
        let mut network = self.network(trains)?;
        train(
            &mut network,
            self.problem.x,
            objective,
            &config,
            &mut |_, _| {},
        )?;
        Ok(())
    }

    fn quality(&self, trains: &mut Trains) -> Result<Quality> {
        let y = self.network(trains)?.predict(self.problem.held_out)?;
        let accuracy = self
            .problem
            .labels
            .map(|labels| accuracy(y.view(), labels))
            .transpose()?;
        Ok(Quality {
            error: super::relative(y.view(), self.judge.view()),
            accuracy,
        })
    }
}

fn dense(layer: &QatLayer) -> Result<FixedLinear<f32>> {
    let dense = FixedLinear::new(layer.weight.clone());
    match &layer.bias {
        Some(bias) => dense.with_bias(bias.clone()),
        None => Ok(dense),
    }
}

fn quantize(trains: &mut Trains, bits: Bits) -> Result<usize> {
    let mut bytes = 0;
    for train in trains.iter_mut().flatten() {
        train.quantize(QuantScheme::symmetric(bits), StepInit::Mse)?;
        train.set_phase(QatPhase::Learn);
        bytes += train.to_quantized()?.byte_len();
    }
    Ok(bytes)
}

/// Decomposes the layers that have modes, fits and trains them in float, then compares the two ways to integers.
///
/// For every rank: least squares layer by layer, then `steps` steps of the whole. From there PTQ trains `steps` steps more in
/// float and is quantized (steps of least squared error), QAT is quantized and trains `steps` steps. Cores have one
/// symmetric step each. `progress` gets the number of trainings done and their total.
///
/// # Shapes
/// `x` and `held_out` are `[samples, N]` of the first layer.
///
/// # Errors
/// [`QatError::Parameter`] when no layer has modes, and those of [`train()`] and [`fit_train`].
pub fn qat(
    problem: &QatProblem<'_>,
    config: &QatConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<QatStudy> {
    let chosen: Vec<_> = problem
        .layers
        .iter()
        .filter(|l| l.modes.is_some())
        .collect();
    if chosen.is_empty() {
        return Err(QatError::Parameter {
            what: "number of layers with modes",
            expected: "at least one",
            found: "0".to_owned(),
        });
    }
    if let Some(labels) = problem.labels {
        check_len("labels", problem.held_out.nrows(), labels.len())?;
    }
    let dense_bytes = chosen.iter().map(|l| 4 * l.weight.len()).sum();
    let mut none: Trains = problem.layers.iter().map(|_| None).collect();
    let empty = || Array2::zeros((0, 0));
    let mut run = Run {
        problem,
        config,
        teacher: empty(),
        judge: empty(),
    };
    let original = run.network(&mut none)?;
    let (teacher, judge) = (
        original.predict(problem.x)?,
        original.predict(problem.held_out)?,
    );
    drop(original);
    (run.teacher, run.judge) = (teacher, judge);
    let original = problem
        .labels
        .map(|labels| accuracy(run.judge.view(), labels))
        .transpose()?;
    let (mut done, total) = (0, config.ranks.len() * (2 + config.bits.len()));
    let mut step = || {
        done += 1;
        progress(done, total);
    };
    let mut rows = Vec::new();
    for &rank in &config.ranks {
        let mut half = decompose(problem, rank)?;
        run.train(&mut half, 0)?;
        step();
        let mut full = half.clone();
        run.train(&mut full, 1)?;
        let float = run.quality(&mut full)?;
        step();
        for &bits in &config.bits {
            let mut ptq = full.clone();
            let bytes = quantize(&mut ptq, bits)?;
            let mut aware = half.clone();
            quantize(&mut aware, bits)?;
            run.train(&mut aware, 1)?;
            let (ptq, qat) = (run.quality(&mut ptq)?, run.quality(&mut aware)?);
            rows.push(QatRow {
                rank,
                bits,
                bytes,
                dense_bytes,
                float,
                ptq,
                qat,
            });
            step();
        }
    }
    Ok(QatStudy { original, rows })
}

/// TT-SVD and least squares, layer by layer, each on what the compressed layers before it give.
fn decompose(problem: &QatProblem<'_>, rank: usize) -> Result<Trains> {
    let mut truth = problem.x.to_owned();
    let mut inputs = truth.clone();
    let mut trains = Trains::new();
    for layer in &problem.layers {
        let mut original = dense(layer)?;
        let target = Network::new(vec![(Box::new(&mut original), Activation::Identity)])?
            .predict(truth.view())?;
        let train = match &layer.modes {
            None => {
                inputs = Network::new(vec![(Box::new(original), layer.activation)])?
                    .predict(inputs.view())?;
                None
            }
            Some(modes) => {
                let mut train = TtLinear::from_matrix(layer.weight.view(), modes, rank)?;
                if let Some(bias) = &layer.bias {
                    train.set_bias(bias.clone())?;
                }
                let config = FitConfig {
                    sweeps: 2,
                    train: TrainConfig {
                        steps: 0,
                        ..TrainConfig::default()
                    },
                    ..FitConfig::default()
                };
                fit_train(&mut train, inputs.view(), target.view(), &config)?;
                inputs = Network::new(vec![(Box::new(&mut train), layer.activation)])?
                    .predict(inputs.view())?;
                Some(train)
            }
        };
        trains.push(train);
        truth = target.mapv(|t| layer.activation.value(t));
    }
    Ok(trains)
}

impl Study for QatStudy {
    fn report(&self) -> StudyReport {
        let with_labels = self.original.is_some();
        let show = |q: &Quality| match q.accuracy {
            Some(a) => format!("{:.2} %", 100.0 * a),
            None => digits(q.error),
        };
        let rows = self.rows.iter().map(|r| {
            vec![
                r.rank.to_string(),
                r.bits.to_string(),
                r.bytes.to_string(),
                format!("1/{:.0}", r.dense_bytes as f64 / r.bytes.max(1) as f64),
                show(&r.float),
                show(&r.ptq),
                show(&r.qat),
                digits(r.ptq.error),
                digits(r.qat.error),
            ]
        });
        let mut ranks: Vec<usize> = self.rows.iter().map(|r| r.rank).collect();
        ranks.dedup();
        let value = |q: &Quality| q.accuracy.map_or(q.error, |a| 100.0 * a);
        let mut series = Vec::new();
        for (colour, &rank) in ranks.iter().enumerate() {
            type Way = fn(&QatRow) -> &Quality;
            let ways: [(&str, Stroke, Way); 2] = [
                ("PTQ", Stroke::Dashed, |r| &r.ptq),
                ("QAT", Stroke::Solid, |r| &r.qat),
            ];
            for (name, stroke, quality) in ways {
                let of = self.rows.iter().filter(|r| r.rank == rank);
                series.push(Series {
                    name: format!("{name}, rank {rank}"),
                    points: of.map(|r| (r.bytes as f64, value(quality(r)))).collect(),
                    colour,
                    stroke,
                });
            }
        }
        if let Some(original) = self.original {
            let bytes = || self.rows.iter().map(|r| r.bytes);
            let ends = [bytes().min(), bytes().max()];
            series.push(Series {
                name: "the original".to_owned(),
                points: ends
                    .iter()
                    .flatten()
                    .map(|&b| (b as f64, 100.0 * original))
                    .collect(),
                colour: 6,
                stroke: Stroke::Solid,
            });
        }
        let better = |r: &QatRow| match (r.ptq.accuracy, r.qat.accuracy) {
            (Some(p), Some(q)) => q > p,
            _ => r.qat.error < r.ptq.error,
        };
        let mut conclusion = Vec::new();
        if let Some(original) = self.original {
            conclusion.push(format!("The original reaches {:.2} %.", 100.0 * original));
        }
        let mut widths: Vec<Bits> = self.rows.iter().map(|r| r.bits).collect();
        widths.sort();
        widths.dedup();
        for bits in widths.into_iter().rev() {
            let of: Vec<_> = self.rows.iter().filter(|r| r.bits == bits).collect();
            let mean =
                |f: &dyn Fn(&QatRow) -> f64| of.iter().map(|r| f(r)).sum::<f64>() / of.len() as f64;
            let gain = match with_labels {
                true => format!(
                    "{:+.2} points of accuracy on average",
                    100.0
                        * mean(&|r| r.qat.accuracy.unwrap_or(0.0) - r.ptq.accuracy.unwrap_or(0.0))
                ),
                false => format!(
                    "{} of its error on average",
                    digits(mean(&|r| r.qat.error / r.ptq.error))
                ),
            };
            conclusion.push(format!(
                "{bits} bits: QAT is better than PTQ with the same number of steps in {} of {} ranks, {gain}.",
                of.iter().copied().filter(|r| better(r)).count(),
                of.len(),
            ));
        }
        let wins = self.rows.iter().filter(|r| better(r)).count();
        conclusion.push(format!(
            "In short: with the same steps, training with quantization beats quantizing after training in {wins} of {} cases.",
            self.rows.len()
        ));
        StudyReport {
            title: "PTQ against QAT of tensor trains at the same budget".to_owned(),
            columns: [
                "rank",
                "bits",
                "bytes",
                "of dense f32",
                "float",
                "PTQ",
                "QAT",
                "PTQ error",
                "QAT error",
            ]
            .map(str::to_owned)
            .to_vec(),
            rows: rows.collect(),
            x: Axis::log("bytes of the cores"),
            y: if with_labels {
                Axis::linear("accuracy in %")
            } else {
                Axis::log("relative error of the outputs")
            },
            series,
            conclusion,
        }
    }
}
