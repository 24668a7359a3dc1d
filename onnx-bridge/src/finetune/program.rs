//! A graph made ready to be run many times: sorted into what is constant, what depends on the batch alone, and the hot
//! part that trainable values reach.

mod build;

use std::collections::{BTreeMap, HashSet};

use candle_core::Tensor;

use super::ops::{BackFn, Call, OpFn};
use super::tape::{Node, Tape, add};
use super::value::Value;
use crate::error::{Error, Result, node_place};
use crate::proto::NodeProto;

pub(crate) use build::Request;
pub use build::missing_operators;

struct Step {
    node: NodeProto,
    op: OpFn,
    back: Option<BackFn>,
    inputs: Vec<Option<usize>>,
    outputs: Vec<Option<usize>>,
    /// Slots that nothing reads after this step.
    dead: Vec<usize>,
}

/// A graph ready to run.
pub(crate) struct Program {
    batch: Vec<Step>,
    hot: Vec<Step>,
    opset: i64,
    slots: usize,
    constants: Vec<(usize, Value)>,
    inputs: Vec<(String, usize)>,
    trained: Vec<usize>,
    given: Vec<usize>,
    seen: Vec<usize>,
    wanted: Vec<usize>,
    /// Slots that the hot part or the caller reads.
    kept: HashSet<usize>,
}

/// The values of one batch after the part that no trainable value reaches.
pub(crate) struct Prepared {
    slots: Vec<Option<Value>>,
}

impl Program {
    /// How many nodes run per batch and on every pass.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.batch.len(), self.hot.len())
    }

    /// Runs what no trainable value reaches.
    ///
    /// # Errors
    /// [`Error::Evaluate`] for an input that is missing or an operator that fails.
    pub(crate) fn prepare(&self, feeds: &BTreeMap<String, Value>) -> Result<Prepared> {
        let mut slots: Vec<Option<Value>> = vec![None; self.slots];
        for (at, value) in &self.constants {
            slots[*at] = Some(value.clone());
        }
        for (name, at) in &self.inputs {
            slots[*at] = feeds.get(name).cloned();
        }
        for step in &self.batch {
            step.run(self.opset, &mut slots, None)?;
            for &at in &step.dead {
                slots[at] = None;
            }
        }
        for (at, slot) in slots.iter_mut().enumerate() {
            if !self.kept.contains(&at) {
                *slot = None;
            }
        }
        Ok(Prepared { slots })
    }

    /// The values that were asked to be seen, in their order.
    pub(crate) fn seen<'a>(
        &self,
        prepared: &'a Prepared,
    ) -> impl Iterator<Item = Option<&'a Value>> {
        self.seen.iter().map(|&at| prepared.slots[at].as_ref())
    }

    /// Gives the values that a prepared batch still lacks, in the order they were requested.
    pub(crate) fn give(&self, prepared: &mut Prepared, values: Vec<Value>) {
        for (&at, value) in self.given.iter().zip(values) {
            prepared.slots[at] = Some(value);
        }
    }

    /// Runs the hot part on the values of `trained`, in the order they were requested, and gives the wanted values.
    ///
    /// # Errors
    /// [`Error::Evaluate`] for an operator that fails.
    pub(crate) fn run(&self, prepared: &Prepared, trained: &[Tensor]) -> Result<Vec<Value>> {
        self.pass(prepared, trained, None)
    }

    /// As [`Program::run`], with what the way back needs.
    ///
    /// # Errors
    /// [`Error::Evaluate`] for an operator that fails.
    pub(crate) fn record(
        &self,
        prepared: &Prepared,
        trained: &[Tensor],
    ) -> Result<(Vec<Value>, Tape)> {
        let mut tape = Tape::new(self.slots, &self.trained);
        let values = self.pass(prepared, trained, Some(&mut tape))?;
        Ok((values, tape))
    }

    /// The gradients of the trained values from those of the wanted ones; `None` for what reaches none of them.
    ///
    /// # Errors
    /// [`Error::Evaluate`] for an operator that fails.
    pub(crate) fn backward(
        &self,
        tape: Tape,
        gradients: Vec<Option<Tensor>>,
    ) -> Result<Vec<Option<Tensor>>> {
        let fail = |step: usize, problem: String| Error::Evaluate {
            place: node_place(&self.hot[step].node),
            problem: format!("backward pass: {problem}"),
        };
        let mut slots: Vec<Option<Tensor>> = vec![None; self.slots];
        for (&at, gradient) in self.wanted.iter().zip(gradients) {
            add(&mut slots[at], gradient).map_err(|e| Error::Evaluate {
                place: "backward pass".into(),
                problem: e.to_string(),
            })?;
        }
        tape.backward(&mut slots, self.opset, |step| &self.hot[step].node)
            .map_err(|(step, e)| fail(step, e.to_string()))?;
        Ok(self.trained.iter().map(|&at| slots[at].take()).collect())
    }

    fn pass(
        &self,
        prepared: &Prepared,
        trained: &[Tensor],
        mut tape: Option<&mut Tape>,
    ) -> Result<Vec<Value>> {
        let mut slots = prepared.slots.clone();
        for (&at, tensor) in self.trained.iter().zip(trained) {
            slots[at] = Some(Value::Float(tensor.clone()));
        }
        for (number, step) in self.hot.iter().enumerate() {
            let tape = tape.as_deref_mut().map(|tape| (number, tape));
            step.run(self.opset, &mut slots, tape)?;
            for &at in &step.dead {
                slots[at] = None;
            }
        }
        self.wanted
            .iter()
            .map(|&at| {
                slots[at].clone().ok_or_else(|| Error::Evaluate {
                    place: "graph".into(),
                    problem: "expected a value for every output, found none".into(),
                })
            })
            .collect()
    }
}

impl Step {
    /// Runs the node on what stands in the slots, on a tape under the number given with it.
    fn run(
        &self,
        opset: i64,
        slots: &mut [Option<Value>],
        tape: Option<(usize, &mut Tape)>,
    ) -> Result<()> {
        let fail = |problem: String| Error::Evaluate {
            place: node_place(&self.node),
            problem,
        };
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for (at, name) in self.inputs.iter().zip(&self.node.input) {
            inputs.push(match at {
                None => None,
                Some(at) => {
                    Some(slots[*at].as_ref().ok_or_else(|| {
                        fail(format!("expected a value for `{name}`, found none"))
                    })?)
                }
            });
        }
        let call = Call {
            node: &self.node,
            opset,
            inputs,
        };
        let outputs = match tape {
            None => (self.op)(&call),
            Some((number, tape)) => tape.run(Node {
                step: number,
                run: self.op,
                back: self.back,
                call,
                inputs: &self.inputs,
                outputs: &self.outputs,
            }),
        };
        let outputs = outputs.map_err(|e| fail(e.to_string()))?;
        if outputs.len()
            < self
                .outputs
                .iter()
                .rposition(Option::is_some)
                .map_or(0, |k| k + 1)
        {
            return Err(fail(format!(
                "expected {} outputs, found {}",
                self.outputs.len(),
                outputs.len()
            )));
        }
        for (at, value) in self.outputs.iter().zip(outputs) {
            if let Some(at) = at {
                slots[*at] = Some(value);
            }
        }
        Ok(())
    }
}
