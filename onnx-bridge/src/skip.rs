//! Why a weight stays as it is.

use std::fmt;

use serde::Serialize;

/// The reason a weight is not rewritten: data, never an error, so that every weight of a model is accounted for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SkipReason {
    /// No node uses it.
    Unused,
    /// The operator that uses it has no compressed form here.
    Operator {
        /// The operator.
        op: String,
    },
    /// A table that rows are looked up in, not a matrix that is multiplied.
    Table {
        /// The operator.
        op: String,
    },
    /// The operator that uses it lacks another operand.
    NoOperand {
        /// The operator.
        op: String,
        /// The operand.
        operand: String,
    },
    /// The weight is the left operand of a MatMul: `W X`, not `X W`.
    LeftOperand,
    /// It is what a convolution slides its kernel over, not the kernel.
    ConvolvedInput {
        /// The operator.
        op: String,
    },
    /// The weight stands in the place of a bias.
    Bias {
        /// The operator.
        op: String,
    },
    /// Not a matrix.
    NotAMatrix {
        /// Its shape where it is used.
        shape: Vec<usize>,
    },
    /// Not the kernel of a convolution.
    NotAKernel {
        /// Its shape where it is used.
        shape: Vec<usize>,
    },
    /// A convolution in groups: only dense codes make it smaller.
    Grouped {
        /// The number of groups.
        groups: usize,
        /// The input channels of one.
        channels: usize,
    },
    /// Its element type where it is used is none that is rewritten there.
    ElementType {
        /// The type.
        found: String,
    },
    /// It is quantized already, and read by an operator for that.
    AlreadyQuantized {
        /// The operator.
        op: String,
    },
    /// It holds a NaN or an infinity.
    NotFinite {
        /// Index of the first one, row-major.
        index: usize,
    },
    /// It is a graph input too: the caller may replace it.
    Overridable,
    /// It, or a value made from it, is an output of the graph.
    GraphOutput {
        /// The output.
        output: String,
    },
    /// A subgraph (If, Loop, Scan) refers to it.
    Captured {
        /// The node that holds the subgraph.
        node: String,
    },
    /// Several nodes use it and at least one of them cannot be rewritten.
    Shared {
        /// The nodes.
        nodes: Vec<String>,
        /// Why one of them cannot.
        because: Box<SkipReason>,
    },
    /// An attribute has a value that the operator does not allow.
    Attribute {
        /// The attribute.
        attribute: String,
        /// What it says.
        found: String,
    },
    /// The operators of the compressed form need a newer opset.
    Opset {
        /// The oldest that has them.
        needed: i64,
        /// The model's.
        found: i64,
    },
    /// No candidate is smaller than the weight as it is.
    NoGain {
        /// Its bytes now.
        bytes: u64,
        /// The bytes of the best candidate.
        best: u64,
    },
    /// A rule of the job keeps it.
    Kept {
        /// The rule.
        rule: String,
    },
    /// The format that the job asks for cannot hold this weight.
    Misfit {
        /// What was expected and found.
        problem: String,
    },
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unused => write!(f, "no node uses it"),
            Self::Operator { op } => write!(f, "{op} has no compressed form"),
            Self::Table { op } => write!(
                f,
                "a table of {op}: rows are looked up, nothing is multiplied"
            ),
            Self::NoOperand { op, operand } => write!(f, "{op} without `{operand}`"),
            Self::LeftOperand => {
                write!(f, "left operand of MatMul: only the right one is rewritten")
            }
            Self::ConvolvedInput { op } => write!(f, "the input of {op}, not its kernel"),
            Self::Bias { op } => write!(f, "the bias of {op}"),
            Self::NotAMatrix { shape } => write!(f, "expected a matrix, found shape {shape:?}"),
            Self::NotAKernel { shape } => write!(
                f,
                "expected the kernel of a convolution, of three axes or more, found shape {shape:?}"
            ),
            Self::Grouped {
                groups,
                channels: 1,
            } => write!(
                f,
                "{groups} channels, each convolved by itself: there are no ranks between channels"
            ),
            Self::Grouped { groups, channels } => write!(
                f,
                "{groups} groups of {channels} channels: each would need a basis of its own, about as large as its kernel"
            ),
            Self::ElementType { found } => write!(f, "expected floating point, found {found}"),
            Self::AlreadyQuantized { op } => write!(f, "quantized already: it is read by {op}"),
            Self::NotFinite { index } => write!(
                f,
                "expected finite values, found NaN or infinity at {index}"
            ),
            Self::Overridable => write!(f, "also a graph input: the caller may replace it"),
            Self::GraphOutput { output } => write!(f, "reaches the graph output `{output}`"),
            Self::Captured { node } => write!(f, "used inside the subgraph of {node}"),
            Self::Shared { nodes, because } => {
                write!(
                    f,
                    "shared by {} nodes ({}), and one cannot change: {because}",
                    nodes.len(),
                    nodes.join(", ")
                )
            }
            Self::Attribute { attribute, found } => write!(f, "attribute `{attribute}` is {found}"),
            Self::Opset { needed, found } => {
                write!(f, "needs opset {needed}, the model has {found}")
            }
            Self::NoGain { bytes, best } => {
                write!(f, "{bytes} bytes now, the best candidate takes {best}")
            }
            Self::Kept { rule } => write!(f, "kept by {rule}"),
            Self::Misfit { problem } => write!(f, "{problem}"),
        }
    }
}
