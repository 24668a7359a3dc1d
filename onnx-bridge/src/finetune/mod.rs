//! End-to-end quantization-aware distillation of a graph, without Python.
//!
//! The student is a compressed file: plain ONNX whose rewritten layers decode integers into cores and factors. Those
//! integers become trainable numbers behind fake quantization, the rest of the graph is interpreted over candle tensors,
//! and the original model is the teacher.
//!
//! ```text
//! teacher ──Program──> hidden states, outputs ─────────────┐
//!                                                          loss ──backward──> AdamW ──> parameters
//! student ──Program──> constant | per batch | hot part ────┘                               │
//!                                    ▲                                                     │
//!                                    └──── fake quantization (learned steps) <─────────────┘
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `value` | float tensors, which may carry a gradient; integers and booleans as host arrays that never do |
//! | `ops` | the operators: a table from `op_type` to a function over values |
//! | `fusing` | parts of a graph that run as one operator: GELU, products with a bias, attention |
//! | `kernels` | operators with a backward pass of their own |
//! | `program`, `tape` | a graph sorted into constant, per batch and hot; the way back through the hot part |
//! | `interpret` | a model's outputs on a data set |
//! | `student` | what is trained, its leaves and gradients, and the way back into the file |
//! | `objective`, `loss` | teacher and student on a batch, and the loss between them |
//! | `batches`, `mix` | the order of samples, lengths, masks; mixed samples |
//! | `teacher` | what the teacher makes of every sample, kept |
//! | `train`, `passes` | the loop; what it computes |
//! | `left` | how much of every weight's error a training left |
//! | `checkpoint`, `report` | the state of a run and its file; what it says |

mod batches;
mod checkpoint;
mod config;
mod fusing;
mod interpret;
mod kernels;
mod left;
mod loss;
mod mix;
mod objective;
mod ops;
mod passes;
mod program;
mod report;
mod student;
mod tape;
mod teacher;
mod train;
mod value;

pub use checkpoint::Checkpoint;
pub use config::{FinetuneConfig, Length, LossKind, Train};
pub use interpret::interpret;
pub use left::left_by_training;
pub use program::missing_operators;
pub use report::{
    Ending, Evaluation, FinetuneOutcome, Observer, Silent, Start, Started, StepReport,
};
pub use train::{finetune, held_back};
