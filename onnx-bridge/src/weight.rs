//! Every stored weight of a model with its uses, and what it is to them.

use crate::constant::Constant;
use crate::conv_layer::ConvLayer;
use crate::dense_layer::DenseLayer;
use crate::error::node_place;
use crate::proto::{TensorProto, attribute, is_standard_domain};
use crate::skip::SkipReason;
use crate::table_layer::TableLayer;
use crate::tensor;
use crate::view::{GraphView, Use};

/// Vectors and other tensors below this size are no weights of their own but part of the graph's structure.
const LARGE_TENSOR_BYTES: usize = 64 * 1024;

/// What a weight is to the nodes that use it: the same to all of them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Role {
    /// The matrix of dense layers, one for every use. They agree on it but for which operator reads it.
    Dense(Vec<DenseLayer>),
    /// The kernel of convolutions, one for every use.
    Conv(Vec<ConvLayer>),
    /// The table that rows are looked up in, one lookup for every use.
    Table(Vec<TableLayer>),
}

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Self::Dense(_) => "a matrix",
            Self::Conv(_) => "a kernel",
            Self::Table(_) => "a table",
        }
    }

    /// The nodes that use the weight, in the order of the file.
    pub fn nodes(&self) -> Vec<usize> {
        match self {
            Self::Dense(layers) => layers.iter().map(DenseLayer::node).collect(),
            Self::Conv(layers) => layers.iter().map(ConvLayer::node).collect(),
            Self::Table(layers) => layers.iter().map(TableLayer::node).collect(),
        }
    }

    /// The nodes between the stored weight and those that use it.
    pub(crate) fn weight_nodes(&self) -> Vec<usize> {
        match self {
            Self::Dense(layers) => joined(layers, DenseLayer::weight_nodes),
            Self::Conv(layers) => joined(layers, ConvLayer::weight_nodes),
            Self::Table(layers) => joined(layers, TableLayer::weight_nodes),
        }
    }

    /// Adds the uses of another; the two names where they differ.
    fn join(&mut self, other: Self) -> Result<(), [&'static str; 2]> {
        let names = [self.name(), other.name()];
        match (self, other) {
            (Self::Dense(all), Self::Dense(more)) => all.extend(more),
            (Self::Conv(all), Self::Conv(more)) => all.extend(more),
            (Self::Table(all), Self::Table(more)) => all.extend(more),
            _ => return Err(names),
        }
        Ok(())
    }

    fn of_use(view: &GraphView<'_>, at: Use) -> Result<Self, SkipReason> {
        let mut attributes = view.node(at.node).attribute.iter();
        if let Some(attribute) = attributes.find(|a| !a.ref_attr_name().is_empty()) {
            return Err(SkipReason::Attribute {
                attribute: attribute.name().to_string(),
                found: format!("the function's `{}`", attribute.ref_attr_name()),
            });
        }
        if let Some(conv) = ConvLayer::match_use(view, at) {
            return Ok(Self::Conv(vec![conv?]));
        }
        if let Some(table) = TableLayer::match_use(view, at) {
            return Ok(Self::Table(vec![table?]));
        }
        Ok(Self::Dense(vec![DenseLayer::match_use(view, at)?]))
    }
}

fn joined<L>(layers: &[L], of: impl Fn(&L) -> &[usize]) -> Vec<usize> {
    layers.iter().flat_map(|l| of(l).iter().copied()).collect()
}

/// A stored tensor that is worth a line of its own: a matrix or more, of floating point or of codes that an operator for
/// quantized weights reads, or anything large.
#[derive(Debug, Clone)]
pub struct Weight<'a> {
    name: &'a str,
    tensor: &'a TensorProto,
    shape: Vec<usize>,
    uses: Vec<Use>,
    role: Result<Role, SkipReason>,
}

impl<'a> Weight<'a> {
    /// All weights of a graph: initializers first, then the tensors of `Constant` nodes, in the order of the file.
    pub fn all(view: &GraphView<'a>) -> Vec<Self> {
        let stored = view.graph().initializer.iter().map(|t| (t.name(), t));
        let constants = view.graph().node.iter().filter_map(|node| {
            let is_constant = node.op_type() == "Constant" && is_standard_domain(node.domain());
            let tensor = attribute(node, "value")
                .filter(|_| is_constant)?
                .t
                .as_ref()?;
            Some((node.output.first()?.as_str(), tensor))
        });
        stored
            .chain(constants)
            .filter_map(|(name, tensor)| Self::of(view, name, tensor))
            .collect()
    }

