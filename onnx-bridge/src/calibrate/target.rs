//! The weights that a plan chooses for: matrices of dense layers, tables that rows are looked up in.

use ndarray::{Array2, ArrayView2};

use crate::constant::Constant;
use crate::conv_layer::{ConvLayer, ConvOp};
use crate::dense_layer::DenseLayer;
use crate::proto::{DataType, int_or, is_standard_domain};
use crate::skip::SkipReason;
use crate::tensor;
use crate::view::{GraphView, Use};
use crate::weight::{Role, Weight};

/// Below this many elements nothing is gained: the operators that unpack a weight take bytes too.
const LEAST_ELEMENTS: usize = 4096;

/// How the graph uses a weight.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetKind {
    /// Dense layers that multiply by the same matrix.
    Dense(Vec<DenseLayer>),
    /// Convolutions with the same kernel, a matrix of their windows: see [`ConvLayer`].
    Conv(Vec<ConvLayer>),
    /// Gather nodes that look up its rows.
    Table(Vec<usize>),
}

/// One weight that a plan chooses for.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    name: String,
    value: String,
    shape: [usize; 2],
    bytes: u64,
    kind: TargetKind,
}

impl Target {
    /// Every weight of a graph: a target, or the reason why it is none.
    pub fn all(view: &GraphView<'_>) -> Vec<(String, Result<Self, SkipReason>)> {
        let weights = Weight::all(view);
        weights
            .iter()
            .map(|w| (w.name().to_string(), Self::of(view, w)))
            .collect()
    }

    fn of(view: &GraphView<'_>, weight: &Weight<'_>) -> Result<Self, SkipReason> {
        let make = |value: &str, shape, kind| Self {
            name: weight.name().to_string(),
            value: value.to_string(),
            shape,
            bytes: weight.bytes(),
            kind,
        };
        if let Ok(Role::Conv(layers)) = weight.role() {
            let first = kernel(view, layers)?;
            let shape = [first.outputs(), first.inputs()];
            let kind = TargetKind::Conv(layers.clone());
            return make(first.weight_value(), shape, kind).of_some_size();
        }
        let target = match weight.layers() {
            Ok(layers) => {
                let first = layers.first().ok_or(SkipReason::Unused)?;
                let one_value = layers.iter().all(|l| {
                    l.weight_value() == first.weight_value()
                        && l.alpha() == first.alpha()
                        && [l.outputs(), l.inputs()] == [first.outputs(), first.inputs()]
                });
                if !one_value {
                    let nodes = layers
                        .iter()
                        .map(|l| crate::error::node_place(view.node(l.node())))
                        .collect();
                    let problem = "expected uses of one and the same matrix".to_string();
                    return Err(SkipReason::Shared {
                        nodes,
                        because: Box::new(SkipReason::Misfit { problem }),
                    });
                }
                // Calibration feeds and taps f32 values.
                if first.element() != DataType::Float {
                    return Err(SkipReason::ElementType {
                        found: crate::tensor::type_name(first.element() as i32).to_string(),
                    });
                }
                first.matrix(view)?;
                make(
                    first.weight_value(),
                    [first.outputs(), first.inputs()],
                    TargetKind::Dense(layers.to_vec()),
                )
            }
            Err(reason) => match table(view, weight) {
                Some((shape, nodes)) => make(weight.name(), shape, TargetKind::Table(nodes)),
                None => return Err(reason),
            },
        };
        target.of_some_size()
    }

    /// This target, where it has enough elements for a choice.
    fn of_some_size(self) -> Result<Self, SkipReason> {
        if self.shape[0] * self.shape[1] < LEAST_ELEMENTS {
            return Err(SkipReason::NoGain {
                bytes: self.bytes,
                best: self.bytes,
            });
        }
        Ok(self)
    }

    /// The name under which the weight is stored.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value that the operators read.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// `[M, N]`: outputs by inputs of a dense layer, rows by columns of a table.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The bytes of its data in the file as it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How the graph uses it.
    pub fn kind(&self) -> &TargetKind {
        &self.kind
    }

    /// The operator that uses it.
    pub fn op(&self, view: &GraphView<'_>) -> String {
        self.nodes()
            .first()
            .map_or_else(String::new, |&n| view.node(n).op_type().to_string())
    }

