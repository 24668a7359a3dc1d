//! Learning rates over time.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// The learning rate as a function of the step, as a factor of the peak rate times the peak.
///
/// ```
/// use tn_qat::Schedule;
/// let one_cycle = Schedule::OneCycle { warm_up: 0.25, start: 0.04, end: 0.0 };
/// assert!((one_cycle.rate(1e-3, 0, 101) - 4e-5).abs() < 1e-15);
/// assert_eq!(one_cycle.rate(1e-3, 25, 101), 1e-3);
/// assert!(one_cycle.rate(1e-3, 100, 101) < 1e-12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// The peak throughout.
    #[default]
    Constant,
    /// From the peak down to `end` times the peak along half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983).
    Cosine {
        /// The last rate as a fraction of the peak.
        end: f64,
    },
    /// Up from `start` to the peak in the first `warm_up` part of the steps, then down to `end`, both along half a cosine
    /// (Smith and Topin 2018, arXiv 1708.07120, in PyTorch's form).
    OneCycle {
        /// The part of the steps before the peak.
        warm_up: f64,
        /// The first rate as a fraction of the peak.
        start: f64,
        /// The last rate as a fraction of the peak.
        end: f64,
    },
}

impl Schedule {
    /// One cycle as this project trains: a tenth of the steps up from 1/25, down to 1/1000.
    pub const ONE_CYCLE: Schedule = Schedule::OneCycle {
        warm_up: 0.1,
        start: 0.04,
        end: 1e-3,
    };

    /// The rate of step `t` of `steps`, from 0. Steps past the end have the last rate.
    pub fn rate(&self, peak: f64, t: u64, steps: u64) -> f64 {
        let last = steps.saturating_sub(1).max(1) as f64;
        let at = (t as f64 / last).min(1.0);
        // From a at 0 to b at 1.
        let half_cosine = |a: f64, b: f64, at: f64| b + (a - b) * 0.5 * (1.0 + (PI * at).cos());
        peak * match *self {
            Schedule::Constant => 1.0,
            Schedule::Cosine { end } => half_cosine(1.0, end, at),
            Schedule::OneCycle {
                warm_up,
                start,
                end,
            } => {
                let turn = warm_up.clamp(0.0, 1.0);
                if at < turn {
                    half_cosine(start, 1.0, at / turn)
                } else if turn < 1.0 {
                    half_cosine(1.0, end, (at - turn) / (1.0 - turn))
                } else {
                    1.0
                }
            }
        }
    }
}
