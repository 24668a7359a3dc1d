//! What of a student is trained: the quantized arrays behind fake quantization, and plain float initializers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use quant_core::QuantizedTensor;
use tn_qat::{FakeQuant, Gradients, Parameter, ParameterKind, QatPhase, StepInit};

use super::config::Train;
use super::kernels::read;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::{GraphProto, NodeProto, TensorProto};
use crate::recognise::{Stored, StoredArray, stored_arrays};
use crate::tensor;

/// One trained value of the graph.
#[derive(Debug)]
struct Trainable {
    /// The graph's value that it stands for.
    value: String,
    shape: Vec<usize>,
    parameters: Vec<Parameter<f32>>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Weight, steps and, for an affine scheme, zero points that stand still.
    Array(Box<StoredArray>, Box<FakeQuant>),
    /// An initializer as it is.
    Float,
}

/// The trained part of a student.
#[derive(Debug)]
pub(crate) struct Student {
    trainables: Vec<Trainable>,
    phase: QatPhase,
}

/// The leaves of one pass, in the order of the trained values.
pub(crate) struct Leaves {
    vars: Vec<Var>,
}

impl Leaves {
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        self.vars.iter().map(|v| v.as_tensor().clone()).collect()
    }
}

fn trouble(name: &str, problem: impl ToString) -> Error {
    Error::Evaluate {
        place: format!("trained value `{name}`"),
        problem: problem.to_string(),
    }
}

impl Student {
    /// Finds what is to be trained.
    ///
    /// # Errors
    /// [`Error::Evaluate`] where there is nothing to train or an array's scheme cannot be trained.
    pub(crate) fn new(model: &Model, warm: Option<&Model>, train: Train) -> Result<Self> {
        let graph = model.graph();
        let arrays = stored_arrays(graph);
        let mut trainables = Vec::new();
        for array in arrays {
            trainables.push(Trainable::array(array)?);
        }
        if let Some(warm) = warm {
            warm_start(&mut trainables, warm)?;
        }
        balance(&mut trainables);
        if trainables.is_empty() {
            return Err(trouble(
                "",
                "expected a compressed model with quantized layers, found none",
            ));
        }
        for name in float_names(graph, &trainables, train) {
            if let Some(proto) = graph.initializer.iter().find(|t| t.name() == name) {
                trainables.push(Trainable::float(proto)?);
            }
        }
        Ok(Self {
            trainables,
            phase: QatPhase::Learn,
        })
    }

    /// The graph's values that are trained.
    pub(crate) fn values(&self) -> Vec<String> {
        self.trainables.iter().map(|t| t.value.clone()).collect()
    }

