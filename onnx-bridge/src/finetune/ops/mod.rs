//! The operators that the interpreter knows: a table from `op_type` to a function over [`Value`]s.

mod arithmetic;
mod cast;
mod fused;
mod gather;
mod linear;
mod logic;
mod norm;
mod quant;
mod reduce;
mod shape;
mod slice;
mod window;

use candle_core::Tensor;

use super::value::{HostArray, IntArray, Value};
use crate::axes::place;
use crate::proto::{AttributeProto, NodeProto, TensorProto, is_standard_domain};

/// Why an operator could not be evaluated; the interpreter adds where.
#[derive(Debug)]
pub(crate) struct OpError(String);

impl OpError {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self(problem.into())
    }
}

impl std::fmt::Display for OpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<candle_core::Error> for OpError {
    fn from(error: candle_core::Error) -> Self {
        Self(error.to_string())
    }
}

/// What an operator gives: its outputs in order.
pub(crate) type Outputs = Result<Vec<Value>, OpError>;

/// An operator.
pub(crate) type OpFn = fn(&Call<'_>) -> Outputs;

/// A node on the way back: what it read and made, and the gradient of its one output.
pub(crate) struct Back<'a> {
    pub(crate) call: Call<'a>,
    pub(crate) output: &'a Tensor,
    pub(crate) gradient: &'a Tensor,
    /// For every input, whether its gradient is asked for.
    pub(crate) needed: Vec<bool>,
}

impl Back<'_> {
    fn needed<const N: usize>(&self) -> [bool; N] {
        std::array::from_fn(|k| self.needed.get(k).copied().unwrap_or(false))
    }
}

/// The gradients of a node's inputs; those that are not asked for may be left out.
pub(crate) type BackFn = fn(&Back<'_>) -> Result<Vec<Option<Tensor>>, OpError>;

/// One evaluation of a node.
pub(crate) struct Call<'a> {
    /// The node, for its attributes.
    pub(crate) node: &'a NodeProto,
    /// The version of the operator set.
    pub(crate) opset: i64,
    /// The inputs; `None` where an optional one is left out.
    pub(crate) inputs: Vec<Option<&'a Value>>,
}

impl<'a> Call<'a> {
    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.node.attribute.iter().find(|a| a.name() == name)
    }

    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, AttributeProto::i)
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, AttributeProto::f)
    }

    pub(crate) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    pub(crate) fn text(&self, name: &str, default: &'a str) -> Result<&'a str, OpError> {
        match self.attribute(name) {
            Some(a) => std::str::from_utf8(a.s())
                .map_err(|_| OpError::new(format!("attribute `{name}`: expected text"))),
            None => Ok(default),
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.attribute(name).and_then(|a| a.t.as_ref())
    }

    /// An input that may be left out.
    pub(crate) fn optional(&self, index: usize) -> Option<&'a Value> {
        self.inputs.get(index).copied().flatten()
    }

    /// An input that must be there.
    pub(crate) fn input(&self, index: usize) -> Result<&'a Value, OpError> {
        self.optional(index)
            .ok_or_else(|| OpError::new(format!("expected an input {index}, found none")))
    }

    /// A float input.
    pub(crate) fn floats(&self, index: usize) -> Result<&'a Tensor, OpError> {
        match self.input(index)? {
            Value::Float(t) => Ok(t),
            other => Err(OpError::new(format!(
                "input {index}: expected floats, found {}",
                other.kind_name()
            ))),
        }
    }

    /// An integer input.
    pub(crate) fn integers(&self, index: usize) -> Result<&'a IntArray, OpError> {
        match self.input(index)? {
            Value::Int(a) => Ok(a),
            other => Err(OpError::new(format!(
                "input {index}: expected integers, found {}",
                other.kind_name()
            ))),
        }
    }

    /// A boolean input.
    pub(crate) fn booleans(&self, index: usize) -> Result<&'a HostArray<bool>, OpError> {
        match self.input(index)? {
            Value::Bool(a) => Ok(a),
            other => Err(OpError::new(format!(
                "input {index}: expected booleans, found {}",
                other.kind_name()
            ))),
        }
    }

    /// Integers from an attribute of older operator sets or an input of newer ones.
    pub(crate) fn ints_or_input(
        &self,
        name: &str,
        index: usize,
    ) -> Result<Option<Vec<i64>>, OpError> {
        if let Some(list) = self.ints(name) {
            return Ok(Some(list.to_vec()));
        }
        match self.optional(index) {
            Some(Value::Int(a)) => Ok(Some(a.array.data().to_vec())),
            Some(other) => Err(OpError::new(format!(
                "input {index}: expected integers, found {}",
                other.kind_name()
            ))),
            None => Ok(None),
        }
    }

    /// How many outputs the node names.
    pub(crate) fn output_count(&self) -> usize {
        self.node.output.len()
    }
}

/// An axis counted from either end.
pub(crate) fn axis(axis: i64, order: usize) -> Result<usize, OpError> {
    place(axis, order).ok_or_else(|| {
        OpError::new(format!(
            "expected an axis in -{order}..{order}, found {axis}"
        ))
    })
}

/// A shape from integers that must not be negative.
pub(crate) fn sizes(list: &[i64]) -> Result<Vec<usize>, OpError> {
    list.iter()
        .map(|&v| {
            usize::try_from(v)
                .map_err(|_| OpError::new(format!("expected sizes of 0 or more, found {list:?}")))
        })
        .collect()
}

/// One float tensor as the outputs.
pub(crate) fn one(tensor: Tensor) -> Outputs {
    Ok(vec![Value::Float(tensor)])
}

/// Looks up an operator of the standard domain, or one that fusing made; `None` where the interpreter lacks it.
pub(crate) fn lookup(domain: &str, op_type: &str) -> Option<OpFn> {
    if !is_standard_domain(domain) {
        return fused::lookup(domain, op_type);
    }
    arithmetic::lookup(op_type)
        .or_else(|| logic::lookup(op_type))
        .or_else(|| shape::lookup(op_type))
        .or_else(|| slice::lookup(op_type))
        .or_else(|| cast::lookup(op_type))
        .or_else(|| linear::lookup(op_type))
        .or_else(|| norm::lookup(op_type))
        .or_else(|| reduce::lookup(op_type))
        .or_else(|| gather::lookup(op_type))
        .or_else(|| window::lookup(op_type))
        .or_else(|| quant::lookup(op_type))
}

/// The backward pass of an operator over our kernels; `None` where candle's tape serves it.
pub(crate) fn way_back(domain: &str, op_type: &str) -> Option<BackFn> {
    if !is_standard_domain(domain) {
        return fused::way_back(domain, op_type);
    }
    arithmetic::way_back(op_type)
        .or_else(|| shape::way_back(op_type))
        .or_else(|| linear::way_back(op_type))
        .or_else(|| norm::way_back(op_type))
}

pub(crate) use cast::constant;
pub(crate) use fused::{attention_node, linear_node, train_node};
