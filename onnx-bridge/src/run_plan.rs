//! How tract is made ready to run a model: one plan for all shapes where it takes them open, else one for each.

use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::*;

use crate::engine::{BATCH, InputInfo, guard};
use crate::error::Result;
use crate::runtime::{Layers, reader, settle};

/// The size that an open axis other than the first has when a model is tried.
const OPEN_AXIS: usize = 16;

/// The shape of every input.
pub(crate) type Shapes = Vec<Vec<usize>>;
type Plan = Arc<TypedRunnableModel>;

/// The plans of one model.
///
/// tract refuses some graphs while two axes are open, such as `Flatten` of `[batch, sequence]`, and takes them once the
/// sizes are known. Such a model gets a plan for the shapes at hand, kept until other shapes come.
pub(crate) enum Plans {
    /// One for all shapes that ever come.
    Single(Plan),
    /// One for the shapes seen last.
    Fixed {
        bytes: Vec<u8>,
        layers: Layers,
        last: Mutex<(Shapes, Plan)>,
    },
}

impl Plans {
    /// Loads and optimizes an encoded model, in which `layers` are fused.
    ///
    /// # Errors
    /// [`crate::Error::Engine`] with tract's words on the open shapes where it takes neither those nor fixed ones.
    pub(crate) fn load(bytes: Vec<u8>, inputs: &[InputInfo], layers: Layers) -> Result<Self> {
        let open = match plan(&bytes, None, &layers) {
            Ok(plan) => return Ok(Self::Single(plan)),
            Err(error) => error,
        };
        let is_open = |input: &InputInfo| input.dims.iter().any(Option::is_none);
        if !inputs.iter().any(is_open) {
            return Err(open);
        }
        let size = |(axis, dim): (usize, &Option<usize>)| {
            dim.unwrap_or(if axis == 0 { BATCH } else { OPEN_AXIS })
        };
        let shapes: Shapes = inputs
            .iter()
            .map(|input| input.dims.iter().enumerate().map(size).collect())
            .collect();
        match plan(&bytes, Some(&shapes), &layers) {
            Ok(plan) => Ok(Self::Fixed {
                bytes,
                layers,
                last: Mutex::new((shapes, plan)),
            }),
            Err(_) => Err(open),
        }
    }

    /// Loads and optimizes an encoded model for one set of input shapes; nothing but the plan is kept.
    ///
    /// # Errors
    /// [`crate::Error::Engine`].
    pub(crate) fn shaped(bytes: &[u8], shapes: &Shapes, layers: &Layers) -> Result<Self> {
        plan(bytes, Some(shapes), layers).map(Self::Single)
    }

    /// Runs one batch.
    ///
    /// # Errors
    /// [`crate::Error::Engine`].
    pub(crate) fn run(&self, inputs: TVec<TValue>) -> Result<TVec<TValue>> {
        let plan = match self {
            Self::Single(plan) => plan.clone(),
            Self::Fixed {
                bytes,
                layers,
                last,
            } => {
                let shapes: Shapes = inputs.iter().map(|value| value.shape().to_vec()).collect();
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.0 != shapes {
                    *last = (shapes.clone(), plan(bytes, Some(&shapes), layers)?);
                }
                last.1.clone()
            }
        };
        guard("running", || plan.run(inputs))
    }
}

fn plan(bytes: &[u8], shapes: Option<&Shapes>, layers: &Layers) -> Result<Plan> {
    guard("loading", || {
        let mut inference = reader().model_for_read(&mut &bytes[..])?;
        for (k, shape) in shapes.into_iter().flatten().enumerate() {
            let fact = inference.input_fact(k)?.clone().with_shape(shape);
            inference.set_input_fact(k, fact)?;
        }
        let typed = settle(inference.into_typed()?, layers)?;
        typed.into_decluttered()?.into_optimized()?.into_runnable()
    })
}
