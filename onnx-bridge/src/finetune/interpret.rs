//! A model's outputs, as training sees them.

use ndarray::{ArrayD, IxDyn};
use tn_formats::npy::NpyArray;

use super::batches::Batches;
use super::program::{Program, Request};
use super::value::{Value, to_vec};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::ValueInfoProto;

/// Runs a model on all samples at once with the interpreter that training uses.
///
/// # Shapes
/// One array for each output that is made of numbers, in the order of the graph.
///
/// # Numerics
/// f32; on the shared models within 1e-5 of other engines.
///
/// # Errors
/// [`Error::MissingOperators`], [`Error::MissingInput`], [`Error::Evaluate`].
pub fn interpret(model: &Model, data: &Dataset) -> Result<Vec<(String, NpyArray)>> {
    let graph = model.graph();
    let wanted: Vec<String> = graph.output.iter().map(|o| o.name().to_string()).collect();
    let program = Program::new(&Request::outputs(model, &wanted))?;
    let stored: Vec<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    let inputs = graph
        .input
        .iter()
        .map(ValueInfoProto::name)
        .filter(|n| !stored.contains(n))
        .map(str::to_string);
    let batches = Batches::new(data, inputs.collect(), None, (1, 0.0, 0))?;
    let feeds = batches.feeds(&(0..data.len()).collect::<Vec<_>>())?;
    let values = program.run(&program.prepare(&feeds)?, &[])?;
    wanted
        .into_iter()
        .zip(values)
        .map(|(name, value)| Ok((name.clone(), array(&name, value)?)))
        .collect()
}

fn array(name: &str, value: Value) -> Result<NpyArray> {
    let fail = |problem: String| Error::Evaluate {
        place: format!("output `{name}`"),
        problem,
    };
    let shape = IxDyn(value.shape());
    Ok(match value {
        Value::Float(t) => {
            let data = to_vec(&t).map_err(|e| fail(e.to_string()))?;
            NpyArray::F32(ArrayD::from_shape_vec(shape, data).map_err(|e| fail(e.to_string()))?)
        }
        Value::Int(a) => NpyArray::I64(
            ArrayD::from_shape_vec(shape, a.array.data().to_vec())
                .map_err(|e| fail(e.to_string()))?,
        ),
        Value::Bool(a) => NpyArray::Bool(
            ArrayD::from_shape_vec(shape, a.data().to_vec()).map_err(|e| fail(e.to_string()))?,
        ),
    })
}
