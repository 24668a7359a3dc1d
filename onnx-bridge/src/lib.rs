#![doc = include_str!("../README.md")]

mod auto;
mod axes;
pub mod blocks;
#[cfg(feature = "tract")]
pub mod calibrate;
mod choice;
mod constant;
mod conv_layer;
mod dataset;
mod dense_layer;
#[cfg(feature = "tract")]
mod diagnose;
mod digest;
mod emit;
#[cfg(feature = "tract")]
mod engine;
mod error;
mod external;
#[cfg(feature = "finetune")]
pub mod finetune;
#[cfg(feature = "tract")]
mod fit;
mod in_place;
#[cfg(feature = "tract")]
mod inline;
mod inspect;
mod model;
mod nested;
mod network;
mod patch;
#[cfg(feature = "tract")]
mod pieces;
pub mod plan;
pub mod proto;
mod recognise;
mod reference;
mod rewrite;
#[cfg(feature = "tract")]
mod run_plan;
#[cfg(feature = "tract")]
pub mod runtime;
mod skip;
#[cfg(feature = "tract")]
mod stack;
mod subject;
mod table;
mod table_layer;
mod table_train;
pub mod tensor;
mod text;
mod validate;
#[cfg(feature = "tract")]
mod verify;
mod view;
mod walk;
mod weight;

pub use choice::{
    CoreGranularity, FormatRule, Growth, Job, LayerChoice, MappingChoice, NetworkChoice,
    Quantization, Spec,
};
pub use constant::Constant;
pub use conv_layer::{ConvLayer, ConvOp};
pub use dataset::Dataset;
pub use dense_layer::{Bias, DenseLayer, DenseOp};
#[cfg(feature = "tract")]
pub use diagnose::{Became, Diagnosis, ErrorHistogram, Spectrum, diagnose};
pub use emit::FOLDED_ELEMENTS;
#[cfg(feature = "tract")]
pub use emit::packed::RunsOn;
#[cfg(feature = "tract")]
pub use engine::{BATCH, Engine, InputInfo, check_data, model_inputs};
pub use error::{Error, Result};
pub use external::{ExternalData, Folder, NoExternalData, Parts};
#[cfg(feature = "tract")]
pub use fit::{fit_job, fit_jobs};
pub use inspect::{Format, Inspection, Verdict, WeightInfo, inspect};
pub use model::Model;
pub use network::Network;
pub use patch::GraphPatch;
pub use recognise::{
    BlockExtent, BlockValues, Lookup, Stored, StoredArray, StoredBlocks, stored_arrays,
    stored_blocks,
};
pub use reference::dense_reference;
pub use rewrite::{Outcome, RewriteEntry, RewriteReport, Rewritten, compress, compress_with};
pub use skip::SkipReason;
#[cfg(feature = "tract")]
pub use stack::{DenseStack, StackLayer};
pub use table::CodedTable;
pub use table_layer::TableLayer;
pub use table_train::TableTrain;
pub use text::graph_text;
#[cfg(feature = "tract")]
pub use verify::{
    Synthesized, Verification, synthesize, synthesize_sized, verify, verify_synthesized,
};
pub use view::{GraphView, Use};
pub use weight::{Role, Weight};
