//! Calibration: what every weight is given, and how much its errors matter, from running the model on data.

mod batches;
mod moments;
pub(crate) mod segment;
mod sensitivity;
mod stage;
mod target;

pub(crate) use batches::{Batch, Values};
pub use moments::Moments;
pub(crate) use moments::{Centre, Drift, outer};
pub use sensitivity::Sensitivity;
pub(crate) use sensitivity::{measure, square_sums};
pub(crate) use stage::Stages;
pub use target::{Target, TargetKind};
