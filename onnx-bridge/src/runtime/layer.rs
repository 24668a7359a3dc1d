//! What a fused operator computes, and the memory it computes it from.

use std::sync::Mutex;

use quant_core::{Activation, bias_activate};

use super::Activations;
use super::form::Scratch;
use super::network::Network;
use super::table::Table;
use super::threads;

#[derive(Debug)]
pub(super) enum Kind {
    /// A product, a bias, an activation.
    Product {
        network: Box<Network>,
        bias: Vec<f32>,
        activation: Activation,
    },
    Table(Box<Table>),
}

/// A fused layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(super) name: String,
    pub(super) kind: Kind,
    activations: Activations,
    /// One for each run that is under way.
    scratch: Mutex<Vec<Scratch>>,
}

impl Layer {
    pub(super) fn new(name: String, kind: Kind, activations: Activations) -> Self {
        Self {
            name,
            kind,
            activations,
            scratch: Mutex::default(),
        }
    }

    /// Elements of a row of the result.
    pub(super) fn width(&self) -> usize {
        match &self.kind {
            Kind::Product { network, .. } => network.n(),
            Kind::Table(table) => table.width(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Product { network, bias, .. } => network.bytes() + 4 * bias.len(),
            Kind::Table(table) => table.bytes(),
        }
    }

    fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let lock = || {
            self.scratch
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let mut scratch = lock().pop().unwrap_or_default();
        let result = work(&mut scratch);
        lock().push(scratch);
        result
    }

    /// Rows of `x` to rows of `out`.
    pub(super) fn run_rows(&self, x: &[f32], out: &mut [f32]) -> Result<(), String> {
        let Kind::Product {
            network,
            bias,
            activation,
        } = &self.kind
        else {
            return Err(format!(
                "`{}` looks rows up and takes no product",
                self.name
            ));
        };
        let cycles = |rows| network.cost(rows);
        let part = |x: &[f32], out: &mut [f32]| {
            self.with_scratch(|scratch| {
                network.run(x, out, self.activations, scratch)?;
                bias_activate(out, network.n(), bias, *activation)
            })
        };
        threads::in_parts(cycles, (x, network.k()), (out, network.n()), part)
            .map_err(|e| format!("`{}`: {e}", self.name))
    }

    /// Rows of a table; an index below zero counts from the end.
    pub(super) fn look_up(&self, indices: &[i64], out: &mut [f32]) -> Result<(), String> {
        let Kind::Table(table) = &self.kind else {
            return Err(format!("`{}` is no table", self.name));
        };
        self.with_scratch(|scratch| table.look_up(indices, out, self.activations, scratch))
            .map_err(|e| format!("`{}`: {e}", self.name))
    }
}
