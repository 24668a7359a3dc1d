//! What a run says of itself, and what it came to.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use tn_qat::QatPhase;

use super::checkpoint::Checkpoint;
use crate::model::Model;

/// What a run says before its first step.
#[derive(Debug, Clone, PartialEq, Default)]
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
    /// Samples per step.
    pub batch: usize,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// The part of the run without quantization.
    pub float_part: f64,
    /// All steps; `None` by the clock.
    pub steps: Option<u64>,
    /// The input that switches off padded positions.
    pub mask: Option<String>,
    /// Samples trained on.
    pub training: usize,
    /// Samples held back.
    pub held_back: usize,
    /// Steps done in earlier sittings.
    pub step: u64,
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// Whether weights were quantized; only then it can be the best.
    pub phase: QatPhase,
    /// The best loss so far.
    pub best: Option<f64>,
    /// Seconds since the start, earlier sittings included.
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

    /// At every evaluation and when the run is stopped; `state` makes the state to resume from, four times the trained
    /// numbers.
    fn checkpoint(&mut self, _state: &dyn Fn() -> Checkpoint) {}
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
    /// Every evaluation, those of earlier sittings included.
    pub curve: Vec<Evaluation>,
}

/// Where a run starts, beside the student itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start<'a> {
    /// A state that the same run left behind.
    pub resume: Option<&'a Checkpoint>,
    /// Another state of the student, whose weights are where the training starts: one with finer codes, 8 bits say, the student's own
    /// codes having lost them; or one that was trained, where parts of it are stored as before.
    pub warm: Option<&'a Model>,
}
