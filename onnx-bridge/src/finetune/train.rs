//! The training loop.

use std::ops::ControlFlow;
use std::time::Instant;

use tn_qat::{AdamW, QatPhase, Schedule};

use super::batches::{Batches, SplitMix, is_mask, mix};
use super::checkpoint::{Best, Checkpoint};
use super::config::{FinetuneConfig, Length};
use super::objective::{Batch, Objective};
use super::student::{Kind, Student, Sums};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::ValueInfoProto;

/// The last part of the run, in which the quantization steps stand still.
const FROZEN_PART: f64 = 0.05;

/// Schedules see a run by the clock as this many steps.
const CLOCK: u64 = 1_000_000;

/// What a run says before its first step.
#[derive(Debug, Clone, PartialEq)]
pub struct Started {
    /// Quantized numbers that are trained.
    pub quantized: usize,
    /// Plain floats that are trained.
    pub floats: usize,
    /// Outputs by name and what they are compared by.
    pub outputs: Vec<(String, super::LossKind)>,
    /// Hidden states that are matched.
    pub hidden: usize,
    /// Nodes that run once per batch.
    pub batch_nodes: usize,
    /// Nodes that run on every pass.
    pub hot_nodes: usize,
}

/// Where a run is after an optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// All steps; `None` by the clock.
    pub steps: Option<u64>,
    /// The part done, 0 to 1.
    pub part: f64,
    /// The loss of the batch.
    pub loss: f64,
    /// Seconds since the start, earlier sittings of a resumed run included.
    pub seconds: f64,
}

/// An evaluation on the held-back samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Steps done.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// Whether weights were quantized; only then it can be the best.
    pub phase: QatPhase,
    /// Whether it is the best so far.
    pub best: Option<f64>,
    /// Seconds since the start.
    pub seconds: f64,
}

/// What follows a run from outside. All methods do nothing unless overruled.
pub trait Observer {
    /// Before the first step.
    fn started(&mut self, _report: &Started) {}

    /// After every step; breaking stops the run, which can be resumed from the last checkpoint.
    fn step(&mut self, _report: &StepReport) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// After every evaluation.
    fn evaluated(&mut self, _report: &Evaluation) {}

    /// The state to resume from, at every evaluation and when the run is stopped.
    fn checkpoint(&mut self, _checkpoint: &Checkpoint) {}
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ran to its end.
    Finished,
    /// The observer stopped it.
    Stopped,
}

/// The trained student.
#[derive(Debug)]
pub struct FinetuneOutcome {
    /// The student with the best integers, scales and floats.
    pub model: Model,
    /// How the run ended.
    pub ending: Ending,
    /// Steps done.
    pub steps: u64,
    /// The loss on held-back samples before the first step.
    pub first_loss: f64,
    /// The loss on held-back samples of what `model` holds.
    pub best_loss: f64,
    /// The step after which `model` was taken.
    pub best_step: u64,
    /// Seconds, earlier sittings included.
    pub seconds: f64,
}

/// Where a run starts, beside the student itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start<'a> {
    /// A state that the same run left behind.
    pub resume: Option<&'a Checkpoint>,
    /// The same student with finer codes, 8 bits say: its weights are where the training starts, the student's own codes
    /// having lost them.
    pub warm: Option<&'a Model>,
}

/// A run under way.
struct Run<'a> {
    config: &'a FinetuneConfig,
    objective: Objective,
    batches: Batches<'a>,
    student: Student,
    sums: Sums,
    learning_rate: f64,
    float_part: f64,
    optimizer: AdamW<f32>,
    best: Option<Best>,
    step: u64,
    earlier: f64,
    start: Instant,
}

