//! Values that do not depend on the inputs: initializers and `Constant` nodes, also behind Identity, Cast, Transpose and
//! Reshape.

use crate::axes::permuted;
use crate::proto::{AttributeProto, DataType, TensorProto, attribute, int_or, is_standard_domain};
use crate::skip::SkipReason;
use crate::tensor;
use crate::view::GraphView;

/// The most operators between a stored tensor and its value; nodes that refer to each other in a circle end here too.
const MAX_STEPS: usize = 64;

/// One operator between a stored tensor and where its value is used.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Identity,
    Cast(DataType),
    Transpose(Vec<usize>),
    Reshape(Vec<usize>),
}

/// A constant value of a graph: a stored tensor and the operators on the way to the value.
#[derive(Debug, Clone)]
pub struct Constant<'a> {
    name: &'a str,
    tensor: &'a TensorProto,
    initializer: Option<&'a str>,
    steps: Vec<Step>,
    nodes: Vec<usize>,
    shape: Vec<usize>,
    data_type: i32,
}

impl<'a> Constant<'a> {
    /// Looks up a value; `None` where it depends on an input, on an operator that is not looked through, or on more than
    /// 64 of those that are.
    pub fn find(view: &GraphView<'a>, value: &str) -> Option<Self> {
        Self::find_within(view, value, MAX_STEPS)
    }

    fn find_within(view: &GraphView<'a>, value: &str, steps: usize) -> Option<Self> {
        let mut found = if let Some(tensor) = view.initializer(value) {
            Self::stored(tensor.name(), tensor, Some(tensor.name()))?
        } else {
            let index = view.producer(value)?;
            let node = view.node(index);
            let of_caller = |a: &AttributeProto| !a.ref_attr_name().is_empty();
            if !is_standard_domain(node.domain())
                || node.output.len() != 1
                || node.attribute.iter().any(of_caller)
            {
                return None;
            }
            let input = || Self::find_within(view, node.input.first()?, steps.checked_sub(1)?);
            let mut found = match node.op_type() {
                "Constant" => {
                    Self::stored(&node.output[0], attribute(node, "value")?.t.as_ref()?, None)?
                }
                "Identity" => input()?.with(Step::Identity)?,
                "Cast" => {
                    let to = DataType::try_from(i32::try_from(int_or(node, "to", 0)).ok()?).ok()?;
                    input()?.with(Step::Cast(to))?
                }
                "Transpose" => {
                    let inner = input()?;
                    let perm = match attribute(node, "perm") {
                        Some(a) => a
                            .ints
                            .iter()
                            .map(|&p| usize::try_from(p))
                            .collect::<Result<_, _>>()
                            .ok()?,
                        None => (0..inner.shape.len()).rev().collect(),
                    };
                    inner.with(Step::Transpose(perm))?
                }
                "Reshape" => {
                    let inner = input()?;
                    let dims = Self::find_within(view, node.input.get(1)?, steps.checked_sub(1)?)
                        .filter(Self::is_direct)?;
                    let dims = tensor::to_i64(dims.tensor)?;
                    let zero_is_zero = int_or(node, "allowzero", 0) != 0;
                    let shape = reshaped(&inner.shape, &dims, zero_is_zero)?;
                    inner.with(Step::Reshape(shape))?
                }
                _ => return None,
            };
            found.nodes.push(index);
            found
        };
        found.nodes.dedup();
        Some(found)
    }

    fn stored(
        name: &'a str,
        tensor: &'a TensorProto,
        initializer: Option<&'a str>,
    ) -> Option<Self> {
        let shape = tensor::shape(tensor).ok()?;
        let data_type = tensor.data_type();
        Some(Self {
            name,
            tensor,
            initializer,
            steps: Vec::new(),
            nodes: Vec::new(),
            shape,
            data_type,
        })
    }

    fn with(mut self, step: Step) -> Option<Self> {
        match &step {
            Step::Identity => {}
            Step::Cast(to) => self.data_type = *to as i32,
            Step::Transpose(perm) if perm.len() == self.shape.len() => {
                self.shape = perm
                    .iter()
                    .map(|&p| self.shape.get(p).copied())
                    .collect::<Option<_>>()?;
            }
            Step::Transpose(_) => return None,
            Step::Reshape(shape) => self.shape.clone_from(shape),
        }
        self.steps.push(step);
        Some(self)
    }