    /// How many quantized numbers, and how many plain ones, are trained.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.trainables
            .iter()
            .fold((0, 0), |(q, f), t| match t.source {
                Source::Array(..) => (q + t.parameters[0].values().len(), f),
                Source::Float => (q, f + t.parameters[0].values().len()),
            })
    }

    /// Changes what the quantizers do; leaving the float phase sets the steps anew from the weights.
    ///
    /// # Errors
    /// [`Error::Evaluate`] when a weight is not finite.
    pub(crate) fn set_phase(&mut self, phase: QatPhase) -> Result<()> {
        if self.phase == QatPhase::Float && phase != QatPhase::Float {
            for trainable in &mut self.trainables {
                trainable.observe()?;
            }
        }
        self.phase = phase;
        Ok(())
    }

    /// The values as the forward pass uses them.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn leaves(&self) -> Result<Leaves> {
        let vars = self
            .trainables
            .iter()
            .map(|t| t.leaf(self.phase))
            .collect::<Result<Vec<_>>>()?;
        Ok(Leaves { vars })
    }

    /// The gradients of all parameters from those of the leaves, times `factor`, added to `gradients`.
    ///
    /// # Errors
    /// [`Error::Evaluate`].
    pub(crate) fn accumulate(
        &self,
        leaves: &Leaves,
        store: &mut GradStore,
        factor: f32,
        gradients: &mut [Gradients<f32>],
    ) -> Result<()> {
        for ((trainable, var), sum) in self.trainables.iter().zip(&leaves.vars).zip(gradients) {
            let Some(gradient) = store.remove(var) else {
                continue;
            };
            trainable.backward(&gradient, factor, self.phase, sum)?;
        }
        Ok(())
    }

    /// Zeros for every parameter.
    pub(crate) fn zero_gradients(&self) -> Vec<Gradients<f32>> {
        self.trainables
            .iter()
            .map(|t| Gradients::zeros(&t.parameters))
            .collect()
    }

    /// Every trained value's parameters, to be changed by an optimizer.
    pub(crate) fn parameters_mut(&mut self) -> impl Iterator<Item = &mut [Parameter<f32>]> {
        self.trainables
            .iter_mut()
            .map(|t| t.parameters.as_mut_slice())
    }

    /// A copy of all numbers.
    pub(crate) fn snapshot(&self) -> Vec<Vec<f32>> {
        self.trainables
            .iter()
            .flat_map(|t| t.parameters.iter().map(|p| p.values().to_vec()))
            .collect()
    }

    /// Puts a copy back.
    ///
    /// # Errors
    /// [`Error::Evaluate`] where it is of another student.
    pub(crate) fn restore(&mut self, snapshot: &[Vec<f32>]) -> Result<()> {
        let mut source = snapshot.iter();
        for trainable in &mut self.trainables {
            for parameter in &mut trainable.parameters {
                let fitting = source
                    .next()
                    .filter(|s| s.len() == parameter.values().len());
                let values = fitting.ok_or_else(|| {
                    trouble(&trainable.value, "expected a checkpoint of this student")
                })?;
                parameter.values_mut().copy_from_slice(values);
            }
        }
        Ok(())
    }

    /// The student with the integers, scales and floats of the last forward pass in its initializers.
    ///
    /// # Errors
    /// [`Error::Evaluate`] when a step is not a finite number.
    pub(crate) fn export(&self, model: &Model) -> Result<Model> {
        let mut proto = model.proto().clone();
        let Some(graph) = proto.graph.as_mut() else {
            return Model::from_proto(proto);
        };
        for trainable in &self.trainables {
            match &trainable.source {
                Source::Array(stored, fake) => {
                    let tensor = trainable.quantized(fake)?;
                    if stored.store(graph, &tensor) != Stored::Written {
                        return Err(trouble(
                            &trainable.value,
                            "expected the initializers it was read from",
                        ));
                    }
                }
                Source::Float => {
                    if let Some(old) = graph
                        .initializer
                        .iter_mut()
                        .find(|t| t.name() == trainable.value)
                    {
                        *old = tensor::from_f32(
                            &trainable.value,
                            &trainable.shape,
                            trainable.parameters[0].values(),
                        );
                    }
                }
            }
        }
        Model::from_proto(proto)
    }
}

impl Trainable {
    fn array(array: StoredArray) -> Result<Self> {
        let name = array.value().to_string();
        let tensor = array.tensor();
        let fake =
            FakeQuant::new(*tensor.scheme(), tensor.shape()).map_err(|e| trouble(&name, e))?;
        let new = |suffix: &str, kind, shape: &[usize], values: Vec<f32>| {
            Parameter::new(format!("{name}{suffix}"), kind, shape, values)
                .map_err(|e| trouble(&name, e))
        };
        let scales = tensor.params().scales().to_vec();
        let groups = [scales.len()];
        let mut parameters = vec![
            new(
                "",
                ParameterKind::Weight,
                tensor.shape(),
                tensor.dequantize(),
            )?,
            new(".step", ParameterKind::Step, &groups, scales)?,
        ];
        if tensor.scheme().has_zero_points() {
            let zero = tensor
                .params()
                .zero_points()
                .iter()
                .map(|&z| z as f32)
                .collect();
            parameters.push(new(".zero_point", ParameterKind::ZeroPoint, &groups, zero)?);
        }
        let shape = array.shape().to_vec();
        Ok(Self {
            value: name,
            shape,
            parameters,
            source: Source::Array(Box::new(array), Box::new(fake)),
        })
    }

    fn float(proto: &TensorProto) -> Result<Self> {
        let name = proto.name();
        let shape = tensor::shape(proto)?;
        let values = tensor::to_f32(proto).ok_or_else(|| trouble(name, "expected floats"))?;
        let parameter = Parameter::new(name, ParameterKind::Bias, &shape, values)
            .map_err(|e| trouble(name, e))?;
        Ok(Self {
            value: name.to_string(),
            shape,
            parameters: vec![parameter],
            source: Source::Float,
        })
    }

    fn zero_points(&self) -> Option<&[f32]> {
        self.parameters.get(2).map(Parameter::values)
    }