/// Distils a teacher into a compressed student, end to end and with the quantization in the loop.
///
/// The student's quantized arrays are found by their decoding chains ([`crate::stored_arrays`]); what stands around them is
/// interpreted as exported. The returned model holds the integers of the best evaluated forward pass.
///
/// # Numerics
/// f32. With [`Length::Steps`], the same data, settings and number of threads give the same bytes, resumed or not.
///
/// # Errors
/// [`Error::MissingOperators`] before any work; [`Error::Setting`], [`Error::MissingInput`], [`Error::Checkpoint`] for what does
/// not fit; [`Error::Evaluate`] where an operator fails or the loss is no number.
///
/// # Source
/// Learned steps: Esser et al. 2020, arXiv 1902.08153. Distillation: Hinton et al. 2015, arXiv 1503.02531.
pub fn finetune(
    teacher: &Model,
    student: &Model,
    data: &Dataset,
    config: &FinetuneConfig,
    from: &Start<'_>,
    observer: &mut dyn Observer,
) -> Result<FinetuneOutcome> {
    config.check()?;
    let trained = Student::new(student, teacher, from.warm, config.train)?;
    let objective = Objective::new(teacher, student, &trained, config)?;
    let initial: Vec<&str> = teacher
        .graph()
        .initializer
        .iter()
        .map(|t| t.name())
        .collect();
    let inputs = teacher
        .graph()
        .input
        .iter()
        .map(ValueInfoProto::name)
        .filter(|n| !initial.contains(n));
    let inputs: Vec<String> = inputs.map(str::to_string).collect();
    let mask = config.mask.as_deref().or_else(|| {
        let named = inputs.iter().find(|i| i.to_lowercase().contains("mask"))?;
        is_mask(data.input(named).ok()?).then_some(named.as_str())
    });
    let mask = mask.map(str::to_string);
    let batches = Batches::new(
        data,
        inputs,
        mask.as_deref(),
        (config.batch, config.held_back, config.seed),
    )?;
    let (rate, float_part) = match trained.kind() {
        Kind::Cores => (1e-2, 0.4),
        Kind::Matrices => (5e-3, 0.4),
        Kind::Blocks => (1e-3, 0.0),
    };
    let (quantized, floats) = trained.counts();
    let (outputs, hidden) = objective.describe();
    let (batch_nodes, hot_nodes) = objective.counts();
    observer.started(&Started {
        quantized,
        floats,
        outputs: outputs.to_vec(),
        hidden,
        batch_nodes,
        hot_nodes,
    });
    let optimizer =
        AdamW::new((0.9, 0.99), 1e-8, config.weight_decay).map_err(|e| Error::Evaluate {
            place: "optimizer".into(),
            problem: e.to_string(),
        })?;
    let mut run = Run {
        config,
        objective,
        batches,
        sums: trained.sums(),
        learning_rate: config.learning_rate.unwrap_or(rate),
        float_part: config.float_part.unwrap_or(float_part),
        student: trained,
        optimizer,
        best: None,
        step: 0,
        earlier: 0.0,
        start: Instant::now(),
    };
    let first_loss = run.evaluate()?;
    run.best = Some(Best {
        loss: first_loss,
        step: 0,
        parameters: run.student.snapshot(),
    });
    if let Some(checkpoint) = from.resume {
        run.resume(checkpoint)?;
    }
    let ending = run.train(observer)?;
    let best = run.best.take().unwrap_or(Best {
        loss: first_loss,
        step: 0,
        parameters: run.student.snapshot(),
    });
    run.student.set_phase(QatPhase::Learn)?;
    run.student.restore(&best.parameters)?;
    Ok(FinetuneOutcome {
        model: run.student.export(student)?,
        ending,
        steps: run.step,
        first_loss,
        best_loss: best.loss,
        best_step: best.step,
        seconds: run.seconds(),
    })
}