    /// A value that a layer reads as its weight, and its element type: one of floating point.
    ///
    /// # Errors
    /// [`SkipReason::ElementType`] where it is no constant or of another type.
    pub(crate) fn float_weight(
        view: &GraphView<'a>,
        value: &str,
    ) -> Result<(Self, DataType), SkipReason> {
        let constant = Self::find(view, value).ok_or_else(|| SkipReason::ElementType {
            found: "a value computed by other operators".to_string(),
        })?;
        let element = DataType::try_from(constant.data_type()).unwrap_or(DataType::Undefined);
        if matches!(
            element,
            DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double
        ) {
            return Ok((constant, element));
        }
        Err(SkipReason::ElementType {
            found: tensor::type_name(constant.data_type()).to_string(),
        })
    }

    /// The numbers of a value, all of them finite.
    ///
    /// # Errors
    /// [`SkipReason::ElementType`] as [`Constant::to_f32`] gives none, [`SkipReason::NotFinite`] for a NaN or an infinity.
    pub(crate) fn finite_floats(view: &GraphView<'_>, value: &str) -> Result<Vec<f32>, SkipReason> {
        let data = Constant::find(view, value)
            .and_then(|c| c.to_f32())
            .ok_or_else(|| SkipReason::ElementType {
                found: "a type that is not floating point".to_string(),
            })?;
        match data.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(SkipReason::NotFinite { index }),
            None => Ok(data),
        }
    }

    /// The name under which the data is stored: the initializer's, or the output of its `Constant` node.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The stored tensor.
    pub fn tensor(&self) -> &'a TensorProto {
        self.tensor
    }

    /// The initializer's name, where the data is one.
    pub fn initializer(&self) -> Option<&'a str> {
        self.initializer
    }

    /// The nodes between the stored data and the value, the `Constant` node included.
    pub fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// The shape of the value.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type of the value.
    pub fn data_type(&self) -> i32 {
        self.data_type
    }

    /// Whether the value is the tensor just as it is stored, with no operator in between.
    pub fn is_direct(&self) -> bool {
        self.steps.is_empty()
    }

    /// The value as `f32`, row-major in [`Constant::shape`]; `None` where a type on the way is not floating point.
    ///
    /// # Numerics
    /// Casts to float16 and bfloat16 round as the operator does, half to even.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let mut data = tensor::to_f32(self.tensor)?;
        let mut shape = tensor::shape(self.tensor).ok()?;
        for step in &self.steps {
            match step {
                Step::Identity | Step::Cast(DataType::Float | DataType::Double) => {}
                Step::Cast(DataType::Float16) => {
                    data.iter_mut()
                        .for_each(|v| *v = half::f16::from_f32(*v).to_f32());
                }
                Step::Cast(DataType::Bfloat16) => {
                    data.iter_mut()
                        .for_each(|v| *v = half::bf16::from_f32(*v).to_f32());
                }
                Step::Cast(_) => return None,
                Step::Transpose(perm) => {
                    data = permuted(&data, &shape, perm);
                    shape = perm.iter().map(|&p| shape[p]).collect();
                }
                Step::Reshape(to) => shape.clone_from(to),
            }
        }
        Some(data)
    }
}

/// The shape that Reshape gives an array; `None` where the sizes do not fit.
fn reshaped(from: &[usize], dims: &[i64], zero_is_zero: bool) -> Option<Vec<usize>> {
    let count: usize = from.iter().product();
    let mut open = None;
    let mut shape = Vec::with_capacity(dims.len());
    for (axis, &dim) in dims.iter().enumerate() {
        shape.push(match dim {
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            0 if !zero_is_zero => *from.get(axis)?,
            n => usize::try_from(n).ok()?,
        });
    }
    let rest = shape.iter().try_fold(1usize, |a, &n| a.checked_mul(n))?;
    if let Some(axis) = open {
        shape[axis] = count.checked_div(rest)?;
    }
    let made = shape.iter().try_fold(1usize, |a, &n| a.checked_mul(n))?;
    (made == count).then_some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_keeps_the_number_of_elements() {
        let of = |dims: &[i64]| reshaped(&[2, 3, 4], dims, false);
        assert_eq!(of(&[6, 4]), Some(vec![6, 4]));
        assert_eq!(of(&[-1, 4]), Some(vec![6, 4]));
        assert_eq!(of(&[0, -1]), Some(vec![2, 12]));
        assert_eq!(of(&[0, 0, 0]), Some(vec![2, 3, 4]));
        let misfits = [
            &[-1, -1][..],
            &[5, -1],
            &[i64::MAX, i64::MAX],
            &[0, 0, 0, 0],
        ];
        for misfit in misfits {
            assert_eq!(of(misfit), None, "{misfit:?}");
        }
        assert_eq!(reshaped(&[2, 3, 4], &[0, -1], true), None);
    }
}
