//! Running a model in tract.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ndarray::{ArrayD, Axis};
use prost::Message;
use tn_formats::npy::NpyArray;
use tract_linalg::multithread::{Executor, multithread_tract_scope};
use tract_onnx::prelude::*;

use crate::dataset::{Dataset, rows};
use crate::error::{Error, Result};
use crate::inline::inlined;
use crate::model::Model;
use crate::pieces::Pieces;
use crate::proto::tensor_shape_proto::dimension;
use crate::proto::{
    DataType, ModelProto, TensorShapeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use crate::run_plan::Plans;
use crate::runtime::Layers;

/// The most samples that run at once when the model leaves the batch open.
pub const BATCH: usize = 32;

/// An input of a model as its file states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputInfo {
    /// Its name.
    pub name: String,
    /// Its element type, as ONNX numbers them.
    pub data_type: i32,
    /// Its sizes; `None` where the file leaves one open.
    pub dims: Vec<Option<usize>>,
}

/// The inputs that a caller has to give: graph inputs that are no initializers.
pub fn model_inputs(model: &Model) -> Vec<InputInfo> {
    let graph = model.graph();
    let given = |i: &&ValueInfoProto| !graph.initializer.iter().any(|t| t.name() == i.name());
    graph.input.iter().filter(given).map(input_info).collect()
}

/// Checks that a data set has an array for every input of a model: of its type, and of its sizes but for the number of samples.
///
/// # Errors
/// [`Error::MissingInput`] and [`Error::Dataset`].
pub fn check_data(model: &Model, data: &Dataset) -> Result<()> {
    let first = data.head(1);
    for mut info in model_inputs(model) {
        if let Some(samples) = info.dims.first_mut() {
            *samples = None;
        }
        to_tensor(&info, first.input(&info.name)?)?;
    }
    Ok(())
}

fn input_info(info: &ValueInfoProto) -> InputInfo {
    let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => Some(t),
        _ => None,
    };
    let dims = tensor.and_then(|t| t.shape.as_ref()).map(|s| s.dim.iter());
    let dims = dims.into_iter().flatten().map(|d| match d.value {
        Some(dimension::Value::DimValue(n)) if n > 0 => usize::try_from(n).ok(),
        _ => None,
    });
    InputInfo {
        name: info.name().to_string(),
        data_type: tensor.map_or(0, |t| t.elem_type()),
        dims: dims.collect(),
    }
}

/// A model loaded in tract: one plan for every shape where tract takes them open, else a plan for the shapes at hand. A model
/// above 1 GiB is loaded piece by piece in every run, so that memory stays well below its size.
pub struct Engine {
    runs: Runs,
    inputs: Vec<InputInfo>,
    outputs: Vec<String>,
    executor: Executor,
}

enum Runs {
    Whole(Plans),
    Pieces(Box<Pieces>),
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads and optimizes a model.
    ///
    /// # Errors
    /// [`Error::Engine`] with tract's own words where it does not take the model; its panics are caught.
    pub fn load(model: &Model) -> Result<Self> {
        match Self::in_pieces(model) {
            Some(engine) => Ok(engine),
            None => Self::new(model, model.proto(), Vec::new(), None),
        }
    }

    /// Loads a model for inputs of these shapes and no others: what a service wants whose batches are all alike. tract
    /// optimizes for the sizes, and nothing but its plan stays in memory.
    ///
    /// # Errors
    /// As [`Engine::load`]; [`Error::Dataset`] for shapes that the file rules out or that are not one for each input.
    pub fn load_shaped(model: &Model, shapes: &[Vec<usize>]) -> Result<Self> {
        let Some(mut engine) = Self::in_pieces(model) else {
            return Self::new(model, model.proto(), Vec::new(), Some(shapes));
        };
        fix(&mut engine.inputs, shapes)?;
        Ok(engine)
    }

    /// The same on so many threads of its own. A model above 1 GiB stays as it is.
    ///
    /// # Errors
    /// [`Error::Engine`] where the threads do not start.
    pub fn with_threads(mut self, threads: NonZeroUsize) -> Result<Self> {
        self.executor = match threads.get() {
            1 => Executor::SingleThread,
            several => {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(several).build();
                let pool = pool.map_err(|e| Error::Engine {
                    stage: "starting threads",
                    problem: format!("{several} threads: {e}"),
                })?;
                Executor::MultiThread(Arc::new(pool))
            }
        };
        Ok(self)
    }

