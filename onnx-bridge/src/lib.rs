//! Rewrites the dense layers of ONNX models into quantized tensor networks.

mod constant;
mod dense_layer;
mod error;
mod external;
mod inspect;
mod model;
mod patch;
pub mod proto;
mod skip;
pub mod tensor;
mod text;
mod validate;
mod view;
mod walk;
mod weight;

pub use constant::Constant;
pub use dense_layer::{Bias, DenseLayer, DenseOp};
pub use error::{Error, Result};
pub use external::{ExternalData, Folder, NoExternalData};
pub use inspect::{Format, Inspection, Verdict, WeightInfo, inspect};
pub use model::Model;
pub use patch::GraphPatch;
pub use skip::SkipReason;
pub use text::graph_text;
pub use view::{GraphView, Use};
pub use weight::Weight;
