//! The way back through the hot part of a program.
//!
//! One entry for every node that a trained value reaches. The common operators have a backward pass over our kernels
//! ([`super::ops::way_back`]), which is given what the node read and made; the others run on a tape of candle's own, begun
//! at their inputs. candle's backward pass over the whole graph would zero an array for every gradient and add to it in one thread;
//! here the first gradient of a value is kept as it is, and entries let go of what they hold as they are passed.

use candle_core::{Tensor, Var};

use super::kernels::{BinaryOp, binary};
use super::ops::{Back, BackFn, Call, OpError, OpFn, Outputs};
use super::value::Value;
use crate::proto::NodeProto;

/// What a node leaves for the way back.
enum Way {
    /// What it read, and its one output.
    Own {
        back: BackFn,
        inputs: Vec<Option<Value>>,
        output: Tensor,
    },
    /// Variables in the place of the inputs that carry a gradient, and the outputs that do.
    Candle {
        variables: Vec<(usize, Var)>,
        outputs: Vec<(usize, Tensor)>,
    },
}

/// What one node leaves, and between which slots it stands.
struct Entry {
    /// Its number among the nodes that were run.
    step: usize,
    /// The slot of every input that carries a gradient.
    sources: Vec<Option<usize>>,
    /// The slots of its outputs.
    targets: Vec<Option<usize>>,
    way: Way,
}

/// A pass through a program that gradients can go back on.
pub(crate) struct Tape {
    /// Whether what stands in a slot carries a gradient.
    carries: Vec<bool>,
    entries: Vec<Entry>,
}

/// A node as the tape sees it.
pub(crate) struct Node<'a> {
    pub(crate) step: usize,
    pub(crate) run: OpFn,
    pub(crate) back: Option<BackFn>,
    pub(crate) call: Call<'a>,
    pub(crate) inputs: &'a [Option<usize>],
    pub(crate) outputs: &'a [Option<usize>],
}

impl Tape {
    /// A tape from the values in `trained` on.
    pub(crate) fn new(slots: usize, trained: &[usize]) -> Self {
        let mut carries = vec![false; slots];
        trained.iter().for_each(|&at| carries[at] = true);
        Self {
            carries,
            entries: Vec::new(),
        }
    }

    /// Runs a node; what it gives back has left candle's tape.
    pub(crate) fn run(&mut self, node: Node<'_>) -> Outputs {
        let source = |(at, value): (&Option<usize>, &Option<&Value>)| {
            at.filter(|&at| self.carries[at] && matches!(value, Some(Value::Float(_))))
        };
        let sources: Vec<Option<usize>> = node
            .inputs
            .iter()
            .zip(&node.call.inputs)
            .map(source)
            .collect();
        if sources.iter().all(Option::is_none) {
            return (node.run)(&node.call);
        }
        let (outputs, way) = match node.back {
            Some(back) => own(back, &node)?,
            None => candles(&node, &sources)?,
        };
        let carried: Vec<usize> = match &way {
            Way::Own { .. } => vec![0],
            Way::Candle { outputs, .. } => outputs.iter().map(|(k, _)| *k).collect(),
        };
        for at in carried.iter().filter_map(|&k| *node.outputs.get(k)?) {
            self.carries[at] = true;
        }
        if !carried.is_empty() {
            self.entries.push(Entry {
                step: node.step,
                sources,
                targets: node.outputs.to_vec(),
                way,
            });
        }
        Ok(outputs)
    }

    /// From the gradients of some slots to those of all that lie before them; `node` gives the node of that number, of the operator set
    /// `opset`.
    ///
    /// # Errors
    /// The number of the node that failed, and why.
    pub(crate) fn backward<'a>(
        self,
        gradients: &mut [Option<Tensor>],
        opset: i64,
        node: impl Fn(usize) -> &'a NodeProto,
    ) -> Result<(), (usize, OpError)> {
        for entry in self.entries.into_iter().rev() {
            let given: Vec<Option<Tensor>> = entry
                .targets
                .iter()
                .map(|at| gradients[(*at)?].take())
                .collect();
            let found = entry
                .way
                .backward(&entry.sources, &given, (node(entry.step), opset));
            let found = found.map_err(|e| (entry.step, e))?;
            for (at, gradient) in entry.sources.iter().zip(found) {
                if let Some(at) = *at {
                    add(&mut gradients[at], gradient).map_err(|e| (entry.step, e.into()))?;
                }
            }
        }
        Ok(())
    }
}

