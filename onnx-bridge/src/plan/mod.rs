//! Choosing what every weight becomes, from data and globally.

mod allocate;
#[cfg(feature = "tract")]
mod apply;
#[cfg(feature = "tract")]
mod candidates;
#[cfg(feature = "tract")]
mod check;
#[cfg(feature = "tract")]
mod compensation;
#[cfg(feature = "tract")]
mod context;
#[cfg(feature = "tract")]
mod correct;
mod curve;
mod feedback;
#[cfg(feature = "tract")]
mod form;
#[cfg(feature = "tract")]
mod front;
#[cfg(feature = "tract")]
mod kernel;
#[cfg(feature = "tract")]
mod losses;
#[cfg(feature = "tract")]
mod low_rank;
mod metric;
#[cfg(feature = "tract")]
mod outputs;
#[cfg(feature = "tract")]
mod probes;
#[cfg(feature = "tract")]
mod ranks;
#[cfg(feature = "tract")]
mod record;
mod rounding;
#[cfg(feature = "tract")]
mod runner;
#[cfg(feature = "tract")]
mod search;
#[cfg(feature = "tract")]
mod sequence;
#[cfg(feature = "tract")]
mod session;
#[cfg(feature = "tract")]
mod solve;
#[cfg(feature = "tract")]
mod spd;
mod store;
#[cfg(feature = "tract")]
mod survey;
#[cfg(feature = "tract")]
mod tradeoff;
#[cfg(feature = "tract")]
mod train;

pub use allocate::{Allocation, Limits, Outcome, allocate};
#[cfg(feature = "tract")]
pub(crate) use context::Context;
pub use curve::{Curve, Point};
pub use feedback::{Effort, quantize};
#[cfg(feature = "tract")]
pub use form::{Candidate, Form};
pub use metric::Metric;
#[cfg(feature = "tract")]
pub use solve::solve;
pub use store::{MemoryStore, Store};
#[cfg(feature = "tract")]
pub(crate) use survey::survey_moments;
#[cfg(feature = "tract")]
pub use {
    apply::{OutputLoss, Solved},
    record::{Plan, PlannedWeight},
    session::{Goal, Planned, Session, compress_planned, plan_again, replay},
    tradeoff::{Baseline, Ended, Tradeoff, TradeoffPoint, TriedPlan},
};
