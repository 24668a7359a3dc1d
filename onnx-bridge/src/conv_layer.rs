//! The layers that slide a constant kernel over their input: Conv and ConvTranspose.

use crate::axes::permuted;
use crate::constant::Constant;
use crate::inspect::Format;
use crate::proto::{self, AttributeProto, DataType, attribute, int_or, is_standard_domain};
use crate::skip::SkipReason;
use crate::view::{GraphView, Use};

/// The operator that a convolution stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvOp {
    /// Its weight is stored as `[out, in / groups, k..]`.
    Conv,
    /// Its weight is stored as `[in, out / groups, k..]`.
    ConvTranspose,
}

/// A matched convolution with a constant weight, over any number of spatial axes.
///
/// As a matrix its weight is `W [M, N]`, out by in: M output channels, and for each the taps of the input channels of its
/// group, N = `in / groups * taps`, channels outermost. A place of the output is `W` times the window of the input there.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvLayer {
    node: usize,
    op: ConvOp,
    element: DataType,
    weight: String,
    weight_value: String,
    weight_nodes: Vec<usize>,
    outputs: usize,
    channels: usize,
    groups: usize,
    kernel: Vec<usize>,
    input: String,
    output: String,
    bias: Option<String>,
}

impl ConvLayer {
    /// Matches one use of a value as the weight of a convolution; `None` where the node is no convolution.
    ///
    /// # Errors
    /// The reason why the weight of this convolution cannot be rewritten.
    pub fn match_use(view: &GraphView<'_>, at: Use) -> Option<Result<Self, SkipReason>> {
        let node = view.node(at.node);
        let op = match node.op_type() {
            "Conv" => ConvOp::Conv,
            "ConvTranspose" => ConvOp::ConvTranspose,
            _ => return None,
        };
        let standard = is_standard_domain(node.domain());
        (standard && at.input != Use::CAPTURED).then(|| Self::matched(view, at, op))
    }

    fn matched(view: &GraphView<'_>, at: Use, op: ConvOp) -> Result<Self, SkipReason> {
        let node = view.node(at.node);
        let operator = node.op_type().to_string();
        match at.input {
            0 => return Err(SkipReason::ConvolvedInput { op: operator }),
            1 => {}
            _ => return Err(SkipReason::Bias { op: operator }),
        }
        let name = &node.input[1];
        let (constant, element) = Constant::float_weight(view, name)?;
        let misfit = |problem: String| SkipReason::Misfit { problem };
        let shape = constant.shape();
        let [first, second, kernel @ ..] = shape else {
            return Err(SkipReason::NotAKernel {
                shape: shape.to_vec(),
            });
        };
        if kernel.is_empty() || shape.contains(&0) {
            return Err(SkipReason::NotAKernel {
                shape: shape.to_vec(),
            });
        }
        let groups = usize::try_from(int_or(node, "group", 1)).unwrap_or(0);
        let outputs = match op {
            ConvOp::Conv => *first,
            ConvOp::ConvTranspose => second * groups,
        };
        if groups == 0 || first % groups != 0 {
            return Err(SkipReason::Attribute {
                attribute: "group".into(),
                found: format!("{groups} for {first} channels"),
            });
        }
        let channels = match op {
            ConvOp::Conv => *second,
            ConvOp::ConvTranspose => first / groups,
        };
        for (attribute, length) in [
            ("kernel_shape", kernel.len()),
            ("strides", kernel.len()),
            ("dilations", kernel.len()),
            ("output_padding", kernel.len()),
            ("pads", 2 * kernel.len()),
        ] {
            let found = proto::attribute(node, attribute).map(|a| &a.ints);
            if let Some(found) = found.filter(|f| f.len() != length) {
                return Err(misfit(format!(
                    "attribute `{attribute}`: expected {length} numbers, found {found:?}"
                )));
            }
        }
        Ok(Self {
            node: at.node,
            op,
            element,
            weight: constant.name().to_string(),
            weight_value: name.clone(),
            weight_nodes: constant.nodes().to_vec(),
            outputs,
            channels,
            groups,
            kernel: kernel.to_vec(),
            input: node.input[0].clone(),
            output: node.output[0].clone(),
            bias: node.input.get(2).filter(|b| !b.is_empty()).cloned(),
        })
    }

    /// The index of the node.
    pub fn node(&self) -> usize {
        self.node
    }

    /// Which operator it is.
    pub fn op(&self) -> ConvOp {
        self.op
    }

    /// The element type of what it reads and makes: one of floating point.
    pub fn element(&self) -> DataType {
        self.element
    }

    /// The name under which the weight is stored.
    pub fn weight_name(&self) -> &str {
        &self.weight
    }

    /// The value that the operator reads the weight from.
    pub fn weight_value(&self) -> &str {
        &self.weight_value
    }

    /// The nodes between the stored weight and the operator.
    pub fn weight_nodes(&self) -> &[usize] {
        &self.weight_nodes
    }

    /// `M`, the output channels of all groups.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The input channels that an output channel sees: those of its group.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The number of groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The size of the window along each spatial axis.
    pub fn kernel(&self) -> &[usize] {
        &self.kernel
    }

    /// The places of the window.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// `N`, the numbers that one place of an output channel is made of.
    pub fn inputs(&self) -> usize {
        self.channels * self.taps()
    }

