//! Dense layers one after the other, as arrays: what the studies of single layers and of small networks work on.

use ndarray::Array2;
use tn_formats::npy::NpyArray;
use tn_qat::Activation;

use crate::dataset::Dataset;
use crate::dense_layer::DenseLayer;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::proto::{ModelProto, ValueInfoProto, attribute, is_standard_domain};
use crate::skip::SkipReason;
use crate::view::GraphView;
use crate::weight::Weight;

/// One dense layer as arrays.
#[derive(Debug, Clone, PartialEq)]
pub struct StackLayer {
    /// The name under which the weight is stored.
    pub name: String,
    /// `[M, N]`, out by in.
    pub weight: Array2<f32>,
    /// M numbers.
    pub bias: Option<Vec<f32>>,
    /// What follows.
    pub activation: Activation,
}

/// Dense layers that each read what the one before gives, through an element-wise function.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseStack {
    input: String,
    layers: Vec<StackLayer>,
}

impl DenseStack {
    /// The longest stack that ends at the model's only output; Relu, tanh-Gelu, Identity and Dropout may stand between the
    /// layers, a Softmax behind the last one (it is left out). `None` where no dense layer ends there.
    pub fn at_output(model: &Model) -> Option<Self> {
        let view = GraphView::new(model);
        let [output] = view.graph().output.as_slice() else {
            return None;
        };
        let weights = Weight::all(&view);
        let layers: Vec<&DenseLayer> = weights
            .iter()
            .filter_map(|w| w.layers().ok())
            .flatten()
            .collect();
        let mut value = skip_back(&view, output.name(), &["Softmax", "LogSoftmax"]);
        let mut found = Vec::new();
        // A graph has no cycles, so every round is nearer to its start; the bound only guards against names used twice.
        for _ in 0..view.graph().node.len() {
            let (before, activation) = activation_back(&view, value);
            let ends = |l: &&&DenseLayer| ends_with(&view, l) == before;
            let Some(layer) = layers.iter().find(ends) else {
                break;
            };
            let Ok(arrays) = arrays(&view, layer, activation) else {
                break;
            };
            found.push(arrays);
            value = skip_back(&view, layer.input(), &[]);
        }
        found.reverse();
        (!found.is_empty()).then(|| Self {
            input: value.to_string(),
            layers: found,
        })
    }

    /// The layer of one weight alone, without what follows it. A weight of several layers gives the first of them.
    ///
    /// # Errors
    /// Why the weight of this name is none of a dense layer; [`SkipReason::Unused`] where there is none of this name.
    pub fn of_weight(model: &Model, name: &str) -> std::result::Result<Self, SkipReason> {
        let view = GraphView::new(model);
        let weights = Weight::all(&view);
        let weight = weights.iter().find(|w| w.name() == name);
        let layers = weight.ok_or(SkipReason::Unused)?.layers()?;
        let layer = layers.first().ok_or(SkipReason::Unused)?;
        Ok(Self {
            input: layer.input().to_string(),
            layers: vec![arrays(&view, layer, Activation::Identity)?],
        })
    }

    /// The value that the first layer reads.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The layers in order.
    pub fn layers(&self) -> &[StackLayer] {
        &self.layers
    }

    /// The layers in order, as values.
    pub fn into_layers(self) -> Vec<StackLayer> {
        self.layers
    }

    /// What the first layer reads when the model runs on data.
    ///
    /// # Shapes
    /// `[rows, N]`: all axes but the last one are rows, the sample the outermost.
    ///
    /// # Errors
    /// [`Error::MissingInput`] and [`Error::Engine`] when the model does not run on the data, [`Error::Dataset`] when the
    /// value is not of floating point or its last axis has not N entries.
    pub fn inputs(&self, model: &Model, data: &Dataset) -> Result<Array2<f32>> {
        let given = data.arrays().iter().find(|(name, _)| *name == self.input);
        let array = match given {
            Some((_, array)) => array.clone(),
            None => {
                let mut made = Engine::load(&tapped(model, &self.input)?)?.run_all(data)?;
                made.swap_remove(0).1
            }
        };
        let n = self.layers.first().map_or(0, |l| l.weight.ncols());
        let shape = array.shape().to_vec();
        let wrong = |expected: String| Error::Dataset {
            array: self.input.clone(),
            problem: format!("expected {expected}, found {} {shape:?}", array.dtype()),
        };
        if !matches!(
            array,
            NpyArray::F32(_) | NpyArray::F16(_) | NpyArray::F64(_)
        ) {
            return Err(wrong("numbers of floating point".into()));
        }
        if n == 0 || shape.last() != Some(&n) {
            return Err(wrong(format!("{n} entries along the last axis")));
        }
        let rows = shape[..shape.len() - 1].iter().product::<usize>();
        let values: Vec<f32> = array.to_f32().iter().copied().collect();
        Array2::from_shape_vec((rows, n), values).map_err(|_| wrong(format!("{rows} rows")))
    }
}