    /// The nodes that use it.
    pub fn nodes(&self) -> Vec<usize> {
        match &self.kind {
            TargetKind::Dense(layers) => layers.iter().map(DenseLayer::node).collect(),
            TargetKind::Conv(layers) => layers.iter().map(ConvLayer::node).collect(),
            TargetKind::Table(nodes) => nodes.clone(),
        }
    }

    /// The matrix `[M, N]` as the operators see it.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn matrix(&self, view: &GraphView<'_>) -> Result<Array2<f32>, SkipReason> {
        let data = match &self.kind {
            TargetKind::Dense(layers) => layers.first().ok_or(SkipReason::Unused)?.matrix(view)?,
            TargetKind::Conv(layers) => layers.first().ok_or(SkipReason::Unused)?.matrix(view)?,
            TargetKind::Table(_) => Constant::find(view, &self.value)
                .and_then(|c| c.to_f32())
                .ok_or_else(|| SkipReason::ElementType {
                    found: "a type that is not floating point".into(),
                })?,
        };
        let problem = |e: ndarray::ShapeError| SkipReason::Misfit {
            problem: e.to_string(),
        };
        Array2::from_shape_vec(self.shape, data).map_err(problem)
    }

    /// A matrix `[M, N]` as the stored operand, and that operand's shape: what stands for the weight while calibrating.
    pub(crate) fn operand(&self, matrix: ArrayView2<'_, f32>) -> (Vec<f32>, Vec<usize>) {
        let data: Vec<f32> = matrix.iter().copied().collect();
        match &self.kind {
            TargetKind::Dense(layers) if !layers.is_empty() => {
                let (data, shape) = layers[0].operand(&data);
                (data, shape.to_vec())
            }
            TargetKind::Conv(layers) if !layers.is_empty() => layers[0].operand(&data),
            _ => (data, self.shape.to_vec()),
        }
    }
}

/// The first of the convolutions of one kernel, where calibration can give them their windows.
fn kernel<'l>(view: &GraphView<'_>, layers: &'l [ConvLayer]) -> Result<&'l ConvLayer, SkipReason> {
    let first = layers.first().ok_or(SkipReason::Unused)?;
    for layer in layers {
        let refused = if layer.groups() > 1 {
            Some(SkipReason::Grouped {
                groups: layer.groups(),
                channels: layer.channels(),
            })
        } else if layer.op() == ConvOp::ConvTranspose {
            Some(SkipReason::Operator {
                op: "ConvTranspose".into(),
            })
        } else if layer.element() != DataType::Float {
            Some(SkipReason::ElementType {
                found: crate::tensor::type_name(layer.element() as i32).to_string(),
            })
        } else if layer.weight_value() != first.weight_value() {
            let problem = "expected uses of one and the same kernel".to_string();
            Some(SkipReason::Misfit { problem })
        } else {
            None
        };
        if let Some(reason) = refused {
            return Err(reason);
        }
    }
    first.matrix(view)?;
    Ok(first)
}

/// The shape and the nodes of a weight that every use looks up rows in.
fn table(view: &GraphView<'_>, weight: &Weight<'_>) -> Option<([usize; 2], Vec<usize>)> {
    let &[rows, cols] = weight.shape() else {
        return None;
    };
    let initializer = view.initializer(weight.name())?;
    let direct = initializer.data_type() == DataType::Float as i32
        && !view.is_overridable(weight.name())
        && !view.is_output(weight.name())
        && view.consumers(weight.name()) == weight.uses();
    let looks_up = |at: &Use| {
        at.input == 0 && {
            let node = view.node(at.node);
            node.op_type() == "Gather"
                && is_standard_domain(node.domain())
                && int_or(node, "axis", 0) == 0
        }
    };
    if !direct || weight.uses().is_empty() || !weight.uses().iter().all(looks_up) {
        return None;
    }
    // A row at a time: a table may be most of a model.
    let finite = |row: usize| {
        let values = tensor::f32_range(initializer, row * cols..(row + 1) * cols);
        values.is_some_and(|v| v.iter().all(|v| v.is_finite()))
    };
    (0..rows)
        .all(finite)
        .then(|| ([rows, cols], weight.uses().iter().map(|u| u.node).collect()))
}
