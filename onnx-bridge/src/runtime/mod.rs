//! Running a compressed model with fused operators: rewritten layers keep their weights packed in memory.
//!
//! The file stays plain ONNX. The chains of operators that a rewritten layer consists of are found by their shape, and one
//! operator takes the place of each: a product with low-bit matrices, dense or of low rank, with its bias and a Relu or GELU
//! behind it, or a lookup in a low-bit table. What is not found runs as stock tract runs it.

mod cost;
mod factors;
mod find;
mod form;
mod layer;
mod network;
mod op;
mod order;
mod table;
mod threads;
mod train;
mod trains;

pub(crate) use op::{Layers, reader, settle};

use std::num::NonZeroUsize;
use std::sync::Arc;

use tn_formats::npy::NpyArray;

use crate::dataset::Dataset;
use crate::engine::{Engine, InputInfo};
use crate::error::Result;
use crate::model::Model;

/// How a fused product sees its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activations {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 8 bits, one scale for each row and each 128 elements at most: products on the integer units. The error is
    /// about 0.6 % of a layer's result for normally distributed activations.
    Int8,
}

/// How a weight that stands in several factors or cores multiplies rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Route {
    /// The quickest of the others, or the factors in `f32`, for each number of rows: where the estimates are close, they take turns on
    /// the first batch of a size. So another run may round differently; a fixed route gives the same bits every time.
    #[default]
    Auto,
    /// One core or factor after the other, as they stand in the file.
    Cores,
    /// Neighbouring cores merged where that is cheaper, but never to the dense matrix. Factors stay as they are.
    Merged,
    /// The dense `f32` matrix, `4 M N` bytes of memory.
    Dense,
}

/// How a model is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeOptions {
    /// How fused products see their activations.
    pub activations: Activations,
    /// How weights in several factors multiply rows.
    pub route: Route,
    /// Threads of a run: fused products give each a part of their rows, the other operators do as tract does. Parts are rows of
    /// a smaller batch, so in `f32` another number of threads may round otherwise.
    pub threads: NonZeroUsize,
}

/// `f32`, the quickest route, one thread.
impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            activations: Activations::default(),
            route: Route::default(),
            threads: NonZeroUsize::MIN,
        }
    }
}

/// A fused layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FusedLayer {
    /// The value that it makes.
    pub output: String,
    /// Elements of a row of the result.
    pub width: usize,
    /// Bytes of its weights in memory.
    pub bytes: usize,
}

/// A model loaded in tract with fused operators.
#[derive(Debug)]
pub struct Runtime {
    engine: Engine,
    layers: Vec<FusedLayer>,
}

impl Runtime {
    /// Finds the rewritten layers of a model and loads it.
    ///
    /// # Errors
    /// As [`Engine::load`] and [`Engine::with_threads`].
    pub fn load(model: &Model, options: &RuntimeOptions) -> Result<Self> {
        Self::new(model, options, None)
    }

    /// Loads a model for inputs of these shapes and no others, as [`Engine::load_shaped`] does.
    ///
    /// # Errors
    /// As [`Engine::load_shaped`] and [`Engine::with_threads`].
    pub fn load_shaped(
        model: &Model,
        options: &RuntimeOptions,
        shapes: &[Vec<usize>],
    ) -> Result<Self> {
        Self::new(model, options, Some(shapes))
    }

    fn new(model: &Model, options: &RuntimeOptions, shapes: Option<&[Vec<usize>]>) -> Result<Self> {
        let (graph, layers) = find::fuse(model.graph(), *options);
        let mut proto = model.proto().clone();
        proto.graph = Some(graph);
        let reports = layers.iter().map(|l| FusedLayer {
            output: l.name.clone(),
            width: l.width(),
            bytes: l.bytes(),
        });
        let reports = reports.collect();
        let layers: Layers = layers.into_iter().map(Arc::new).collect();
        let engine = Engine::load_fused(model, &proto, layers, shapes)?;
        Ok(Self {
            engine: engine.with_threads(options.threads)?,
            layers: reports,
        })
    }

    /// The layers that were fused.
    pub fn layers(&self) -> &[FusedLayer] {
        &self.layers
    }

    /// The inputs.
    pub fn inputs(&self) -> &[InputInfo] {
        self.engine.inputs()
    }

    /// Runs one batch; `inputs` in the order of [`Runtime::inputs`].
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn run(&self, inputs: &[NpyArray]) -> Result<Vec<NpyArray>> {
        self.engine.run(inputs)
    }

    /// Runs a whole data set in batches.
    ///
    /// # Errors
    /// As [`Engine::run_all`].
    pub fn run_all(&self, data: &Dataset) -> Result<Vec<(String, NpyArray)>> {
        self.engine.run_all(data)
    }
}
