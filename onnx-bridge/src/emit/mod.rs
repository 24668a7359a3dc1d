//! Quantized networks as chains of standard operators.
//!
//! Every stored array is a matrix operand of one MatMul, or the kernel of one Conv: `Cast`, `Sub` the zero point, `Mul` by
//! the scale, `MatMul`. Engines fold all but the MatMul or Conv when they load the model. No array exceeds
//! [`FOLDED_ELEMENTS`], the most that tract folds: a wider operand is cut into columns, which a kernel joins again.

pub(crate) mod blocks;
mod conv;
pub(crate) mod embedding;
mod layer;
mod lookup;
mod operand;
#[cfg(feature = "tract")]
pub(crate) mod packed;
mod place;
mod train;
mod unpack;

#[cfg(feature = "tract")]
pub(crate) use conv::place_parts;
pub(crate) use conv::{PlacedKernel, emit_kernel, kernel_bytes, place_kernel};
pub(crate) use embedding::{PlacedTable, emit_lookup, place_table};
pub(crate) use layer::emit_layer;
pub(crate) use lookup::{
    PlacedTableTrain, emit_train_lookup, place_table_train, table_train_bytes,
};
pub(crate) use operand::Operand;
pub(crate) use place::{Placed, place, place_stored, stored_bytes};

use std::collections::{BTreeMap, HashSet};

use crate::proto::{self, AttributeProto, DataType, NodeProto, TensorProto};
use crate::skip::SkipReason;
use crate::tensor;

/// The most elements that an emitted array has: tract folds constants of up to 4 MiB of `f32`.
pub const FOLDED_ELEMENTS: usize = 1 << 20;

/// The oldest opset that has the emitted operators: `Add` and `Mul` that broadcast.
const OLDEST_OPSET: i64 = 7;

/// Nodes and initializers in the making, with names that no other value of the graph has.
#[derive(Debug)]
pub(crate) struct Emitter {
    taken: HashSet<String>,
    shared: Vec<(String, String)>,
    opset: i64,
    #[cfg_attr(
        not(feature = "tract"),
        expect(dead_code, reason = "plans alone ask for it")
    )]
    domains: BTreeMap<String, i64>,
    pub(crate) nodes: Vec<NodeProto>,
    pub(crate) initializers: Vec<TensorProto>,
}

impl Emitter {
    /// Starts with the names that a graph already uses.
    pub(crate) fn new(taken: HashSet<String>, opset: i64) -> Result<Self, SkipReason> {
        if opset < OLDEST_OPSET {
            return Err(SkipReason::Opset {
                needed: OLDEST_OPSET,
                found: opset,
            });
        }
        Ok(Self {
            taken,
            shared: Vec::new(),
            opset,
            domains: BTreeMap::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
        })
    }

    /// The domains beside the standard one that the operators made so far come from, with their versions.
    #[cfg(feature = "tract")]
    pub(crate) fn domains(&self) -> &BTreeMap<String, i64> {
        &self.domains
    }

    /// Notes that operators of a domain are made.
    #[cfg(feature = "tract")]
    fn use_domain(&mut self, domain: &str, version: i64) {
        self.domains.insert(domain.to_string(), version);
    }

    /// The nodes made since the last call.
    pub(crate) fn take_nodes(&mut self) -> Vec<NodeProto> {
        std::mem::take(&mut self.nodes)
    }

    /// The names that are taken by now.
    pub(crate) fn into_taken(self) -> HashSet<String> {
        self.taken
    }

    /// How much has been made so far, for [`Emitter::reset`].
    pub(crate) fn mark(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.initializers.len(), self.shared.len())
    }

    /// Forgets what was made since a mark.
    pub(crate) fn reset(&mut self, (nodes, initializers, shared): (usize, usize, usize)) {
        self.nodes.truncate(nodes);
        self.initializers.truncate(initializers);
        self.shared.truncate(shared);
    }

    /// A name like `wanted` that nothing else has: `wanted` itself, or with a number behind it.
    fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_string();
        let mut count = 1;
        while !self.taken.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}_{count}");
        }
        name
    }

    /// Adds a node; its name and its output's name are `wanted`, made unique.
    fn node(
        &mut self,
        op: &str,
        wanted: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let name = self.fresh(wanted);
        self.nodes
            .push(proto::node(op, &name, inputs, &name, attributes));
        name
    }

    /// Adds an initializer under a name like `wanted`.
    fn initializer(&mut self, wanted: &str, make: impl FnOnce(&str) -> TensorProto) -> String {
        let name = self.fresh(wanted);
        self.initializers.push(make(&name));
        name
    }

    /// An initializer that all layers share, made at its first use.
    fn shared(&mut self, key: &str, make: impl FnOnce(&str) -> TensorProto) -> String {
        if let Some((_, name)) = self.shared.iter().find(|(k, _)| k == key) {
            return name.clone();
        }
        let name = self.initializer(&format!("tnq/{key}"), make);
        self.shared.push((key.to_string(), name.clone()));
        name
    }

    fn shape(&mut self, dims: &[i64]) -> String {
        let key = dims
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("x");
        self.shared(&format!("shape/{key}"), |name| {
            proto::int64_tensor(name, dims)
        })
    }

    fn scalar(&mut self, value: f32) -> String {
        self.shared(&format!("scalar/{value}"), |name| {
            tensor::from_f32(name, &[], &[value])
        })
    }

    fn reshape(&mut self, wanted: &str, value: &str, dims: &[i64]) -> String {
        let shape = self.shape(dims);
        self.node("Reshape", wanted, &[value, &shape], Vec::new())
    }

    /// A Reshape to sizes that are known only when the model runs, where 0 is a size like any other from opset 14 on; before,
    /// it stands for the size that the value has there.
    fn reshape_to(&mut self, wanted: &str, value: &str, shape: &str) -> String {
        let attributes = if self.opset >= 14 {
            vec![proto::int_attribute("allowzero", 1)]
        } else {
            Vec::new()
        };
        self.node("Reshape", wanted, &[value, shape], attributes)
    }

    fn transpose(&mut self, wanted: &str, value: &str, perm: &[i64]) -> String {
        self.node(
            "Transpose",
            wanted,
            &[value],
            vec![proto::ints_attribute("perm", perm)],
        )
    }

    fn cast_to_f32(&mut self, wanted: &str, value: &str) -> String {
        self.cast(wanted, value, DataType::Float)
    }

    fn cast(&mut self, wanted: &str, value: &str, to: DataType) -> String {
        let to = proto::int_attribute("to", i64::from(to as i32));
        self.node("Cast", wanted, &[value], vec![to])
    }

    /// `value[start..end]` along an axis; an operator with attributes before opset 10.
    fn slice(&mut self, wanted: &str, value: &str, axis: i64, [start, end]: [i64; 2]) -> String {
        if self.opset < 10 {
            let attributes = vec![
                proto::ints_attribute("axes", &[axis]),
                proto::ints_attribute("ends", &[end]),
                proto::ints_attribute("starts", &[start]),
            ];
            return self.node("Slice", wanted, &[value], attributes);
        }
        let [start, end, axis] = [start, end, axis].map(|v| self.shape(&[v]));
        self.node("Slice", wanted, &[value, &start, &end, &axis], Vec::new())
    }

    fn concat(&mut self, wanted: &str, values: &[String], axis: i64) -> String {
        let inputs: Vec<&str> = values.iter().map(String::as_str).collect();
        self.node(
            "Concat",
            wanted,
            &inputs,
            vec![proto::int_attribute("axis", axis)],
        )
    }
}