    /// An affine array is quantized in every phase: its zero points stand still, and fit its steps as they are.
    fn is_quantized(&self, phase: QatPhase) -> bool {
        phase != QatPhase::Float || self.parameters.len() > 2
    }

    fn observe(&mut self) -> Result<()> {
        if let (Source::Array(_, fake), 2) = (&self.source, self.parameters.len()) {
            let (steps, _) = fake
                .initial_steps(self.parameters[0].values(), StepInit::Mse)
                .map_err(|e| trouble(&self.value, e))?;
            self.parameters[1].values_mut().copy_from_slice(&steps);
        }
        Ok(())
    }

    fn leaf(&self, phase: QatPhase) -> Result<Var> {
        let values = self.parameters[0].values();
        let data = match &self.source {
            Source::Array(_, fake) if self.is_quantized(phase) => {
                let mut out = vec![0.0; values.len()];
                fake.forward(
                    values,
                    self.parameters[1].values(),
                    self.zero_points(),
                    &mut out,
                )
                .map_err(|e| trouble(&self.value, e))?;
                out
            }
            _ => values.to_vec(),
        };
        Var::from_vec(data, self.shape.as_slice(), &Device::Cpu)
            .map_err(|e| trouble(&self.value, e))
    }

    fn backward(
        &self,
        gradient: &Tensor,
        factor: f32,
        phase: QatPhase,
        sum: &mut Gradients<f32>,
    ) -> Result<()> {
        let mut gradient: Vec<f32> = read(gradient, |g| {
            g.iter().map(|v| v * factor).collect::<Vec<f32>>()
        })
        .map_err(|e| trouble(&self.value, e))?;
        let mut sums = sum.iter_mut();
        let Some(weight) = sums.next() else {
            return Ok(());
        };
        if let Source::Array(_, fake) = &self.source
            && self.is_quantized(phase)
        {
            let steps = sums.next().unwrap_or_default();
            let mut frozen = vec![0.0; steps.len()];
            let moving = phase == QatPhase::Learn;
            let mut ignored = self.zero_points().map(|z| vec![0.0; z.len()]);
            fake.backward(
                self.parameters[0].values(),
                self.parameters[1].values(),
                self.zero_points(),
                &mut gradient,
                if moving { steps } else { &mut frozen },
                ignored.as_deref_mut(),
            )
            .map_err(|e| trouble(&self.value, e))?;
        }
        weight.iter_mut().zip(&gradient).for_each(|(s, g)| *s += g);
        Ok(())
    }

    fn quantized(&self, fake: &FakeQuant) -> Result<QuantizedTensor> {
        fake.quantize(
            self.parameters[0].values(),
            self.parameters[1].values(),
            self.zero_points(),
        )
        .map_err(|e| trouble(&self.value, e))
    }
}

/// Takes over the weights of a finer quantized model where it has an array of the same name and shape.
fn warm_start(trainables: &mut [Trainable], warm: &Model) -> Result<()> {
    let arrays = stored_arrays(warm.graph());
    let by_name: HashMap<&str, &StoredArray> = arrays.iter().map(|a| (a.value(), a)).collect();
    for trainable in trainables {
        let Some(finer) = by_name.get(trainable.value.as_str()) else {
            continue;
        };
        if finer.tensor().shape() == trainable.parameters[0].shape()
            && trainable.parameters.len() == 2
        {
            trainable.parameters[0]
                .values_mut()
                .copy_from_slice(&finer.tensor().dequantize());
            trainable.observe()?;
        }
    }
    Ok(())
}

/// Brings the arrays of every product to one Frobenius norm, which leaves the product as it is: one learning rate then
/// suits all. Arrays of one product stand under one name, numbered: `w/tt/core0`, `w/tt/core1`, or `factor0`, `core`, `factor1`.
fn balance(trainables: &mut [Trainable]) {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, trainable) in trainables.iter().enumerate() {
        let mut parts = trainable.value.rsplitn(3, '/').skip(1);
        if let (Some(part), Some(prefix)) = (parts.next(), parts.next())
            && (part.starts_with("core") || part.starts_with("factor"))
        {
            groups.entry(prefix.to_string()).or_default().push(index);
        }
    }
    for members in groups.values() {
        let norm = |t: &Trainable| {
            t.parameters[0]
                .values()
                .iter()
                .map(|&v| f64::from(v).powi(2))
                .sum::<f64>()
                .sqrt()
                .ln()
        };
        let norms: Vec<f64> = members.iter().map(|&i| norm(&trainables[i])).collect();
        let mean = norms.iter().sum::<f64>() / norms.len() as f64;
        if !mean.is_finite() {
            continue;
        }
        for (&index, norm) in members.iter().zip(norms) {
            let factor = (mean - norm).exp() as f32;
            for parameter in &mut trainables[index].parameters[..2] {
                parameter.values_mut().iter_mut().for_each(|v| *v *= factor);
            }
        }
    }
}

