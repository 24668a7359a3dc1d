//! Weights that dense codes can stand for where they are stored: operators make the value again under its own name, so
//! nothing that reads it changes.

use std::collections::HashSet;

use crate::axes::turned;
use crate::proto::{
    DataType, FunctionProto, GraphProto, NodeProto, attribute, int_or, is_standard_domain,
};
use crate::rewrite::agree;
use crate::skip::SkipReason;
use crate::view::{GraphView, Use};
use crate::walk;
use crate::weight::{Role, Weight};

/// The most operators between a weight and those that multiply by it.
const MOST_STEPS: usize = 256;

/// How a weight can be rewritten.
#[derive(Debug, Clone)]
pub(crate) enum Way<'w> {
    /// As what it is to its layers: a network can take its place.
    Layers(&'w Role),
    /// As codes of itself: see [`InPlace`].
    InPlace(InPlace),
}

impl<'w> Way<'w> {
    /// The way for a weight.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(crate) fn of(view: &GraphView<'_>, weight: &'w Weight<'_>) -> Result<Self, SkipReason> {
        let reason = match weight.role() {
            Ok(role) => match agree(view, role) {
                Ok(()) => return Ok(Self::Layers(role)),
                Err(reason) => reason,
            },
            Err(reason) => reason.clone(),
        };
        InPlace::find(view, weight).map(Self::InPlace).ok_or(reason)
    }
}

/// A stored tensor that every use multiplies by: directly, through operators that move its elements, from inside subgraphs
/// or functions. A table that rows are looked up in counts where something multiplies by it too.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InPlace {
    shape: Vec<usize>,
    element: DataType,
    outputs_last: bool,
    first_use: usize,
    producer: Option<usize>,
}

impl InPlace {
    fn find(view: &GraphView<'_>, weight: &Weight<'_>) -> Option<Self> {
        let (name, shape) = (weight.name(), weight.shape());
        let element = DataType::try_from(weight.tensor().data_type()).ok()?;
        let float = matches!(
            element,
            DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double
        );
        if !float || shape.len() < 2 || shape.contains(&0) || view.is_overridable(name) {
            return None;
        }
        let mut walk = Walk {
            functions: view.functions(),
            steps: MOST_STEPS,
            outputs_last: None,
        };
        walk.follow(&Place::Main(view), name, Order::AsStored)?;
        Some(Self {
            shape: shape.to_vec(),
            element,
            outputs_last: walk.outputs_last?,
            first_use: view.consumers(name).iter().map(|u| u.node).min()?,
            producer: view.producer(name),
        })
    }

    /// `[M, N]` of the matrix that is quantized: the axes of the tensor, all but the last taken together, the one that holds
    /// the outputs first.
    pub(crate) fn matrix(&self) -> [usize; 2] {
        let [leading, last] = self.stored_matrix();
        if self.outputs_last {
            [last, leading]
        } else {
            [leading, last]
        }
    }

    fn stored_matrix(&self) -> [usize; 2] {
        let last = self.shape.last().copied().unwrap_or(1);
        [self.shape.iter().product::<usize>() / last.max(1), last]
    }

    /// Its shape as stored.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its element type.
    pub(crate) fn element(&self) -> DataType {
        self.element
    }

    /// Whether the last stored axis holds the outputs: then `[M, N]` is the transpose of what is stored.
    pub(crate) fn is_transposed(&self) -> bool {
        self.outputs_last
    }

    /// The node that its value has to stand before.
    pub(crate) fn first_use(&self) -> usize {
        self.first_use
    }

    /// The Constant node that holds it, where it is no initializer.
    pub(crate) fn producer(&self) -> Option<usize> {
        self.producer
    }

    /// The numbers of a weight as the matrix `[M, N]`.
    ///
    /// # Errors
    /// [`SkipReason::ElementType`] and [`SkipReason::NotFinite`].
    pub(crate) fn values(&self, weight: &Weight<'_>) -> Result<Vec<f32>, SkipReason> {
        let tensor = weight.tensor();
        let data = crate::tensor::to_f32(tensor).ok_or_else(|| SkipReason::ElementType {
            found: crate::tensor::type_name(tensor.data_type()).to_string(),
        })?;
        if let Some(index) = data.iter().position(|v| !v.is_finite()) {
            return Err(SkipReason::NotFinite { index });
        }
        Ok(if self.outputs_last {
            turned(&data, self.stored_matrix()[1])
        } else {
            data
        })
    }

    /// The inverse of [`InPlace::values`]: the numbers in stored order.
    pub(crate) fn stored(&self, matrix: &[f32]) -> Vec<f32> {
        if self.outputs_last {
            turned(matrix, self.matrix()[1])
        } else {
            matrix.to_vec()
        }
    }
}

/// Whether the axes come in the stored order or turned round by a Transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    AsStored,
    Turned,
}

/// A list of nodes in which a value is followed.
enum Place<'p, 'a> {
    Main(&'p GraphView<'a>),
    Nested {
        nodes: &'a [NodeProto],
        outputs: HashSet<&'a str>,
    },
}

impl<'p, 'a> Place<'p, 'a> {
    fn nested(graph: &'a GraphProto) -> Self {
        Self::Nested {
            nodes: &graph.node,
            outputs: graph.output.iter().map(|o| o.name()).collect(),
        }
    }

    fn is_output(&self, value: &str) -> bool {
        match self {
            Self::Main(view) => view.is_output(value),
            Self::Nested { outputs, .. } => outputs.contains(value),
        }
    }

