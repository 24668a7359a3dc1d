//! The layers that multiply by a constant matrix: MatMul, MatMul + Add, Gemm.

use crate::axes::turned;
use crate::constant::Constant;
use crate::proto::{DataType, float_or, int_or, is_standard_domain};
use crate::skip::SkipReason;
use crate::view::{GraphView, Use};

/// Operators that read weights which are quantized already: these stay as they are.
const QUANTIZED: [&str; 15] = [
    "ConvInteger",
    "DequantizeBFP",
    "DequantizeLinear",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul",
    "GatherBlockQuantized",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QAttention",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
];

/// The operator that a dense layer stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseOp {
    /// `Y = X B` with any number of leading axes.
    MatMul,
    /// `Y = alpha op(A) op(B) + beta C`, two axes.
    Gemm,
}

/// What a dense layer adds to the product.
#[derive(Debug, Clone, PartialEq)]
pub struct Bias {
    value: String,
    beta: f32,
    add: Option<usize>,
}

impl Bias {
    /// The value that is added.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What the value is multiplied by first: 1 but for a Gemm that says otherwise.
    pub fn beta(&self) -> f32 {
        self.beta
    }

    /// The Add node, where the bias is not an input of the layer's own operator.
    pub fn add_node(&self) -> Option<usize> {
        self.add
    }

    /// The numbers themselves, `beta` not applied; `None` where the bias is no constant of floating point.
    pub fn values(&self, view: &GraphView<'_>) -> Option<Vec<f32>> {
        Constant::find(view, &self.value)?.to_f32()
    }
}

/// A matched layer `y = W x + b` with `W` a constant `[M, N]`, whichever way round the file stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseLayer {
    node: usize,
    op: DenseOp,
    element: DataType,
    weight: String,
    weight_value: String,
    weight_nodes: Vec<usize>,
    outputs: usize,
    inputs: usize,
    stored_out_first: bool,
    alpha: f32,
    input: String,
    input_transposed: bool,
    output: String,
    bias: Option<Bias>,
}

impl DenseLayer {
    /// Matches one use of a value as the weight of a dense layer.
    ///
    /// # Errors
    /// The reason why this use is none.
    pub fn match_use(view: &GraphView<'_>, at: Use) -> Result<Self, SkipReason> {
        let node = view.node(at.node);
        let op = match (node.op_type(), is_standard_domain(node.domain())) {
            _ if at.input == Use::CAPTURED => {
                return Err(SkipReason::Captured {
                    node: crate::error::node_place(node),
                });
            }
            ("MatMul", true) => DenseOp::MatMul,
            ("Gemm", true) => DenseOp::Gemm,
            ("Gather" | "GatherElements" | "GatherND" | "EmbedLayerNormalization", _)
                if at.input == 0 =>
            {
                return Err(SkipReason::Table {
                    op: node.op_type().to_string(),
                });
            }
            (op, _) if QUANTIZED.contains(&op) => {
                return Err(SkipReason::AlreadyQuantized { op: op.to_string() });
            }
            ("Add", true) => {
                return Err(SkipReason::Bias {
                    op: node.op_type().to_string(),
                });
            }
            ("LSTM" | "GRU" | "RNN", true) if at.input == 3 => {
                return Err(SkipReason::Bias {
                    op: node.op_type().to_string(),
                });
            }
            (other, _) => {
                return Err(SkipReason::Operator {
                    op: other.to_string(),
                });
            }
        };
        match at.input {
            0 => return Err(SkipReason::LeftOperand),
            1 => {}
            _ => {
                return Err(SkipReason::Bias {
                    op: node.op_type().to_string(),
                });
            }
        }
        let name = &node.input[1];
        let (constant, element) = Constant::float_weight(view, name)?;
        let &[first, second] = constant.shape() else {
            return Err(SkipReason::NotAMatrix {
                shape: constant.shape().to_vec(),
            });
        };
        if first == 0 || second == 0 {
            return Err(SkipReason::NotAMatrix {
                shape: vec![first, second],
            });
        }
        let gemm = op == DenseOp::Gemm;
        let stored_out_first = gemm && int_or(node, "transB", 0) != 0;
        let (outputs, inputs) = if stored_out_first {
            (first, second)
        } else {
            (second, first)
        };
        let alpha = if gemm {
            float_or(node, "alpha", 1.0)
        } else {
            1.0
        };
        if !alpha.is_finite() {
            return Err(SkipReason::Attribute {
                attribute: "alpha".into(),
                found: alpha.to_string(),
            });
        }
        let output = node.output[0].clone();
        let bias = if gemm {
            gemm_bias(view, at.node)
        } else {
            added_bias(view, &output, outputs)
        };
        Ok(Self {
            node: at.node,
            op,
            element,
            weight: constant.name().to_string(),
            weight_value: name.clone(),
            weight_nodes: constant.nodes().to_vec(),
            outputs,
            inputs,
            stored_out_first,
            alpha,
            input: node.input[0].clone(),
            input_transposed: gemm && int_or(node, "transA", 0) != 0,
            output,
            bias,
        })
    }

