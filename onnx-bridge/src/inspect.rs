//! What a model is made of, and what each weight can become.

use serde::Serialize;

use crate::error::node_place;
use crate::in_place::Way;
use crate::model::Model;
use crate::nested::{Names, each_graph};
use crate::skip::SkipReason;
use crate::table_layer::TableLayer;
use crate::tensor::type_name;
use crate::view::{GraphView, Use};
use crate::weight::{Role, Weight};

/// A form that a weight can be rewritten to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A TT-matrix.
    Tt,
    /// Two factors.
    LowRank,
    /// Two factors and a core.
    Tucker,
    /// The matrix itself, in fewer bits.
    Dense,
}

impl Format {
    /// Every form, in the order that reports list them.
    pub const ALL: [Self; 4] = [Self::Tt, Self::LowRank, Self::Tucker, Self::Dense];

    /// The name that the command line and the reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tt => "tt",
            Self::LowRank => "low-rank",
            Self::Tucker => "tucker",
            Self::Dense => "dense",
        }
    }
}

/// What a weight can become.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It can take any of these forms.
    CanBecome {
        /// The forms.
        formats: Vec<Format>,
        /// `[M, N]` of `y = W x`; of a convolution M output channels by the numbers that one place of them is made of.
        matrix: [usize; 2],
        /// Why the other forms are of no use here.
        refused: Vec<(Format, SkipReason)>,
    },
    /// It stays.
    Stays(SkipReason),
}

/// One weight of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WeightInfo {
    /// The name under which it is stored.
    pub name: String,
    /// The subgraph or function that it stands in; empty for the main graph.
    pub place: String,
    /// The operators that use it, each once, in the order of the file; `MatMul + Add` where a bias follows.
    pub ops: Vec<String>,
    /// The nodes that use it.
    pub nodes: Vec<String>,
    /// Its stored shape.
    pub shape: Vec<usize>,
    /// Its element type.
    pub data_type: &'static str,
    /// The bytes of its data.
    pub bytes: u64,
    /// `bytes` over the bytes of the file.
    pub share: f64,
    /// What it can become.
    pub verdict: Verdict,
}

/// All weights of a model. Their bytes and [`Inspection::rest_bytes`] add up to [`Inspection::file_bytes`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The bytes of the model in one file.
    pub file_bytes: u64,
    /// The weights, in the order of the file.
    pub weights: Vec<WeightInfo>,
    /// Graph structure and small tensors: what is no weight.
    pub rest_bytes: u64,
    /// The number of nodes of the main graph.
    pub nodes: usize,
    /// The version of the standard operators.
    pub opset: i64,
    /// The version of the file format.
    pub ir_version: i64,
    /// The program that wrote the model, as the model says.
    pub producer: String,
}

impl Inspection {
    /// The share of the file that is no weight.
    pub fn rest_share(&self) -> f64 {
        self.rest_bytes as f64 / self.file_bytes as f64
    }
}

/// Lists every weight of a model: of the main graph, then of subgraphs and functions. Where two weights have one name, the
/// later one's has its place before it.
pub fn inspect(model: &Model) -> Inspection {
    let file_bytes = model.encoded_len();
    let mut weights: Vec<WeightInfo> = Vec::new();
    let mut names = Names::default();
    let mut list = |graph: &Model, place: &str| {
        let view = GraphView::new(graph);
        let found = Weight::all(&view);
        let infos = found.iter().map(|w| {
            let name = names.of(place, w.name());
            info(&view, w, (name, place), file_bytes)
        });
        weights.extend(infos);
        Ok(None)
    };
    // A nested graph that is valid where it stands is valid alone; one that is not is not listed.
    let _ = each_graph(model, &mut list);
    let rest_bytes = file_bytes - weights.iter().map(|w| w.bytes).sum::<u64>();
    let proto = model.proto();
    let producer = format!("{} {}", proto.producer_name(), proto.producer_version())
        .trim()
        .to_string();
    Inspection {
        file_bytes,
        weights,
        rest_bytes,
        nodes: model.graph().node.len(),
        opset: model.opset(),
        ir_version: model.ir_version(),
        producer,
    }
}

/// One weight of a graph, under a name and in a place.
pub(crate) fn info(
    view: &GraphView<'_>,
    weight: &Weight<'_>,
    (name, place): (String, &str),
    file_bytes: u64,
) -> WeightInfo {
    let mut ops: Vec<String> = Vec::new();
    let mut nodes = Vec::new();
    for at in weight.uses() {
        let op = op_name(view, weight, *at);
        if !ops.contains(&op) {
            ops.push(op);
        }
        nodes.push(match view.node(at.node).name() {
            "" => node_place(view.node(at.node)),
            name => name.to_string(),
        });
    }
    let verdict = match Way::of(view, weight) {
        Ok(Way::Layers(Role::Dense(layers))) => Verdict::CanBecome {
            formats: Format::ALL.to_vec(),
            matrix: layers.first().map_or([0, 0], |l| [l.outputs(), l.inputs()]),
            refused: Vec::new(),
        },
        Ok(Way::Layers(Role::Conv(layers))) => {
            let refuses = |format| layers.iter().find_map(|l| l.refuses(format, view));
            let matrix = layers.first().map_or([0, 0], |l| [l.outputs(), l.inputs()]);
            can_become(matrix, &refuses)
        }
        Ok(Way::Layers(Role::Table(layers))) => can_become(
            layers.first().map_or([0, 0], TableLayer::shape),
            &TableLayer::refuses,
        ),
        Ok(Way::InPlace(stored)) => Verdict::CanBecome {
            formats: vec![Format::Dense],
            matrix: stored.matrix(),
            refused: Vec::new(),
        },
        Err(reason) => Verdict::Stays(reason),
    };
    let bytes = weight.bytes();
    WeightInfo {
        name,
        place: place.to_string(),
        ops,
        nodes,
        shape: weight.shape().to_vec(),
        data_type: type_name(weight.tensor().data_type()),
        bytes,
        share: bytes as f64 / file_bytes as f64,
        verdict,
    }
}

/// All forms but those that are refused.
fn can_become(matrix: [usize; 2], refuses: &dyn Fn(Format) -> Option<SkipReason>) -> Verdict {
    let refused = |format: Format| refuses(format).map(|reason| (format, reason));
    let refused: Vec<_> = Format::ALL.into_iter().filter_map(refused).collect();
    let taken = |format: &Format| refused.iter().all(|(f, _)| f != format);
    Verdict::CanBecome {
        formats: Format::ALL.into_iter().filter(taken).collect(),
        matrix,
        refused,
    }
}

fn op_name(view: &GraphView<'_>, weight: &Weight<'_>, at: Use) -> String {
    let op = view.node(at.node).op_type();
    let layer = match weight.role() {
        Ok(Role::Dense(layers)) => layers.iter().find(|l| l.node() == at.node),
        _ => None,
    };
    match layer.and_then(|l| l.bias()).and_then(|b| b.add_node()) {
        Some(_) => format!("{op} + Add"),
        None => op.to_string(),
    }
}