    /// Loads a model whose graph has fused layers in it.
    pub(crate) fn load_fused(
        model: &Model,
        fused: &ModelProto,
        layers: Layers,
        shapes: Option<&[Vec<usize>]>,
    ) -> Result<Self> {
        Self::new(model, fused, layers, shapes)
    }

    /// A model that is too large to be loaded whole.
    fn in_pieces(model: &Model) -> Option<Self> {
        let outputs = model.graph().output.iter().map(|o| o.name().to_string());
        Some(Self {
            runs: Runs::Pieces(Box::new(Pieces::of(model)?)),
            inputs: model_inputs(model),
            outputs: outputs.collect(),
            executor: Executor::SingleThread,
        })
    }

    fn new(
        model: &Model,
        proto: &ModelProto,
        layers: Layers,
        shapes: Option<&[Vec<usize>]>,
    ) -> Result<Self> {
        let mut inputs = model_inputs(model);
        let bytes = sanitized(proto).encode_to_vec();
        let plans = match shapes {
            None => Plans::load(bytes, &inputs, layers)?,
            Some(shapes) => {
                fix(&mut inputs, shapes)?;
                Plans::shaped(&bytes, &shapes.to_vec(), &layers)?
            }
        };
        let outputs = model.graph().output.iter().map(|o| o.name().to_string());
        Ok(Self {
            runs: Runs::Whole(plans),
            outputs: outputs.collect(),
            inputs,
            executor: Executor::SingleThread,
        })
    }

    /// The inputs.
    pub fn inputs(&self) -> &[InputInfo] {
        &self.inputs
    }

    /// The names of the outputs.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// How many samples run at once: what the file fixes, else [`BATCH`].
    pub fn batch(&self) -> usize {
        self.inputs
            .iter()
            .find_map(|i| i.dims.first().copied().flatten())
            .unwrap_or(BATCH)
    }

    /// Runs one batch; `inputs` in the order of [`Engine::inputs`].
    ///
    /// # Errors
    /// [`Error::Engine`] where tract refuses or an output is of a type that is not read here.
    pub fn run(&self, inputs: &[impl Borrow<NpyArray>]) -> Result<Vec<NpyArray>> {
        let plans = match &self.runs {
            Runs::Whole(plans) => plans,
            Runs::Pieces(pieces) => return pieces.run(&self.inputs, inputs, &self.outputs),
        };
        let tensors = self
            .inputs
            .iter()
            .zip(inputs)
            .map(|(info, array)| to_tensor(info, array.borrow()));
        let tensors: TVec<TValue> = tensors.collect::<Result<_>>()?;
        let outputs = multithread_tract_scope(self.executor.clone(), || plans.run(tensors))?;
        outputs
            .iter()
            .zip(&self.outputs)
            .map(|(value, name)| from_tensor(name, value))
            .collect()
    }

    /// Runs samples `from..to` of a data set; a file that fixes its batch gets the last sample repeated to fill it.
    ///
    /// # Errors
    /// [`Error::MissingInput`] where the data set lacks an input, and those of [`Engine::run`].
    pub fn run_samples(
        &self,
        data: &Dataset,
        range: std::ops::Range<usize>,
    ) -> Result<Vec<NpyArray>> {
        let count = range.len();
        let fixed = self
            .inputs
            .iter()
            .find_map(|i| i.dims.first().copied().flatten());
        let missing = fixed.map_or(0, |n| n.saturating_sub(count));
        let inputs = self.inputs.iter().map(|info| {
            let cut = rows(data.input(&info.name)?, range.clone());
            Ok(if missing > 0 {
                repeat_last(&cut, missing)
            } else {
                cut
            })
        });
        let outputs = self.run(&inputs.collect::<Result<Vec<_>>>()?)?;
        let full = count + missing;
        let cut = |a: &NpyArray| {
            if missing > 0 && a.shape().first() == Some(&full) {
                rows(a, 0..count)
            } else {
                a.clone()
            }
        };
        Ok(outputs.iter().map(cut).collect())
    }

    /// Runs a whole data set in batches.
    ///
    /// # Errors
    /// As [`Engine::run_samples`]; [`Error::Engine`] where an output does not have the sample as its first axis.
    pub fn run_all(&self, data: &Dataset) -> Result<Vec<(String, NpyArray)>> {
        let mut parts: Vec<Vec<NpyArray>> = vec![Vec::new(); self.outputs.len()];
        let batch = self.batch();
        for from in (0..data.len()).step_by(batch) {
            let outputs = self.run_samples(data, from..(from + batch).min(data.len()))?;
            parts
                .iter_mut()
                .zip(outputs)
                .for_each(|(part, output)| part.push(output));
        }
        let joined = self
            .outputs
            .iter()
            .zip(parts)
            .map(|(name, parts)| Ok((name.clone(), join(name, &parts)?)));
        joined.collect()
    }
}