    /// The index of the MatMul or Gemm.
    pub fn node(&self) -> usize {
        self.node
    }

    /// Which operator it is.
    pub fn op(&self) -> DenseOp {
        self.op
    }

    /// The element type of what it multiplies and makes: one of floating point. Networks compute in `f32`, so a layer of
    /// another type is cast on the way in and out.
    pub fn element(&self) -> DataType {
        self.element
    }

    /// The name under which the weight is stored.
    pub fn weight_name(&self) -> &str {
        &self.weight
    }

    /// The value that the operator reads the weight from: the stored one, or what Identity, Cast, Transpose made of it.
    pub fn weight_value(&self) -> &str {
        &self.weight_value
    }

    /// The nodes between the stored weight and the operator.
    pub fn weight_nodes(&self) -> &[usize] {
        &self.weight_nodes
    }

    /// `M`, the number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `N`, the number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The value that is multiplied.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// Whether the input is transposed first (a Gemm's `transA`).
    pub fn is_input_transposed(&self) -> bool {
        self.input_transposed
    }

    /// The value that the MatMul or Gemm makes: of a MatMul before the bias, of a Gemm with it.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// What is added.
    pub fn bias(&self) -> Option<&Bias> {
        self.bias.as_ref()
    }

    /// The factor on the product: a Gemm's `alpha`, else 1. [`DenseLayer::matrix`] has it applied.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// Whether another layer reads the same value as the same matrix: same orientation, same `alpha`.
    pub(crate) fn reads_like(&self, other: &Self) -> bool {
        self.weight_value == other.weight_value
            && self.stored_out_first == other.stored_out_first
            && self.alpha == other.alpha
    }

    /// The matrix `W` of `y = W x`, `alpha` applied, row-major.
    ///
    /// # Shapes
    /// `[M, N]`: [`DenseLayer::outputs`] by [`DenseLayer::inputs`].
    ///
    /// # Errors
    /// [`SkipReason::NotFinite`] where the weight has a NaN or an infinity.
    pub fn matrix(&self, view: &GraphView<'_>) -> Result<Vec<f32>, SkipReason> {
        let mut data = Constant::finite_floats(view, &self.weight_value)?;
        if !self.stored_out_first {
            data = turned(&data, self.outputs);
        }
        if self.alpha != 1.0 {
            data.iter_mut().for_each(|v| *v *= self.alpha);
        }
        Ok(data)
    }

    /// The inverse of [`DenseLayer::matrix`]: `W` as the operator's own operand, and that operand's shape. Where `alpha` is 0
    /// any operand serves, and `W` stays undivided.
    pub fn operand(&self, matrix: &[f32]) -> (Vec<f32>, [usize; 2]) {
        let shape = [self.outputs, self.inputs];
        let unscaled: Vec<f32> = if self.alpha == 1.0 || self.alpha == 0.0 {
            matrix.to_vec()
        } else {
            matrix.iter().map(|v| v / self.alpha).collect()
        };
        if self.stored_out_first {
            return (unscaled, shape);
        }
        (turned(&unscaled, shape[1]), [self.inputs, self.outputs])
    }
}

fn gemm_bias(view: &GraphView<'_>, node: usize) -> Option<Bias> {
    let value = view.node(node).input.get(2).filter(|c| !c.is_empty())?;
    let beta = float_or(view.node(node), "beta", 1.0);
    (beta != 0.0).then(|| Bias {
        value: value.clone(),
        beta,
        add: None,
    })
}

/// The Add of a constant vector of `outputs` elements that alone reads `product`.
fn added_bias(view: &GraphView<'_>, product: &str, outputs: usize) -> Option<Bias> {
    let &[at] = view.consumers(product) else {
        return None;
    };
    let node = view.node(at.node);
    if at.input > 1
        || node.op_type() != "Add"
        || !is_standard_domain(node.domain())
        || view.is_output(product)
    {
        return None;
    }
    let value = node.input.get(1 - at.input)?;
    let constant = Constant::find(view, value)?;
    (constant.shape() == [outputs]).then(|| Bias {
        value: value.clone(),
        beta: 1.0,
        add: Some(at.node),
    })
}
