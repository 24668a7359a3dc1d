//! Tables that rows are looked up in.

use crate::constant::Constant;
use crate::inspect::Format;
use crate::proto::{DataType, int_or, is_standard_domain};
use crate::skip::SkipReason;
use crate::tensor::type_name;
use crate::view::{GraphView, Use};

/// A matched Gather of rows from a constant table `[rows, columns]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TableLayer {
    node: usize,
    value: String,
    nodes: Vec<usize>,
    shape: [usize; 2],
    indices: String,
}

impl TableLayer {
    /// Matches one use of a value as the table of a Gather; `None` where the node is none.
    ///
    /// # Errors
    /// The reason why this table cannot be rewritten.
    pub fn match_use(view: &GraphView<'_>, at: Use) -> Option<Result<Self, SkipReason>> {
        let node = view.node(at.node);
        let looks_up = node.op_type() == "Gather" && is_standard_domain(node.domain());
        (looks_up && at.input == 0).then(|| Self::matched(view, at.node))
    }

    fn matched(view: &GraphView<'_>, at: usize) -> Result<Self, SkipReason> {
        let node = view.node(at);
        let name = &node.input[0];
        let indices = node.input.get(1).filter(|i| !i.is_empty());
        let indices = indices.ok_or_else(|| SkipReason::NoOperand {
            op: node.op_type().to_string(),
            operand: "indices".to_string(),
        })?;
        let (constant, element) = Constant::float_weight(view, name)?;
        let &[rows, columns] = constant.shape() else {
            return Err(SkipReason::NotAMatrix {
                shape: constant.shape().to_vec(),
            });
        };
        let axis = int_or(node, "axis", 0);
        if axis != 0 && axis != -2 {
            return Err(SkipReason::Attribute {
                attribute: "axis".into(),
                found: format!("{axis}: columns are looked up, not rows"),
            });
        }
        if element != DataType::Float {
            return Err(SkipReason::ElementType {
                found: type_name(element as i32).to_string(),
            });
        }
        if rows == 0 || columns == 0 {
            return Err(SkipReason::NotAMatrix {
                shape: vec![rows, columns],
            });
        }
        Ok(Self {
            node: at,
            value: name.clone(),
            nodes: constant.nodes().to_vec(),
            shape: [rows, columns],
            indices: indices.clone(),
        })
    }

    /// The index of the Gather.
    pub fn node(&self) -> usize {
        self.node
    }

    /// The value that the Gather reads the table from.
    pub fn weight_value(&self) -> &str {
        &self.value
    }

    /// The nodes between the stored table and the Gather.
    pub fn weight_nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// Rows by columns.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The value that says which rows.
    pub fn indices(&self) -> &str {
        &self.indices
    }

    /// The table, row-major.
    ///
    /// # Errors
    /// [`SkipReason::NotFinite`] where it has a NaN or an infinity.
    pub fn matrix(&self, view: &GraphView<'_>) -> Result<Vec<f32>, SkipReason> {
        Constant::finite_floats(view, &self.value)
    }

    /// Why a table has no use for a form, where it has none.
    pub fn refuses(format: Format) -> Option<SkipReason> {
        (format == Format::Tucker).then(|| SkipReason::Misfit {
            problem: "low rank says the same of a table with less".into(),
        })
    }
}
