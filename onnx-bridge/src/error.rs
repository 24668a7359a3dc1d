//! What can go wrong in this crate.

use thiserror::Error;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of `onnx-bridge`. Each names its place, what was expected and what was found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing to decode.
    #[error("empty file: expected an ONNX model, found 0 bytes")]
    Empty,
    /// Printable text where a protobuf message belongs.
    #[error("text file: expected an ONNX model (protobuf), found text starting with {start:?}")]
    Text {
        /// The first characters.
        start: String,
    },
    /// The bytes are no protobuf message of the schema: damaged, cut short, or something else.
    #[error("not an ONNX model, or cut short: {source} (in {bytes} bytes)")]
    Decode {
        /// How many bytes there were.
        bytes: usize,
        /// Where the decoder stopped.
        source: prost::DecodeError,
    },
    /// A field that every model has is not there.
    #[error("{place}: expected a field `{field}`, found none")]
    MissingField {
        /// What lacks it.
        place: String,
        /// The field.
        field: &'static str,
    },
    /// The model was written with a newer schema; rewriting it would lose fields.
    #[error(
        "model: field `ir_version`: expected 1 to {newest}, found {found}; a newer tnq is needed"
    )]
    IrVersion {
        /// The version in the file.
        found: i64,
        /// The newest one the schema knows.
        newest: i64,
    },
    /// The data of a tensor does not fit its shape and type.
    #[error("tensor `{tensor}`: field `{field}`: expected {expected} ({kind}), found {found}")]
    TensorLength {
        /// The tensor.
        tensor: String,
        /// The field that holds the data.
        field: &'static str,
        /// The type of its elements and its shape.
        kind: String,
        /// The length that the shape asks for.
        expected: String,
        /// The length that is there.
        found: String,
    },
    /// A tensor's shape or type is impossible.
    #[error("tensor `{tensor}`: field `{field}`: {problem}")]
    BadTensor {
        /// The tensor.
        tensor: String,
        /// The field.
        field: &'static str,
        /// What was expected and found.
        problem: String,
    },
    /// Two values of one graph have the same name.
    #[error(
        "graph `{graph}`: expected every value to be defined once, found `{value}` defined again by {place}"
    )]
    DuplicateValue {
        /// The graph.
        graph: String,
        /// The value.
        value: String,
        /// The second definition.
        place: String,
    },
    /// A node or an output refers to a value that nothing defines.
    #[error("{place}: field `{field}`: expected a value that the graph defines, found `{value}`")]
    UndefinedValue {
        /// The node, or the graph.
        place: String,
        /// The field.
        field: &'static str,
        /// The name.
        value: String,
    },
    /// A node's attribute is malformed.
    #[error("{place}: attribute `{attribute}`: expected {expected}, found {found}")]
    BadAttribute {
        /// The node.
        place: String,
        /// The attribute.
        attribute: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A tensor stands in another file and cannot be had.
    #[error("tensor `{tensor}`: external data `{location}`: {problem}")]
    External {
        /// The tensor.
        tensor: String,
        /// The file it names.
        location: String,
        /// What was expected and found.
        problem: String,
    },
    /// An array of a data set does not fit the others.
    #[error("data: array `{array}`: {problem}")]
    Dataset {
        /// The array.
        array: String,
        /// What was expected and found.
        problem: String,
    },
    /// A data set lacks an input of the model.
    #[error("data: expected an array named `{input}` for the model's input, found {found:?}")]
    MissingInput {
        /// The input.
        input: String,
        /// The arrays there are.
        found: Vec<String>,
    },
    /// An archive of arrays cannot be read.
    #[error("data: {0}")]
    Format(#[from] tn_formats::Error),
    /// The engine does not take the model, or not these inputs.
    #[error("tract: {stage}: {problem}")]
    Engine {
        /// What it was doing.
        stage: &'static str,
        /// What it says.
        problem: String,
    },
    /// Two models that should be compared do not have the same outputs.
    #[error("output `{output}`: expected {expected}, found {found}")]
    Outputs {
        /// The output.
        output: String,
        /// What the original has.
        expected: String,
        /// What the other one has.
        found: String,
    },
    /// A weight cannot be solved as planned.
    #[error("weight `{weight}`: {problem}")]
    Plan {
        /// The weight.
        weight: String,
        /// What was expected and found.
        problem: String,
    },
    /// The interpreter lacks operators that the graph needs; nothing was computed.
    #[error("expected operators that can be trained through, found {}; layer-wise fitting still works", operators.join(", "))]
    MissingOperators {
        /// Their names, with how many nodes use each.
        operators: Vec<String>,
    },
    /// A part of the graph could not be evaluated.
    #[error("{place}: {problem}")]
    Evaluate {
        /// The node.
        place: String,
        /// What was expected and found.
        problem: String,
    },
    /// A setting of a run is out of range.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// A saved state cannot be used.
    #[error("checkpoint: {problem}")]
    Checkpoint {
        /// What was expected and found.
        problem: String,
    },
    /// One protobuf message cannot hold this much.
    #[error(
        "model: expected at most {limit} bytes in one file, found {found}; larger models need external data"
    )]
    TooLarge {
        /// The most that fits.
        limit: u64,
        /// The size it would have.
        found: u64,
    },
}

/// A printable name of a node: its own, or its operator and first output.
pub(crate) fn node_place(node: &crate::proto::NodeProto) -> String {
    match (node.name(), node.output.first()) {
        ("", Some(output)) => format!("node {} (output `{output}`)", node.op_type()),
        ("", None) => format!("node {}", node.op_type()),
        (name, _) => format!("node `{name}` ({})", node.op_type()),
    }
}