/// The float initializers that `train` asks for beside the arrays, in the order of the graph.
fn float_names(graph: &GraphProto, trainables: &[Trainable], train: Train) -> Vec<String> {
    let taken: HashSet<&str> = trainables
        .iter()
        .filter_map(|t| match &t.source {
            Source::Array(stored, _) => Some(stored.initializers()),
            Source::Float => None,
        })
        .flatten()
        .collect();
    let floats: HashMap<&str, &TensorProto> = graph
        .initializer
        .iter()
        .filter(|t| {
            tensor::is_float(t) && !taken.contains(t.name()) && !t.name().starts_with("tnq/")
        })
        .map(|t| (t.name(), t))
        .collect();
    let mut names = BTreeSet::new();
    for node in graph.node.iter().filter(|n| emitted_layer(n, trainables)) {
        names.extend(bias_of(graph, node, &floats));
    }
    if train != Train::Cores {
        let norms = [
            "LayerNormalization",
            "RMSNormalization",
            "GroupNormalization",
            "InstanceNormalization",
        ];
        for node in graph.node.iter().filter(|n| norms.contains(&n.op_type())) {
            names.extend(
                node.input
                    .iter()
                    .skip(1)
                    .filter(|i| floats.contains_key(i.as_str()))
                    .cloned(),
            );
        }
    }
    if train == Train::All {
        names.extend(
            floats
                .iter()
                .filter(|(_, t)| t.dims.iter().product::<i64>() > 1)
                .map(|(n, _)| n.to_string()),
        );
    }
    graph
        .initializer
        .iter()
        .map(|t| t.name().to_string())
        .filter(|n| names.contains(n))
        .collect()
}

/// The names under which a layer's nodes stand: `weight/tt` of a value `weight/tt/core0/value`.
fn prefixes(trainables: &[Trainable]) -> impl Iterator<Item = &str> {
    trainables
        .iter()
        .filter_map(|t| t.value.rsplitn(3, '/').nth(2))
}

fn emitted_layer(node: &NodeProto, trainables: &[Trainable]) -> bool {
    prefixes(trainables).any(|p| {
        node.name()
            .strip_prefix(p)
            .is_some_and(|rest| rest.starts_with('/'))
    })
}

/// The bias that is added to what a node makes, or that the node itself adds.
fn bias_of(
    graph: &GraphProto,
    node: &NodeProto,
    floats: &HashMap<&str, &TensorProto>,
) -> Vec<String> {
    let vector = |name: &String| {
        floats
            .get(name.as_str())
            .is_some_and(|t| t.dims.iter().filter(|&&d| d != 1).count() == 1)
    };
    let adds =
        |n: &&NodeProto| n.op_type() == "Add" && n.input.iter().any(|i| node.output.contains(i));
    let own = (node.op_type() == "Add").then_some(node);
    own.into_iter()
        .chain(graph.node.iter().filter(adds))
        .flat_map(|n| n.input.iter().filter(|i| vector(i)).cloned())
        .collect()
}

/// The values where a rewritten layer hands over to the rest of the graph and that the teacher has too.
pub(crate) fn layer_outputs(student: &Model, teacher: &Model) -> Vec<String> {
    let known: HashSet<&str> = teacher
        .graph()
        .node
        .iter()
        .flat_map(|n| n.output.iter().map(String::as_str))
        .collect();
    let arrays = stored_arrays(student.graph());
    let prefixes: Vec<&str> = arrays
        .iter()
        .filter_map(|a| a.value().rsplitn(3, '/').nth(2))
        .collect();
    let emitted = |n: &&NodeProto| {
        prefixes.iter().any(|p| {
            n.name()
                .strip_prefix(p)
                .is_some_and(|rest| rest.starts_with('/'))
        })
    };
    student
        .graph()
        .node
        .iter()
        .filter(emitted)
        .flat_map(|n| n.output.iter())
        .filter(|o| known.contains(o.as_str()))
        .cloned()
        .collect()
}