/// The model that gives this value instead of its outputs, without the nodes that only served those.
pub(crate) fn tapped(model: &Model, value: &str) -> Result<Model> {
    let view = GraphView::new(model);
    let mut kept = vec![false; view.graph().node.len()];
    let mut waiting = view.producer(value).into_iter().collect::<Vec<_>>();
    while let Some(n) = waiting.pop() {
        if std::mem::replace(&mut kept[n], true) {
            continue;
        }
        waiting.extend(view.node(n).input.iter().filter_map(|i| view.producer(i)));
        waiting.extend(captured(&view, n));
    }
    let mut graph = view.graph().clone();
    let mut at = 0..;
    graph
        .node
        .retain(|_| at.next().is_some_and(|n: usize| kept[n]));
    graph.output = vec![ValueInfoProto {
        name: Some(value.to_string()),
        ..Default::default()
    }];
    Model::from_proto(ModelProto {
        graph: Some(graph),
        ..model.proto().clone()
    })
}

/// The nodes whose values the subgraphs of a node refer to.
fn captured(view: &GraphView<'_>, node: usize) -> Vec<usize> {
    let nodes = view.graph().node.iter().enumerate();
    let read = |value: &String| {
        let uses = view.consumers(value);
        uses.iter()
            .any(|u| u.node == node && u.input == crate::view::Use::CAPTURED)
    };
    if crate::walk::subgraphs(view.node(node)).next().is_none() {
        return Vec::new();
    }
    nodes
        .filter(|(_, n)| n.output.iter().any(read))
        .map(|(n, _)| n)
        .collect()
}

/// The value behind a layer's bias.
fn ends_with<'a>(view: &GraphView<'a>, layer: &'a DenseLayer) -> &'a str {
    let add = layer.bias().and_then(|b| b.add_node());
    let output = add.and_then(|n| view.node(n).output.first());
    output.map_or(layer.output(), String::as_str)
}

/// The value before Identity, Dropout and the given operators.
fn skip_back<'a>(view: &GraphView<'a>, mut value: &'a str, also: &[&str]) -> &'a str {
    for _ in 0..view.graph().node.len() {
        let node = view.producer(value).map(|n| view.node(n));
        let through = node.filter(|n| {
            let op = n.op_type();
            is_standard_domain(n.domain())
                && n.output.first().is_some_and(|o| o == value)
                && (matches!(op, "Identity" | "Dropout") || also.contains(&op))
        });
        let Some(input) = through.and_then(|n| n.input.first()) else {
            break;
        };
        value = input;
    }
    value
}

/// The value before an element-wise function, and the function.
fn activation_back<'a>(view: &GraphView<'a>, value: &'a str) -> (&'a str, Activation) {
    let node = view.producer(value).map(|n| view.node(n));
    let Some(node) = node.filter(|n| is_standard_domain(n.domain())) else {
        return (value, Activation::Identity);
    };
    let activation = match node.op_type() {
        "Relu" => Activation::Relu,
        "Gelu" if attribute(node, "approximate").is_some_and(|a| a.s() == b"tanh") => {
            Activation::Gelu
        }
        _ => return (value, Activation::Identity),
    };
    match node.input.first() {
        Some(input) => (skip_back(view, input, &[]), activation),
        None => (value, Activation::Identity),
    }
}

fn arrays(
    view: &GraphView<'_>,
    layer: &DenseLayer,
    activation: Activation,
) -> std::result::Result<StackLayer, SkipReason> {
    let misfit = |problem: String| SkipReason::Misfit { problem };
    if layer.is_input_transposed() {
        return Err(SkipReason::Attribute {
            attribute: "transA".into(),
            found: "1".into(),
        });
    }
    let (m, n) = (layer.outputs(), layer.inputs());
    let weight = Array2::from_shape_vec((m, n), layer.matrix(view)?);
    let bias = match layer.bias() {
        None => None,
        Some(bias) => {
            let values = bias.values(view);
            let values = values.ok_or_else(|| misfit("expected a constant bias".into()))?;
            let mut values: Vec<f32> = values.iter().map(|b| b * bias.beta()).collect();
            if let &[one] = values.as_slice() {
                values = vec![one; m];
            }
            if values.len() != m {
                let found = values.len();
                return Err(misfit(format!("expected a bias of {m}, found {found}")));
            }
            Some(values)
        }
    };
    Ok(StackLayer {
        name: layer.weight_name().to_string(),
        weight: weight.map_err(|e| misfit(e.to_string()))?,
        bias,
        activation,
    })
}
