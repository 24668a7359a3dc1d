//! The training loop: phases, rates, evaluations, the best state, and going on from a checkpoint.

use std::time::Instant;

use tn_qat::{AdamW, QatPhase, Schedule};

use super::batches::{Batches, is_mask, split};
use super::checkpoint::{Best, Checkpoint, optimizer};
use super::config::{Chosen, FinetuneConfig, Length};
use super::objective::Objective;
use super::report::{Ending, Evaluation, FinetuneOutcome, Observer, Start, Started, StepReport};
use super::student::{Kind, Student, Sums};
use super::teacher::Teacher;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::ValueInfoProto;

/// The last part of the run, in which the quantization steps stand still.
const FROZEN_PART: f64 = 0.05;

/// Schedules see a run by the clock as this many steps.
const CLOCK: u64 = 1_000_000;

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) config: &'a FinetuneConfig,
    pub(super) objective: Objective,
    /// The teacher's values of all samples, where they are kept.
    pub(super) teacher: Option<Teacher>,
    pub(super) batches: Batches<'a>,
    pub(super) student: Student,
    pub(super) sums: Sums,
    chosen: Chosen,
    pub(super) optimizer: AdamW<f32>,
    best: Option<Best>,
    curve: Vec<Evaluation>,
    pub(super) step: u64,
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
/// candle keeps threads of its own beside rayon's, which wait by spinning; `CANDLE_NUM_THREADS=1` in the environment leaves rayon's alone.
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
    let start = Instant::now();
    let trained = Student::new(student, teacher, from.warm, config.train)?;
    let objective = Objective::new(teacher, student, &trained, config)?;
    let (training, held_back) = split(data.len(), config.held_back, config.seed);
    let (training, held_back) = (training.len(), held_back.len());
    let (chosen, mask, batches) = plan_batches(teacher, data, config, trained.kind())?;
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
        batch: chosen.batch,
        learning_rate: chosen.learning_rate,
        float_part: chosen.float_part,
        steps: chosen.steps,
        mask,
        training,
        held_back,
        step: from.resume.map_or(0, Checkpoint::step),
    });
    let teacher = if kept(config, &chosen, training) {
        in_pool(|| Teacher::new(&objective, &batches))?
    } else {
        None
    };
    let mut run = Run {
        config,
        objective,
        teacher,
        batches,
        sums: trained.sums(),
        chosen,
        student: trained,
        optimizer: optimizer(config)?,
        best: None,
        curve: Vec::new(),
        step: 0,
        earlier: 0.0,
        start,
    };
    match from.resume {
        Some(checkpoint) => run.resume(checkpoint)?,
        None => run.judge(QatPhase::Learn, observer)?,
    }
    let ending = run.train(observer)?;
    let first_loss = run.curve.first().map_or(f64::NAN, |e| e.loss);
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
        curve: run.curve,
    })
}

/// The samples of a data set of so many that a run holds back: it is not trained on them, and its best state is best on them.
pub fn held_back(samples: usize, config: &FinetuneConfig) -> Vec<usize> {
    split(samples, config.held_back, config.seed).1
}

/// What a run chooses for a student whose weights are mostly of `kind`, the mask that it uses, and its batches.
pub(super) fn plan_batches<'a>(
    teacher: &Model,
    data: &'a Dataset,
    config: &FinetuneConfig,
    kind: Kind,
) -> Result<(Chosen, Option<String>, Batches<'a>)> {
    let inputs = inputs(teacher);
    let mask = mask(config, &inputs, data);
    let training = split(data.len(), config.held_back, config.seed).0.len();
    let chosen = config.choose(kind, training);
    let settings = (chosen.batch, config.held_back, config.seed);
    let batches = Batches::new(data, inputs, mask.as_deref(), settings)?;
    Ok((chosen, mask, batches))
}

/// What the teacher is fed.
pub(super) fn inputs(teacher: &Model) -> Vec<String> {
    let graph = teacher.graph();
    let initial: Vec<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    let inputs = graph.input.iter().map(ValueInfoProto::name);
    inputs
        .filter(|n| !initial.contains(n))
        .map(str::to_string)
        .collect()
}

/// The input that switches off padded positions: the one asked for, or one that is called a mask and looks like one.
pub(super) fn mask(config: &FinetuneConfig, inputs: &[String], data: &Dataset) -> Option<String> {
    config.mask.clone().or_else(|| {
        let named = inputs.iter().find(|i| i.to_lowercase().contains("mask"))?;
        is_mask(data.input(named).ok()?).then(|| named.clone())
    })
}

/// Whether a run sees samples often enough for the teacher's values to be kept; mixed samples are none of the data's.
fn kept(config: &FinetuneConfig, chosen: &Chosen, training: usize) -> bool {
    let passes = chosen.steps.map_or(f64::INFINITY, |steps| {
        steps as f64 * chosen.batch as f64 / training.max(1) as f64
    });
    passes >= 1.5 && config.mix == 0.0
}

/// Runs `f` on a thread of the pool: from outside, every parallel loop would put the calling thread to sleep and wake it again.
fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

impl Run<'_> {
    fn seconds(&self) -> f64 {
        self.earlier + self.start.elapsed().as_secs_f64()
    }

    /// The part of the run that is done, as the schedules see it.
    fn progress(&self) -> (u64, u64) {
        match (self.chosen.steps, self.config.length) {
            (Some(steps), _) => (self.step, steps),
            (None, Length::Time(limit)) => {
                let part = (self.seconds() / limit.as_secs_f64()).min(1.0);
                ((part * CLOCK as f64) as u64, CLOCK)
            }
            (None, _) => (CLOCK, CLOCK),
        }
    }

    fn phase(&self) -> QatPhase {
        let (at, all) = self.progress();
        let part = at as f64 / all as f64;
        if part < self.chosen.float_part {
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
        self.curve.clone_from(&checkpoint.curve);
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
            curve: self.curve.clone(),
        }
    }

    fn train(&mut self, observer: &mut dyn Observer) -> Result<Ending> {
        let mut next = self.next_evaluation();
        loop {
            let (at, all) = self.progress();
            if at >= all {
                return Ok(Ending::Finished);
            }
            let phase = self.phase();
            self.student.set_phase(phase)?;
            let rate = Schedule::ONE_CYCLE.rate(self.chosen.learning_rate, at, all);
            let loss = in_pool(|| self.update(rate))?;
            self.step += 1;
            let (at, all) = self.progress();
            let part = at as f64 / all as f64;
            let flow = observer.step(&StepReport {
                step: self.step,
                steps: self.chosen.steps,
                part,
                loss,
                seconds: self.seconds(),
            });
            if part >= next || at >= all {
                self.judge(phase, observer)?;
                next = self.next_evaluation();
                observer.checkpoint(&|| self.checkpoint());
            }
            if flow.is_break() {
                observer.checkpoint(&|| self.checkpoint());
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
        let loss = in_pool(|| self.evaluate())?;
        let better = phase != QatPhase::Float && self.best.as_ref().is_none_or(|b| loss < b.loss);
        if better {
            self.best = Some(Best {
                loss,
                step: self.step,
                parameters: self.student.snapshot(),
            });
        }
        let evaluation = Evaluation {
            step: self.step,
            loss,
            phase,
            best: self.best.as_ref().map(|b| b.loss),
            seconds: self.seconds(),
        };
        self.curve.push(evaluation);
        observer.evaluated(&evaluation);
        Ok(())
    }
}