/// Runs what may panic on a malformed model.
pub(crate) fn guard<T>(stage: &'static str, work: impl FnOnce() -> TractResult<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Error::Engine {
            stage,
            problem: format!("{e:#}").replace('\n', " "),
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(Error::Engine {
                stage,
                problem: format!("it panicked: {text}"),
            })
        }
    }
}

/// The model for tract. The file is never written from this.
///
/// Functions are inlined: tract knows none. Node names that come twice are given once. A `dim_param` that is no plain identifier
/// is renamed, since tract reads it as an expression; an open size of an input gets a name; and what outputs and
/// intermediate values say about sizes counts only where it is a number or a name of the inputs'.
fn sanitized(proto: &ModelProto) -> ModelProto {
    let mut proto = inlined(proto.clone());
    let Some(graph) = &mut proto.graph else {
        return proto;
    };
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for (k, info) in graph.input.iter_mut().enumerate() {
        for (axis, dim) in dims_mut(info).enumerate() {
            sanitize(&mut dim.value, &mut renamed);
            if dim.value.is_none() {
                let name = match axis {
                    0 => "tnq_open_first".to_string(),
                    _ => format!("tnq_open_{k}_{axis}"),
                };
                dim.value = Some(dimension::Value::DimParam(name));
            }
        }
    }
    for info in graph.output.iter_mut().chain(&mut graph.value_info) {
        for dim in dims_mut(info) {
            if let Some(dimension::Value::DimParam(name)) = &dim.value {
                let name = renamed.get(name).cloned();
                dim.value = name.map(dimension::Value::DimParam);
            }
        }
    }
    let mut names: HashSet<String> = HashSet::new();
    for node in &mut graph.node {
        if !node.name().is_empty() && !names.insert(node.name().to_string()) {
            node.name = None;
        }
    }
    proto
}

fn dims_mut(info: &mut ValueInfoProto) -> impl Iterator<Item = &mut tensor_shape_proto::Dimension> {
    shape_mut(info).into_iter().flat_map(|s| &mut s.dim)
}

fn shape_mut(info: &mut ValueInfoProto) -> Option<&mut TensorShapeProto> {
    match info.r#type.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(t) => t.shape.as_mut(),
        _ => None,
    }
}

/// Gives a symbol the name that tract gets it under.
fn sanitize(value: &mut Option<dimension::Value>, renamed: &mut BTreeMap<String, String>) {
    let Some(dimension::Value::DimParam(name)) = value else {
        return;
    };
    if name.is_empty() {
        *value = None;
        return;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let keeps = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit());
    let next = if keeps {
        name.clone()
    } else {
        format!("tnq_dim_{}", renamed.len())
    };
    *name = renamed.entry(name.clone()).or_insert(next).clone();
}

/// Gives inputs the sizes that they will have.
fn fix(inputs: &mut [InputInfo], shapes: &[Vec<usize>]) -> Result<()> {
    if let Some(info) = inputs.get(shapes.len()) {
        return Err(Error::Dataset {
            array: info.name.clone(),
            problem: format!("expected a shape for each input, found {}", shapes.len()),
        });
    }
    for (info, shape) in inputs.iter_mut().zip(shapes) {
        check_shape(info, shape)?;
        info.dims = shape.iter().map(|&n| Some(n)).collect();
    }
    Ok(())
}

fn check_shape(info: &InputInfo, shape: &[usize]) -> Result<()> {
    let ranks_differ = !info.dims.is_empty() && info.dims.len() != shape.len();
    let sizes_differ = info
        .dims
        .iter()
        .zip(shape)
        .any(|(wanted, found)| wanted.is_some_and(|n| n != *found));
    if ranks_differ || sizes_differ {
        let wanted: Vec<String> = info
            .dims
            .iter()
            .map(|d| d.map_or("any".to_string(), |n| n.to_string()))
            .collect();
        return Err(Error::Dataset {
            array: info.name.clone(),
            problem: format!("expected shape [{}], found {shape:?}", wanted.join(", ")),
        });
    }
    Ok(())
}