/// Adds a gradient to what there is already.
pub(crate) fn add(sum: &mut Option<Tensor>, gradient: Option<Tensor>) -> candle_core::Result<()> {
    *sum = match (sum.take(), gradient) {
        (Some(a), Some(b)) => Some(binary(&a, &b, BinaryOp::Add)?),
        (a, b) => a.or(b),
    };
    Ok(())
}

fn own(back: BackFn, node: &Node<'_>) -> Result<(Vec<Value>, Way), OpError> {
    let outputs = (node.run)(&node.call)?;
    let Some(Value::Float(output)) = outputs.first() else {
        return Err(OpError::new("expected floats, found another kind"));
    };
    let way = Way::Own {
        back,
        inputs: node.call.inputs.iter().map(|v| v.cloned()).collect(),
        output: output.clone(),
    };
    Ok((outputs, way))
}

fn candles(node: &Node<'_>, sources: &[Option<usize>]) -> Result<(Vec<Value>, Way), OpError> {
    let mut variables = Vec::new();
    let mut inputs: Vec<Option<Value>> = node.call.inputs.iter().map(|v| v.cloned()).collect();
    for (k, input) in inputs.iter_mut().enumerate() {
        if let (Some(Value::Float(t)), Some(_)) = (&input, sources[k]) {
            let variable = Var::from_tensor(t)?;
            *input = Some(Value::Float(variable.as_tensor().clone()));
            variables.push((k, variable));
        }
    }
    let call = Call {
        node: node.call.node,
        opset: node.call.opset,
        inputs: inputs.iter().map(Option::as_ref).collect(),
    };
    let mut outputs = (node.run)(&call)?;
    let mut tracked = Vec::new();
    for (k, output) in outputs.iter_mut().enumerate() {
        if let Value::Float(t) = output
            && t.track_op()
        {
            tracked.push((k, t.clone()));
            *t = t.detach();
        }
    }
    let way = Way::Candle {
        variables,
        outputs: tracked,
    };
    Ok((outputs, way))
}

impl Way {
    /// The gradients of the inputs that `sources` names, from those of the outputs.
    fn backward(
        &self,
        sources: &[Option<usize>],
        given: &[Option<Tensor>],
        (node, opset): (&NodeProto, i64),
    ) -> Result<Vec<Option<Tensor>>, OpError> {
        match self {
            Self::Own {
                back,
                inputs,
                output,
            } => {
                let Some(Some(gradient)) = given.first() else {
                    return Ok(Vec::new());
                };
                back(&Back {
                    call: Call {
                        node,
                        opset,
                        inputs: inputs.iter().map(Option::as_ref).collect(),
                    },
                    output,
                    gradient,
                    needed: sources.iter().map(Option::is_some).collect(),
                })
            }
            Self::Candle { variables, outputs } => {
                // The sum of the outputs, weighted by their gradients, has those gradients.
                let mut sum: Option<Tensor> = None;
                for (k, output) in outputs {
                    let Some(Some(gradient)) = given.get(*k) else {
                        continue;
                    };
                    let term = binary(output, gradient, BinaryOp::Mul)?.sum_all()?;
                    sum = Some(match sum {
                        None => term,
                        Some(sum) => (sum + term)?,
                    });
                }
                let mut found = vec![None; sources.len()];
                if let Some(sum) = sum {
                    let mut store = sum.backward()?;
                    for (k, variable) in variables {
                        found[*k] = store.remove(variable).map(|g| g.detach());
                    }
                }
                Ok(found)
            }
        }
    }
}
