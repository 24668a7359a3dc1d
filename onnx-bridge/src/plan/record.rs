//! The plan as a file: what every weight becomes, and why.

use serde::{Deserialize, Serialize};

use super::form::Candidate;
use super::session::Goal;
use crate::emit::packed::RunsOn;

/// One weight of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedWeight {
    /// The name under which it is stored.
    pub name: String,
    /// The operator that uses it.
    pub op: String,
    /// Outputs by inputs of a dense layer, rows by columns of a table.
    pub shape: [usize; 2],
    /// What it becomes.
    pub choice: Candidate,
    /// The bytes of its data as it is.
    pub bytes_before: u64,
    /// The bytes of its data as chosen.
    pub bytes: u64,
    /// Its part of the predicted loss, squared relative output error.
    pub predicted_loss: f64,
}

/// The choices for all weights of a model.
///
/// ```
/// use onnx_bridge::plan::Plan;
///
/// let text = r#"{"schema":1,"base":"","goal":{"bytes":9000000},"weights":[{"name":"w","op":"MatMul","shape":[8,8],
///   "choice":{"form":"dense","format":{"levels":6,"block":8}},"bytes_before":256,"bytes":34,"predicted_loss":0.1}],
///   "predicted_loss":0.1,"bytes":100}"#;
/// let plan: Plan = serde_json::from_str(text)?;
/// assert_eq!(plan.weights[0].choice.bits(), 3);
/// assert!(serde_json::from_str::<Plan>(&text.replace("\"levels\":6", "\"levels\":7")).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of this form, [`Plan::SCHEMA`].
    pub schema: u32,
    /// A digest of the model and the data that it was made for.
    pub base: String,
    /// The goal it was made for.
    pub goal: Goal,
    /// The engines it was made for.
    #[serde(rename = "target", default)]
    pub runs_on: RunsOn,
    /// The weights.
    pub weights: Vec<PlannedWeight>,
    /// The predicted loss of all, squared relative output error.
    pub predicted_loss: f64,
    /// The bytes of the whole file.
    pub bytes: u64,
}

impl Plan {
    /// The version that this crate writes and reads.
    pub const SCHEMA: u32 = 1;
}
