//! The graphs of a model one by one: the main graph, the subgraphs of If, Loop and Scan, the bodies of functions. Each is
//! worked on as a model of its own in which the values it takes from around it are inputs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::error::Result;
use crate::model::Model;
use crate::proto::{
    self, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use crate::view::captures;

/// From this version of the file format on, an initializer need not be a graph input.
const FREE_INITIALIZERS: i64 = 4;

/// Names for weights, each given once: the stored name, or where an earlier graph has one of that name, the place before it.
#[derive(Debug, Default)]
pub(crate) struct Names {
    given: HashSet<String>,
}

impl Names {
    /// The name of a weight in a graph.
    pub(crate) fn of(&mut self, place: &str, weight: &str) -> String {
        let mut name = weight.to_string();
        let mut count = 1;
        while !self.given.insert(name.clone()) {
            name = match count {
                1 => format!("{place}/{weight}"),
                _ => format!("{place}/{weight}_{count}"),
            };
            count += 1;
        }
        name
    }
}

/// Calls `visit` with each graph and its place; the main graph, which is first, has an empty one. Where it gives a changed
/// model, that graph is replaced. Gives the changed model, `None` where nothing changed.
///
/// # Errors
/// Those of `visit`, and of [`Model::from_proto`] for the changed model. A function body that makes no valid graph is not
/// visited.
pub(crate) fn each_graph(
    model: &Model,
    visit: &mut dyn FnMut(&Model, &str) -> Result<Option<Model>>,
) -> Result<Option<Model>> {
    let mut changed = graph_and_nested(model, "", visit)?;
    let functions = model.proto().functions.clone();
    for (index, function) in functions.iter().enumerate() {
        let Ok(lifted) = lift_function(model, function) else {
            continue;
        };
        let place = match function.overload() {
            "" => format!("function {}.{}", function.domain(), function.name()),
            overload => format!(
                "function {}.{}.{overload}",
                function.domain(),
                function.name()
            ),
        };
        if let Some(body) = graph_and_nested(&lifted, &place, visit)? {
            let mut proto = changed.as_ref().unwrap_or(model).proto().clone();
            let known = HashSet::new();
            proto.functions[index].node = with_constants(body.graph(), &known);
            proto.functions[index]
                .value_info
                .clone_from(&body.graph().value_info);
            changed = Some(changed.as_ref().unwrap_or(model).with_proto(proto)?);
        }
    }
    Ok(changed)
}

/// A graph and the subgraphs below it, outer ones first.
fn graph_and_nested(
    model: &Model,
    place: &str,
    visit: &mut dyn FnMut(&Model, &str) -> Result<Option<Model>>,
) -> Result<Option<Model>> {
    let mut changed = visit(model, place)?;
    let now = changed.as_ref().unwrap_or(model);
    let mut graph: Option<GraphProto> = None;
    for (index, node) in now.graph().node.iter().enumerate() {
        for (at, attribute) in node.attribute.iter().enumerate() {
            let graphs = attribute.g.iter().chain(&attribute.graphs);
            for (k, inner) in graphs.enumerate() {
                let lifted = lift_graph(now, inner)?;
                let inner_place = format!(
                    "{place}{}{}/{}",
                    if place.is_empty() { "" } else { "/" },
                    name_of(node),
                    attribute.name()
                );
                let Some(new) = graph_and_nested(&lifted, &inner_place, visit)? else {
                    continue;
                };
                let graph = graph.get_or_insert_with(|| now.graph().clone());
                let attribute = &mut graph.node[index].attribute[at];
                let slots = attribute.g.iter_mut().chain(&mut attribute.graphs);
                if let Some(slot) = slots.into_iter().nth(k) {
                    *slot = put_back(inner, &new, model.ir_version());
                }
            }
        }
    }
    if let Some(graph) = graph {
        changed = Some(now.with_graph(graph, &BTreeMap::new())?);
    }
    Ok(changed)
}

fn name_of(node: &NodeProto) -> String {
    match (node.name(), node.output.first()) {
        ("", Some(output)) => format!("{}:{output}", node.op_type()),
        ("", None) => node.op_type().to_string(),
        (name, _) => name.to_string(),
    }
}

/// A subgraph as a model: what it captures are inputs behind its own.
fn lift_graph(outer: &Model, inner: &GraphProto) -> Result<Model> {
    let mut graph = inner.clone();
    let around = outer.graph();
    for name in captured(inner) {
        let mut stated = around
            .value_info
            .iter()
            .chain(&around.input)
            .chain(&around.output);
        let known = stated.find(|v| v.name() == name);
        graph.input.push(ValueInfoProto {
            name: Some(name.to_string()),
            r#type: known.and_then(|v| v.r#type.clone()),
            ..Default::default()
        });
    }
    Model::from_proto(ModelProto {
        ir_version: Some(outer.ir_version().max(FREE_INITIALIZERS)),
        opset_import: outer.proto().opset_import.clone(),
        functions: outer.proto().functions.clone(),
        graph: Some(graph),
        ..Default::default()
    })
}

fn captured(graph: &GraphProto) -> BTreeSet<&str> {
    let mut names = Vec::new();
    captures(graph, &mut names);
    names.into_iter().collect()
}

/// The subgraph that a lifted model became: without the inputs that stand for captured values.
fn put_back(before: &GraphProto, lifted: &Model, ir_version: i64) -> GraphProto {
    let mut graph = lifted.graph().clone();
    graph.input.clone_from(&before.input);
    if ir_version < FREE_INITIALIZERS {
        let known = before.initializer.iter().map(TensorProto::name).collect();
        graph.node = with_constants(&graph, &known);
        graph
            .initializer
            .retain(|t| before.initializer.iter().any(|b| b.name() == t.name()));
    }
    graph
}

/// The nodes of a graph, the initializers that are not `known` before them as Constant nodes.
fn with_constants(graph: &GraphProto, known: &HashSet<&str>) -> Vec<NodeProto> {
    let new = graph
        .initializer
        .iter()
        .filter(|t| !known.contains(t.name()));
    new.map(proto::constant_node)
        .chain(graph.node.iter().cloned())
        .collect()
}

/// The body of a function as a model.
fn lift_function(model: &Model, function: &FunctionProto) -> Result<Model> {
    let value = |name: &String| ValueInfoProto {
        name: Some(name.clone()),
        ..Default::default()
    };
    let opset_import = if function.opset_import.is_empty() {
        model.proto().opset_import.clone()
    } else {
        function.opset_import.clone()
    };
    Model::from_proto(ModelProto {
        ir_version: Some(model.ir_version().max(FREE_INITIALIZERS)),
        opset_import,
        functions: model.proto().functions.clone(),
        graph: Some(GraphProto {
            name: Some(function.name().to_string()),
            node: function.node.clone(),
            input: function.input.iter().map(value).collect(),
            output: function.output.iter().map(value).collect(),
            value_info: function.value_info.clone(),
            ..Default::default()
        }),
        ..Default::default()
    })
}
