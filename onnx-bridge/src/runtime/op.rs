//! Fused layers as operators of tract.
//!
//! In the graph that tract parses a fused layer is a node [`OP`] with the number of its layer; once the model is typed, the
//! operators are exchanged for those that hold the layers.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::*;

use super::layer::{Kind, Layer};

/// The `op_type` of a fused layer in the graph given to tract.
pub(super) const OP: &str = "TnqFused";

/// The layers of a model, by their numbers.
pub(crate) type Layers = Vec<Arc<Layer>>;

/// tract's ONNX reader with the fused operator.
pub(crate) fn reader() -> tract_onnx::Onnx {
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert(OP, |_, node: &NodeProto| {
        let place = Place {
            layer: node.get_attr("layer")?,
            width: node.get_attr("width")?,
            is_table: node.get_attr::<i64>("table")? != 0,
        };
        Ok((expand(place), Vec::new()))
    });
    onnx
}

/// Exchanges the places of layers for the layers.
pub(crate) fn settle(mut model: TypedModel, layers: &Layers) -> TractResult<TypedModel> {
    for node in &mut model.nodes {
        if let Some(place) = node.op.downcast_ref::<Place>() {
            let layer = layers
                .get(place.layer)
                .with_context(|| format!("no layer {}", place.layer))?;
            node.op = Box::new(Fused {
                layer: layer.clone(),
                place: place.clone(),
            });
        }
    }
    Ok(model)
}

/// Where a layer will be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    layer: usize,
    width: usize,
    is_table: bool,
}

impl Place {
    fn output(&self, input: &TypedFact) -> TractResult<TVec<TypedFact>> {
        let mut shape: TVec<TDim> = input.shape.iter().cloned().collect();
        if !self.is_table {
            shape.pop();
        }
        shape.push(self.width.to_dim());
        Ok(tvec!(f32::fact(&shape)))
    }
}

impl Expansion for Place {
    fn name(&self) -> StaticName {
        OP.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.given(&inputs[0].rank, move |s, rank| {
            let leading = rank as usize - usize::from(!self.is_table);
            s.equals(&outputs[0].rank, leading as i64 + 1)?;
            for axis in 0..leading {
                s.equals(&outputs[0].shape[axis], &inputs[0].shape[axis])?;
            }
            s.equals(&outputs[0].shape[leading], self.width.to_dim())
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }

    fn runs_out_of_plan(&self) -> bool {
        false
    }
}

impl Op for Place {
    fn name(&self) -> StaticName {
        OP.into()
    }
    op_as_typed_op!();
}

impl EvalOp for Place {
    not_out_of_plan!();
}

impl TypedOp for Place {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.output(inputs[0])
    }
    as_op!();
}

/// A layer that runs.
#[derive(Debug, Clone)]
struct Fused {
    layer: Arc<Layer>,
    place: Place,
}

impl PartialEq for Fused {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.layer, &other.layer)
    }
}

impl Eq for Fused {}

impl Op for Fused {
    fn name(&self) -> StaticName {
        OP.into()
    }
    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![self.layer.name.clone()])
    }
    op_as_typed_op!();
}

impl EvalOp for Fused {
    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let mut shape: TVec<usize> = input.shape().into();
        if !self.place.is_table {
            shape.pop();
        }
        shape.push(self.place.width);
        let mut output = Tensor::zero::<f32>(&shape)?;
        {
            let mut view = output.try_as_plain_ram_mut()?;
            let out = view.as_slice_mut::<f32>()?;
            let done = match &self.layer.kind {
                Kind::Product { .. } => self
                    .layer
                    .run_rows(input.try_as_plain_ram()?.as_slice::<f32>()?, out),
                Kind::Table(_) => {
                    let indices = input.cast_to::<i64>()?;
                    self.layer
                        .look_up(indices.try_as_plain_ram()?.as_slice::<i64>()?, out)
                }
            };
            done.map_err(|problem| format_err!(problem))?;
        }
        Ok(tvec!(output.into_tvalue()))
    }
    op_out_of_plan!();
}

impl TypedOp for Fused {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        self.place.output(inputs[0])
    }
    as_op!();
}
