//! Matrices of few levels in blocks: what a dense weight, a table or a factor is stored as below 8 bits.

mod levels;
mod matrix;

pub use levels::{Levels, Word};
pub use matrix::{BlockFormat, BlockMatrix};
pub(crate) use matrix::{scale_of, step_of};