    /// The value that is convolved.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The value that the node makes.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// What is added to each output channel.
    pub fn bias(&self) -> Option<&str> {
        self.bias.as_deref()
    }

    /// Whether another layer reads the same value as the same matrix.
    pub(crate) fn reads_like(&self, other: &Self) -> bool {
        self.weight_value == other.weight_value
            && self.op == other.op
            && self.groups == other.groups
    }

    /// The matrix `W [M, N]`, row-major.
    ///
    /// # Errors
    /// [`SkipReason::NotFinite`] where the weight has a NaN or an infinity.
    pub fn matrix(&self, view: &GraphView<'_>) -> Result<Vec<f32>, SkipReason> {
        let data = Constant::finite_floats(view, &self.weight_value)?;
        Ok(match self.op {
            ConvOp::Conv => data,
            ConvOp::ConvTranspose => {
                let (groups, out) = (self.groups, self.outputs / self.groups);
                let stored = [groups, self.channels, out, self.taps()];
                permuted(&data, &stored, &[0, 2, 1, 3])
            }
        })
    }

    /// The inverse of [`ConvLayer::matrix`]: `W` as the operator's own operand, and that operand's shape.
    pub fn operand(&self, matrix: &[f32]) -> (Vec<f32>, Vec<usize>) {
        let (groups, out) = (self.groups, self.outputs / self.groups);
        let (data, leading) = match self.op {
            ConvOp::Conv => (matrix.to_vec(), [self.outputs, self.channels]),
            ConvOp::ConvTranspose => {
                let whole = [groups, out, self.channels, self.taps()];
                let data = permuted(matrix, &whole, &[0, 2, 1, 3]);
                (data, [groups * self.channels, out])
            }
        };
        (
            data,
            leading.into_iter().chain(self.kernel.clone()).collect(),
        )
    }

    /// Why a form other than dense codes has no use for this convolution, where it has none.
    pub fn refuses(&self, format: Format, view: &GraphView<'_>) -> Option<SkipReason> {
        if format == Format::Dense {
            return None;
        }
        if self.groups > 1 {
            return Some(SkipReason::Grouped {
                groups: self.groups,
                channels: self.channels,
            });
        }
        let node = view.node(self.node);
        if proto::attribute(node, "output_shape").is_some() {
            return Some(SkipReason::Attribute {
                attribute: "output_shape".into(),
                found: "stated: the chain would have to repeat it node by node".into(),
            });
        }
        if format == Format::Tt && self.spatial_axes().len() < 2 {
            return Some(SkipReason::Misfit {
                problem: format!(
                    "expected a window of two axes or more to cut, found {:?}: tucker says the same",
                    self.kernel
                ),
            });
        }
        None
    }

    /// The spatial axes along which the window has more than one place.
    pub(crate) fn spatial_axes(&self) -> Vec<usize> {
        (0..self.kernel.len())
            .filter(|&axis| self.kernel[axis] > 1)
            .collect()
    }

    /// The spatial axes whose window each node of a chain of `nodes` takes: one node takes them all, or each its own.
    pub(crate) fn chain(&self, nodes: usize) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..self.kernel.len()).collect();
        match nodes {
            0 | 1 => vec![all],
            2 => vec![all, Vec::new()],
            3 => vec![Vec::new(), all, Vec::new()],
            _ => {
                let mut each: Vec<Vec<usize>> =
                    self.spatial_axes().into_iter().map(|k| vec![k]).collect();
                // An axis of one place may have strides and pads all the same.
                if let Some(first) = each.first_mut() {
                    first.extend(all.iter().filter(|&&k| self.kernel[k] == 1));
                }
                let outer = || std::iter::once(Vec::new());
                outer().chain(each).chain(outer()).collect()
            }
        }
    }

    /// The window of a node that takes these axes of it.
    pub(crate) fn window(&self, axes: &[usize]) -> Vec<usize> {
        let kernel = self.kernel.iter().enumerate();
        kernel
            .map(|(k, &size)| if axes.contains(&k) { size } else { 1 })
            .collect()
    }

    /// The attributes of a node that takes these axes of the window.
    pub(crate) fn attributes(
        &self,
        view: &GraphView<'_>,
        axes: &[usize],
        groups: usize,
    ) -> Vec<AttributeProto> {
        let node = view.node(self.node);
        let part = |values: &[i64], neutral: i64| -> Vec<i64> {
            let values = values.iter().enumerate();
            values
                .map(|(k, &v)| {
                    if axes.contains(&(k % self.kernel.len())) {
                        v
                    } else {
                        neutral
                    }
                })
                .collect()
        };
        let window: Vec<i64> = self.window(axes).iter().map(|&k| k as i64).collect();
        let mut made = vec![proto::ints_attribute("kernel_shape", &window)];
        if groups > 1 {
            made.push(proto::int_attribute("group", groups as i64));
        }
        for (name, neutral) in [
            ("strides", 1),
            ("dilations", 1),
            ("pads", 0),
            ("output_padding", 0),
        ] {
            let Some(stated) = attribute(node, name) else {
                continue;
            };
            let part = part(&stated.ints, neutral);
            if part.iter().any(|&v| v != neutral) {
                made.push(proto::ints_attribute(name, &part));
            }
        }
        let carried = ["auto_pad", "output_shape"];
        let carried = carried.iter().filter_map(|name| attribute(node, name));
        if !axes.is_empty() {
            made.extend(carried.cloned());
        }
        made
    }
}
