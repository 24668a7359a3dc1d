//! Calibration: what every weight is given, and how much its errors matter, from running the model on data.

mod batches;
mod lookups;
mod moments;
mod native;
pub(crate) mod segment;
mod sensitivity;
mod stage;
mod tail;
mod target;
mod windows;

pub(crate) use batches::{Batch, Values, mask};
pub use lookups::row_importance;
pub(crate) use lookups::{importance, tally};
pub(crate) use moments::Centre;
pub use moments::Moments;
pub(crate) use native::{Operand, looked_up};
pub(crate) use sensitivity::{measure, measure_up_to_each};
pub(crate) use stage::{Nth, Stages};
pub use target::{Target, TargetKind};
pub(crate) use windows::Windows;
