//! What a fused operator computes, and the memory it computes it from.

use std::sync::Mutex;

use quant_core::{Activation, LowBitMatrix, PanelMatrix, ProductScratch, bias_activate};

use super::Activations;
use crate::blocks::Levels;

/// One factor of a product, `[n, k]`.
#[derive(Debug)]
pub(super) enum Factor {
    /// Codes that stay packed.
    LowBit(LowBitMatrix),
    /// `f32`, where scales do not run along k.
    Dense(PanelMatrix),
}

impl Factor {
    pub(super) fn n(&self) -> usize {
        match self {
            Self::LowBit(w) => w.n(),
            Self::Dense(w) => w.n(),
        }
    }

    pub(super) fn k(&self) -> usize {
        match self {
            Self::LowBit(w) => w.k(),
            Self::Dense(w) => w.k(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::LowBit(w) => w.bytes(),
            Self::Dense(w) => w.bytes(),
        }
    }

    fn multiply(
        &self,
        x: &[f32],
        out: &mut [f32],
        activations: Activations,
        scratch: &mut ProductScratch,
    ) -> quant_core::Result<()> {
        match (self, activations) {
            (Self::LowBit(w), Activations::F32) => w.matmul(x, out, scratch),
            (Self::LowBit(w), Activations::Int8) => w.matmul_int8(x, out, scratch),
            (Self::Dense(w), _) => w.matmul(x, out, scratch),
        }
    }
}

/// A table whose rows are unpacked when they are looked up; with `right`, a row is multiplied by it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) levels: Levels,
    /// `[rows, blocks, block]`.
    pub(super) shape: [usize; 3],
    pub(super) words: Vec<u8>,
    /// `[rows, blocks]`.
    pub(super) scales: Vec<f32>,
    pub(super) right: Option<PanelMatrix>,
}

impl Table {
    fn row(&self, row: usize, out: &mut [f32]) {
        let [_, blocks, block] = self.shape;
        let bytes = self.levels.packed_bytes(blocks * block);
        let codes = self
            .levels
            .unpack(&self.words[row * bytes..][..bytes], blocks * block);
        let (zero, scales) = (self.levels.zero(), &self.scales[row * blocks..][..blocks]);
        for ((out, codes), scale) in out.chunks_mut(block).zip(codes.chunks(block)).zip(scales) {
            for (o, c) in out.iter_mut().zip(codes) {
                *o = (f32::from(*c) - zero) * scale;
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    /// `x B_1 B_2 ..`, a bias, an activation.
    Product {
        factors: Vec<Factor>,
        bias: Vec<f32>,
        activation: Activation,
    },
    Table(Table),
}

#[derive(Debug, Default)]
struct Scratch {
    product: ProductScratch,
    between: [Vec<f32>; 2],
}

/// A fused layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) activations: Activations,
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
            Kind::Product { factors, .. } => factors.last().map_or(0, Factor::n),
            Kind::Table(t) => t
                .right
                .as_ref()
                .map_or(t.shape[1] * t.shape[2], PanelMatrix::n),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Product { factors, bias, .. } => {
                factors.iter().map(Factor::bytes).sum::<usize>() + 4 * bias.len()
            }
            Kind::Table(t) => {
                t.words.len() + 4 * t.scales.len() + t.right.as_ref().map_or(0, PanelMatrix::bytes)
            }
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
            factors,
            bias,
            activation,
        } = &self.kind
        else {
            return Err(format!(
                "`{}` looks rows up and takes no product",
                self.name
            ));
        };
        let (Some(first), Some((last, inner))) = (factors.first(), factors.split_last()) else {
            return Err(format!("`{}` has no factors", self.name));
        };
        let m = x.len().checked_div(first.k()).unwrap_or(0);
        self.with_scratch(|scratch| {
            let Scratch { product, between } = scratch;
            let mut from_input = true;
            for factor in inner {
                let [state, next] = between;
                next.resize(m * factor.n(), 0.0);
                let input: &[f32] = if from_input { x } else { state };
                factor.multiply(input, next, self.activations, product)?;
                between.swap(0, 1);
                from_input = false;
            }
            let input: &[f32] = if from_input { x } else { &between[0] };
            last.multiply(input, out, self.activations, product)?;
            bias_activate(out, last.n(), bias, *activation)
        })
        .map_err(|e| format!("`{}`: {e}", self.name))
    }

    /// Rows of a table; an index below zero counts from the end.
    pub(super) fn look_up(&self, indices: &[i64], out: &mut [f32]) -> Result<(), String> {
        let Kind::Table(table) = &self.kind else {
            return Err(format!("`{}` is no table", self.name));
        };
        let [rows, blocks, block] = table.shape;
        let width = blocks * block;
        let place = |index: i64| {
            let from = if index < 0 {
                index + rows as i64
            } else {
                index
            };
            usize::try_from(from)
                .ok()
                .filter(|r| *r < rows)
                .ok_or_else(|| {
                    format!(
                        "`{}`: expected an index below {rows}, found {index}",
                        self.name
                    )
                })
        };
        let Some(right) = &table.right else {
            for (index, out) in indices.iter().zip(out.chunks_mut(width.max(1))) {
                table.row(place(*index)?, out);
            }
            return Ok(());
        };
        self.with_scratch(|scratch| {
            let state = &mut scratch.between[0];
            state.resize(indices.len() * width, 0.0);
            for (index, out) in indices.iter().zip(state.chunks_mut(width.max(1))) {
                table.row(place(*index)?, out);
            }
            right
                .matmul(state, out, &mut scratch.product)
                .map_err(|e| e.to_string())
        })
    }
}
