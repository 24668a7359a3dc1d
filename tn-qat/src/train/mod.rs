//! Training of one layer or of a stack of layers, without any graph.

mod activation;
mod network;
mod objective;
mod run;
#[cfg(test)]
mod tests;

pub use activation::Activation;
pub use network::{Network, NetworkState};
pub use objective::{Objective, accuracy};
pub use run::{TrainConfig, TrainReport, TrainState, train, train_until};