    fn of(view: &GraphView<'a>, name: &'a str, tensor: &'a TensorProto) -> Option<Self> {
        let shape = tensor::shape(tensor).ok()?;
        let bytes = stored_bytes(tensor);
        let quantized = || view.consumers(name).iter().any(|&at| reads_codes(view, at));
        let is_matrix = shape.len() >= 2 && (tensor::is_float(tensor) || quantized());
        if !(is_matrix || bytes >= LARGE_TENSOR_BYTES) {
            return None;
        }
        let mut uses = Vec::new();
        let blocked = terminal_uses(view, name, &mut uses);
        uses.sort_unstable();
        let role = match blocked {
            Some(reason) => Err(reason),
            None => common_role(view, &uses),
        };
        Some(Self {
            name,
            tensor,
            shape,
            uses,
            role,
        })
    }

    /// The name under which it is stored.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The stored tensor.
    pub fn tensor(&self) -> &'a TensorProto {
        self.tensor
    }

    /// Its stored shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The bytes of its data in the file.
    pub fn bytes(&self) -> u64 {
        stored_bytes(self.tensor) as u64
    }

    /// Its uses, Identity, Cast, Transpose and Reshape looked through.
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }

    /// What it is to its uses.
    ///
    /// # Errors
    /// Why it has no role that a rewrite knows.
    pub fn role(&self) -> Result<&Role, &SkipReason> {
        self.role.as_ref()
    }

    /// The dense layers it is the matrix of: one for every use.
    ///
    /// # Errors
    /// Why it is not the weight of dense layers alone.
    pub fn layers(&self) -> Result<&[DenseLayer], SkipReason> {
        match self.role() {
            Ok(Role::Dense(layers)) => Ok(layers),
            Ok(Role::Conv(_)) => Err(SkipReason::NotAMatrix {
                shape: self.shape.clone(),
            }),
            Ok(Role::Table(_)) => Err(SkipReason::Table {
                op: "Gather".to_string(),
            }),
            Err(reason) => Err(reason.clone()),
        }
    }
}

/// Whether a use is by an operator for weights that are quantized already.
fn reads_codes(view: &GraphView<'_>, at: Use) -> bool {
    at.input != Use::CAPTURED
        && matches!(
            DenseLayer::match_use(view, at),
            Err(SkipReason::AlreadyQuantized { .. })
        )
}

/// The bytes of a tensor's data, as stored in the file.
pub(crate) fn stored_bytes(tensor: &TensorProto) -> usize {
    match &tensor.raw_data {
        Some(raw) => raw.len(),
        None => tensor::data_bytes(tensor).ok().flatten().unwrap_or(0),
    }
}

/// Follows a value through the operators that [`Constant`] looks through, to the nodes that really use it: one whose result
/// nobody reads counts as a use, for it needs the value all the same.
fn terminal_uses(view: &GraphView<'_>, value: &str, found: &mut Vec<Use>) -> Option<SkipReason> {
    let mut blocked = None;
    if view.is_output(value) {
        blocked = Some(SkipReason::GraphOutput {
            output: value.to_string(),
        });
    }
    if view.is_overridable(value) {
        blocked = Some(SkipReason::Overridable);
    }
    for &at in view.consumers(value) {
        let node = view.node(at.node);
        let through = matches!(
            node.op_type(),
            "Identity" | "Cast" | "Transpose" | "Reshape"
        ) && at.input == 0;
        match node.output.first() {
            Some(output)
                if through
                    && (view.is_output(output) || !view.consumers(output).is_empty())
                    && Constant::find(view, output).is_some() =>
            {
                blocked = terminal_uses(view, output, found).or(blocked);
            }
            _ => found.push(at),
        }
    }
    blocked
}

fn common_role(view: &GraphView<'_>, uses: &[Use]) -> Result<Role, SkipReason> {
    let shared = |because: SkipReason| match uses {
        [_] => because,
        _ => SkipReason::Shared {
            nodes: uses.iter().map(|u| node_place(view.node(u.node))).collect(),
            because: Box::new(because),
        },
    };
    let mut common: Option<Role> = None;
    for &at in uses {
        let role = Role::of_use(view, at).map_err(shared)?;
        match &mut common {
            None => common = Some(role),
            Some(common) => common.join(role).map_err(|names| {
                let [first, second] = names;
                shared(SkipReason::Misfit {
                    problem: format!("expected uses of one kind, found {first} and {second}"),
                })
            })?,
        }
    }
    common.ok_or(SkipReason::Unused)
}