impl Run<'_> {
    fn seconds(&self) -> f64 {
        self.earlier + self.start.elapsed().as_secs_f64()
    }

    /// The part of the run that is done, as the schedules see it.
    fn progress(&self) -> (u64, u64) {
        match self.config.length {
            Length::Steps(n) => (self.step, n),
            Length::Time(limit) => {
                let part = (self.seconds() / limit.as_secs_f64()).min(1.0);
                ((part * CLOCK as f64) as u64, CLOCK)
            }
        }
    }

    fn phase(&self) -> QatPhase {
        let (at, all) = self.progress();
        let part = at as f64 / all as f64;
        if part < self.float_part {
            QatPhase::Float
        } else if part >= 1.0 - FROZEN_PART {
            QatPhase::Freeze
        } else {
            QatPhase::Learn
        }
    }

    fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        if checkpoint.config != *self.config {
            return Err(Error::Checkpoint {
                problem: "expected a checkpoint of a run with the same settings".into(),
            });
        }
        let parameters = checkpoint
            .parameters
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>();
        if parameters
            != self
                .student
                .snapshot()
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>()
        {
            return Err(Error::Checkpoint {
                problem: "expected a checkpoint of this student".into(),
            });
        }
        self.step = checkpoint.step;
        self.earlier = checkpoint.seconds;
        self.optimizer = checkpoint.optimizer.clone();
        self.best.clone_from(&checkpoint.best);
        // The phase first: leaving the float phase sets steps anew, which the parameters already hold.
        let before = if self.step == 0 {
            QatPhase::Learn
        } else {
            self.phase_before()
        };
        self.student.set_phase(before)?;
        self.student.restore(&checkpoint.parameters)
    }

    /// The phase of the step that was done last.
    fn phase_before(&mut self) -> QatPhase {
        self.step -= 1;
        let phase = self.phase();
        self.step += 1;
        phase
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            config: self.config.clone(),
            step: self.step,
            seconds: self.seconds(),
            parameters: self.student.snapshot(),
            optimizer: self.optimizer.clone(),
            best: self.best.clone(),
        }
    }

    fn train(&mut self, observer: &mut dyn Observer) -> Result<Ending> {
        let steps = match self.config.length {
            Length::Steps(n) => Some(n),
            Length::Time(_) => None,
        };
        let mut next = self.next_evaluation();
        loop {
            let (at, all) = self.progress();
            if at >= all {
                return Ok(Ending::Finished);
            }
            let phase = self.phase();
            self.student.set_phase(phase)?;
            let rate = Schedule::ONE_CYCLE.rate(self.learning_rate, at, all);
            let loss = self.update(rate)?;
            self.step += 1;
            let (at, all) = self.progress();
            let part = at as f64 / all as f64;
            let flow = observer.step(&StepReport {
                step: self.step,
                steps,
                part,
                loss,
                seconds: self.seconds(),
            });
            if part >= next || at >= all {
                self.judge(phase, observer)?;
                next = self.next_evaluation();
                observer.checkpoint(&self.checkpoint());
            }
            if flow.is_break() {
                observer.checkpoint(&self.checkpoint());
                return Ok(Ending::Stopped);
            }
        }
    }

    /// The part of the run after which the next evaluation is due.
    fn next_evaluation(&self) -> f64 {
        let (at, all) = self.progress();
        let every = 1.0 / self.config.evaluations as f64;
        ((at as f64 / all as f64 / every + 1e-9).floor() + 1.0) * every
    }

    /// Evaluates, and keeps the state if it is the best one with quantized weights.
    fn judge(&mut self, phase: QatPhase, observer: &mut dyn Observer) -> Result<()> {
        let loss = self.evaluate()?;
        let better = phase != QatPhase::Float && self.best.as_ref().is_none_or(|b| loss < b.loss);
        if better {
            self.best = Some(Best {
                loss,
                step: self.step,
                parameters: self.student.snapshot(),
            });
        }
        let best = self.best.as_ref().map(|b| b.loss);
        observer.evaluated(&Evaluation {
            step: self.step,
            loss,
            phase,
            best,
            seconds: self.seconds(),
        });
        Ok(())
    }

    /// The mean loss over the held-back samples.
    fn evaluate(&self) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0usize);
        for samples in self.batches.evaluation() {
            let feeds = self.batches.feeds(&samples)?;
            let labels = self.batches.labels(&samples);
            let batch = Batch {
                feeds: &feeds,
                keep: self.batches.keep(&feeds)?,
                labels: labels.as_deref(),
                labelled: samples.len(),
            };
            let ready = self.objective.ready(batch.feeds)?;
            let leaves = self.student.leaves(&ready.rows)?.tensors();
            let leaves: Vec<_> = leaves.iter().map(|t| t.detach()).collect();
            sum += number(&self.objective.loss(&ready, &leaves, &batch)?)? * samples.len() as f64;
            count += samples.len();
        }
        Ok(sum / count.max(1) as f64)
    }

    /// One optimizer step; the loss before it.
    fn update(&mut self, rate: f64) -> Result<f64> {
        let samples = self.batches.training(self.step);
        let part = samples.len().div_ceil(self.config.accumulate);
        let mut random = SplitMix::new(self.config.seed ^ 0x5851_F42D_4C95_7F2D, self.step);
        let mut total = 0.0;
        for samples in samples.chunks(part) {
            let share = samples.len() as f32 / part as f32 / self.config.accumulate as f32;
            let mut feeds = self.batches.feeds(samples)?;
            let mut labelled = samples.len();
            if self.config.mix > 0.0 {
                mix(&mut feeds, self.config.mix, &mut random).map_err(|e| Error::Evaluate {
                    place: "mixing".into(),
                    problem: e.to_string(),
                })?;
                labelled /= 2;
            }
            let labels = self.batches.labels(samples);
            let batch = Batch {
                feeds: &feeds,
                keep: self.batches.keep(&feeds)?,
                labels: labels.as_deref(),
                labelled,
            };
            let ready = self.objective.ready(batch.feeds)?;
            let leaves = self.student.leaves(&ready.rows)?;
            let loss = self.objective.loss(&ready, &leaves.tensors(), &batch)?;
            total += number(&loss)? * f64::from(share);
            let mut store = loss.backward().map_err(|e| Error::Evaluate {
                place: "backward pass".into(),
                problem: e.to_string(),
            })?;
            self.student
                .accumulate(&leaves, &mut store, share, &mut self.sums)?;
        }
        if !total.is_finite() {
            return Err(Error::Evaluate {
                place: format!("step {}", self.step),
                problem: format!(
                    "expected a finite loss, found {total}; a smaller learning rate may help"
                ),
            });
        }
        let (sums, clip) = (&mut self.sums, self.config.clip);
        self.student.update(sums, clip, &mut self.optimizer, rate)?;
        Ok(total)
    }
}

fn number(loss: &candle_core::Tensor) -> Result<f64> {
    loss.to_scalar::<f32>()
        .map(f64::from)
        .map_err(|e| Error::Evaluate {
            place: "loss".into(),
            problem: e.to_string(),
        })
}