    /// Every node that reads a value, and as which input; nodes with subgraphs come with [`Use::CAPTURED`].
    fn consumers(&self, value: &str) -> Vec<(&'a NodeProto, usize)> {
        let nodes = match self {
            Self::Main(view) => {
                let uses = view.consumers(value).iter();
                return uses.map(|u| (view.node(u.node), u.input)).collect();
            }
            Self::Nested { nodes, .. } => nodes,
        };
        let mut found = Vec::new();
        for node in *nodes {
            let inputs = node.input.iter().enumerate();
            found.extend(inputs.filter(|(_, n)| *n == value).map(|(i, _)| (node, i)));
            if walk::subgraphs(node).next().is_some() {
                found.push((node, Use::CAPTURED));
            }
        }
        found
    }
}

/// What a node does with a constant.
enum Effect {
    /// Its results are the same numbers.
    Moves,
    /// It multiplies by it; the axis that is kept in the result is the last one or an earlier one.
    Multiplies { outputs_last: bool },
    /// It looks up rows.
    LooksUp,
    /// Anything else.
    Other,
}

fn effect(node: &NodeProto, input: usize) -> Effect {
    let flag = |name: &str| int_or(node, name, 0) != 0;
    let standard = is_standard_domain(node.domain());
    let multiplies = |outputs_last| Effect::Multiplies { outputs_last };
    match (standard, node.domain(), node.op_type(), input) {
        (true, _, "Identity" | "Transpose" | "Reshape" | "Squeeze" | "Unsqueeze", 0)
        | (true, _, "Flatten" | "Slice" | "Split", 0)
        | (true, _, "Concat", _) => Effect::Moves,
        (true, _, "Cast", 0) => {
            let to = i32::try_from(int_or(node, "to", 0)).map(DataType::try_from);
            match to {
                Ok(Ok(
                    DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double,
                )) => Effect::Moves,
                _ => Effect::Other,
            }
        }
        (true, _, "Gather", 0) => Effect::LooksUp,
        (true, _, "MatMul", 0) => multiplies(false),
        (true, _, "MatMul", 1) => multiplies(true),
        (true, _, "Gemm", 0) | (false, "com.microsoft", "FusedMatMul" | "FusedGemm", 0) => {
            multiplies(flag("transA"))
        }
        (true, _, "Gemm", 1) | (false, "com.microsoft", "FusedMatMul" | "FusedGemm", 1) => {
            multiplies(!flag("transB"))
        }
        (true, _, "Einsum", _) => multiplies(keeps_last_axis(node, input)),
        (true, _, "LSTM" | "GRU" | "RNN", 1 | 2) | (true, _, "Conv" | "ConvTranspose", 1) => {
            multiplies(false)
        }
        (false, "com.microsoft", "Attention", 1) => multiplies(true),
        (false, "com.microsoft", "FusedConv", 1) => multiplies(false),
        _ => Effect::Other,
    }
}

/// Whether the last axis of an Einsum's operand stands in its result.
fn keeps_last_axis(node: &NodeProto, input: usize) -> bool {
    let equation = attribute(node, "equation").and_then(|a| a.s.as_ref());
    let equation = equation.map(|s| String::from_utf8_lossy(s).replace(' ', ""));
    let Some((terms, result)) = equation.as_deref().and_then(|e| e.split_once("->")) else {
        return true;
    };
    let label = terms.split(',').nth(input).and_then(|t| t.chars().last());
    label.is_none_or(|label| result.contains(label))
}

struct Walk<'a> {
    functions: &'a [FunctionProto],
    steps: usize,
    outputs_last: Option<bool>,
}

impl<'a> Walk<'a> {
    /// Follows a value to everything that reads it; `None` where one use does not multiply.
    fn follow(&mut self, place: &Place<'_, 'a>, value: &str, order: Order) -> Option<()> {
        self.steps = self.steps.checked_sub(1)?;
        if place.is_output(value) {
            return None;
        }
        for (node, input) in place.consumers(value) {
            if input == Use::CAPTURED {
                for graph in walk::subgraphs(node) {
                    if !defines(graph, value) {
                        self.follow(&Place::nested(graph), value, order)?;
                    }
                }
                continue;
            }
            match effect(node, input) {
                Effect::Moves => {
                    let order = match (node.op_type(), order) {
                        ("Transpose", Order::AsStored) => Order::Turned,
                        ("Transpose", Order::Turned) => Order::AsStored,
                        _ => order,
                    };
                    for output in node.output.iter().filter(|o| !o.is_empty()) {
                        self.follow(place, output, order)?;
                    }
                }
                Effect::Multiplies { outputs_last } => {
                    let last = outputs_last == (order == Order::AsStored);
                    self.outputs_last.get_or_insert(last);
                }
                Effect::LooksUp => {}
                Effect::Other => self.call(node, input, order)?,
            }
        }
        Some(())
    }

    /// Follows an argument into the body of a model-local function.
    fn call(&mut self, node: &NodeProto, input: usize, order: Order) -> Option<()> {
        let function = self.functions.iter().find(|f| {
            f.name() == node.op_type()
                && f.domain() == node.domain()
                && f.overload() == node.overload()
        })?;
        let body = Place::Nested {
            nodes: &function.node,
            outputs: function.output.iter().map(String::as_str).collect(),
        };
        self.follow(&body, function.input.get(input)?, order)
    }
}

/// Whether a graph has a value of its own under a name.
fn defines(graph: &GraphProto, value: &str) -> bool {
    graph.input.iter().any(|i| i.name() == value)
        || graph.initializer.iter().any(|t| t.name() == value)
        || graph
            .node
            .iter()
            .any(|n| n.output.iter().any(|o| o == value))
}
