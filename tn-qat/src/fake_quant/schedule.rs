//! When a layer starts to quantize, and when its steps start and stop to move.

use serde::{Deserialize, Serialize};

/// What the quantizers of a layer do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QatPhase {
    /// Weights pass unchanged.
    Float,
    /// Weights are quantized; the steps follow the weights (set anew by `observe`) and get no gradient.
    Observe,
    /// Weights are quantized with learned steps.
    #[default]
    Learn,
    /// Weights are quantized; steps and zero points stand still.
    Freeze,
}

/// A warm-up in floating point, then observed steps, then learned ones, frozen at the end.
///
/// ```
/// use tn_qat::{QatPhase, QatSchedule};
/// let schedule = QatSchedule { float: 10, observe: 5, freeze_from: 90 };
/// assert_eq!([0, 10, 15, 90].map(|t| schedule.phase(t)), [
///     QatPhase::Float, QatPhase::Observe, QatPhase::Learn, QatPhase::Freeze,
/// ]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QatSchedule {
    /// Number of first steps without quantization.
    pub float: u64,
    /// Number of steps after those whose quantization steps follow the weights.
    pub observe: u64,
    /// First step from which steps and zero points stand still.
    pub freeze_from: u64,
}

impl Default for QatSchedule {
    /// Learned from the first step to the last.
    fn default() -> Self {
        Self {
            float: 0,
            observe: 0,
            freeze_from: u64::MAX,
        }
    }
}

impl QatSchedule {
    /// The phase of optimizer step `t`, from 0.
    pub fn phase(&self, t: u64) -> QatPhase {
        if t < self.float {
            QatPhase::Float
        } else if t >= self.freeze_from {
            QatPhase::Freeze
        } else if t < self.float.saturating_add(self.observe) {
            QatPhase::Observe
        } else {
            QatPhase::Learn
        }
    }
}