fn to_tensor(info: &InputInfo, array: &NpyArray) -> Result<TValue> {
    let wrong = || Error::Dataset {
        array: info.name.clone(),
        problem: format!(
            "expected {}, found {}",
            crate::tensor::type_name(info.data_type),
            array.dtype()
        ),
    };
    check_shape(info, array.shape())?;
    let tensor = match (DataType::try_from(info.data_type), array) {
        (Ok(DataType::Float), NpyArray::F32(_) | NpyArray::F64(_) | NpyArray::F16(_)) => {
            Tensor::from(array.to_f32())
        }
        (Ok(DataType::Double), NpyArray::F64(a)) => Tensor::from(a.clone()),
        (Ok(DataType::Float16), NpyArray::F16(a)) => Tensor::from(a.clone()),
        (Ok(DataType::Int64), NpyArray::I64(a)) => Tensor::from(a.clone()),
        (Ok(DataType::Int64), NpyArray::I32(a)) => Tensor::from(a.mapv(i64::from)),
        (Ok(DataType::Int32), NpyArray::I32(a)) => Tensor::from(a.clone()),
        (Ok(DataType::Int8), NpyArray::I8(a)) => Tensor::from(a.clone()),
        (Ok(DataType::Uint8), NpyArray::U8(a)) => Tensor::from(a.clone()),
        (Ok(DataType::Bool), NpyArray::Bool(a)) => Tensor::from(a.clone()),
        _ => return Err(wrong()),
    };
    Ok(tensor.into_tvalue())
}

fn from_tensor(name: &str, value: &TValue) -> Result<NpyArray> {
    let problem = |e: TractError| Error::Engine {
        stage: "reading an output",
        problem: format!("`{name}`: {e:#}"),
    };
    let array = |t: &Tensor| -> TractResult<NpyArray> {
        Ok(match t.datum_type() {
            DatumType::F16 => NpyArray::F16(t.to_plain_array_view::<f16>()?.to_owned()),
            DatumType::F32 => NpyArray::F32(t.to_plain_array_view::<f32>()?.to_owned()),
            DatumType::F64 => NpyArray::F64(t.to_plain_array_view::<f64>()?.to_owned()),
            DatumType::I64 => NpyArray::I64(t.to_plain_array_view::<i64>()?.to_owned()),
            DatumType::I32 => NpyArray::I32(t.to_plain_array_view::<i32>()?.to_owned()),
            DatumType::I8 => NpyArray::I8(t.to_plain_array_view::<i8>()?.to_owned()),
            DatumType::U8 => NpyArray::U8(t.to_plain_array_view::<u8>()?.to_owned()),
            DatumType::Bool => NpyArray::Bool(t.to_plain_array_view::<bool>()?.to_owned()),
            // Shapes that come out as dimensions are numbers by now.
            _ => NpyArray::I64(t.cast_to::<i64>()?.to_plain_array_view::<i64>()?.to_owned()),
        })
    };
    array(value).map_err(problem)
}

fn repeat_last(array: &NpyArray, times: usize) -> NpyArray {
    let last = array.shape()[0] - 1;
    let tail = rows(array, last..last + 1);
    let mut parts = vec![array.clone()];
    parts.extend(std::iter::repeat_n(tail, times));
    join("", &parts).unwrap_or_else(|_| array.clone())
}

/// Puts arrays of one type behind each other along their first axis.
fn join(name: &str, parts: &[NpyArray]) -> Result<NpyArray> {
    fn stack<T: Clone>(parts: &[&ArrayD<T>]) -> Result<ArrayD<T>, String> {
        let views: Vec<_> = parts.iter().map(|a| a.view()).collect();
        ndarray::concatenate(Axis(0), &views).map_err(|e| e.to_string())
    }
    macro_rules! variants {
        ($($variant:ident),*) => {
            match parts.first() {
                $(Some(NpyArray::$variant(_)) => {
                    let same: Vec<_> = parts
                        .iter()
                        .filter_map(|p| if let NpyArray::$variant(a) = p { Some(a) } else { None })
                        .collect();
                    stack(&same).map(NpyArray::$variant)
                })*
                _ => Err("no batch gave it".to_string()),
            }
        };
    }
    let joined: Result<NpyArray, String> = variants!(F16, F32, F64, I64, I32, I8, U8, Bool);
    joined.map_err(|problem| Error::Engine {
        stage: "joining batches",
        problem: format!("`{name}`: {problem}"),
    })
}
