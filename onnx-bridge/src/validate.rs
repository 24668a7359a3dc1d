//! The rules of ONNX that a model must keep before anything else looks at it.

use std::collections::HashSet;

use crate::error::{Error, Result, node_place};
use crate::proto::{
    AttributeType, FunctionProto, GraphProto, ModelProto, NodeProto, attribute, is_standard_domain,
};
use crate::{tensor, walk};

/// Names that are visible in a graph: its own and those of the graphs around it.
struct Scope<'a> {
    own: HashSet<&'a str>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn sees(&self, name: &str) -> bool {
        self.own.contains(name) || self.outer.is_some_and(|o| o.sees(name))
    }
}

/// Checks a whole model.
pub(crate) fn model(model: &ModelProto) -> Result<()> {
    let Some(main) = &model.graph else {
        return Err(Error::MissingField {
            place: "model".into(),
            field: "graph",
        });
    };
    if model.ir_version() >= 3 && model.opset_import.is_empty() {
        return Err(Error::MissingField {
            place: "model".into(),
            field: "opset_import",
        });
    }
    graph(main, None)?;
    if main.output.is_empty() {
        return Err(Error::MissingField {
            place: graph_place(main),
            field: "output",
        });
    }
    model.functions.iter().try_for_each(function)
}

fn graph_place(graph: &GraphProto) -> String {
    format!("graph `{}`", graph.name())
}

fn graph(graph: &GraphProto, outer: Option<&Scope<'_>>) -> Result<()> {
    let mut scope = Scope {
        own: HashSet::new(),
        outer,
    };
    let place = graph_place(graph);
    for input in &graph.input {
        if input.name().is_empty() {
            return Err(Error::MissingField {
                place: format!("an input of {place}"),
                field: "name",
            });
        }
        define(&mut scope, graph, input.name(), || "an input".to_string())?;
    }
    let mut initialized = HashSet::new();
    let dense = graph.initializer.iter();
    let sparse = graph
        .sparse_initializer
        .iter()
        .filter_map(|s| s.values.as_ref());
    for initializer in dense.chain(sparse) {
        let name = initializer.name();
        if name.is_empty() {
            return Err(Error::MissingField {
                place: format!("an initializer of {place}"),
                field: "name",
            });
        }
        if !initialized.insert(name) {
            let (graph, value) = (graph.name().to_string(), name.to_string());
            return Err(Error::DuplicateValue {
                graph,
                value,
                place: "an initializer".to_string(),
            });
        }
        scope.own.insert(name);
    }
    graph.initializer.iter().try_for_each(tensor::check)?;
    for node in &graph.node {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            define(&mut scope, graph, output, || node_place(node))?;
        }
    }
    nodes(&graph.node, &scope)?;
    for output in &graph.output {
        if !scope.sees(output.name()) {
            let value = output.name().to_string();
            return Err(Error::UndefinedValue {
                place,
                field: "output",
                value,
            });
        }
    }
    Ok(())
}

fn define<'a>(
    scope: &mut Scope<'a>,
    graph: &GraphProto,
    name: &'a str,
    place: impl Fn() -> String,
) -> Result<()> {
    if scope.own.insert(name) {
        return Ok(());
    }
    Err(Error::DuplicateValue {
        graph: graph.name().to_string(),
        value: name.to_string(),
        place: place(),
    })
}

fn function(function: &FunctionProto) -> Result<()> {
    let inputs = function.input.iter().map(String::as_str);
    let outputs = function
        .node
        .iter()
        .flat_map(|n| &n.output)
        .map(String::as_str);
    nodes(
        &function.node,
        &Scope {
            own: inputs.chain(outputs).collect(),
            outer: None,
        },
    )
}

fn nodes(nodes: &[NodeProto], scope: &Scope<'_>) -> Result<()> {
    for node in nodes {
        if node.op_type().is_empty() {
            return Err(Error::MissingField {
                place: node_place(node),
                field: "op_type",
            });
        }
        let makes_nothing = node.output.iter().all(String::is_empty);
        if makes_nothing && is_standard_domain(node.domain()) {
            return Err(Error::MissingField {
                place: node_place(node),
                field: "output",
            });
        }
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            if !scope.sees(input) {
                return Err(Error::UndefinedValue {
                    place: node_place(node),
                    field: "input",
                    value: input.clone(),
                });
            }
        }
        for a in &node.attribute {
            a.t.iter().chain(&a.tensors).try_for_each(tensor::check)?;
            if a.r#type() == AttributeType::Tensor && a.t.is_none() && a.ref_attr_name().is_empty()
            {
                return Err(Error::MissingField {
                    place: format!("{}: attribute `{}`", node_place(node), a.name()),
                    field: "t",
                });
            }
        }
        permutation(node)?;
        walk::subgraphs(node).try_for_each(|g| graph(g, Some(scope)))?;
    }
    Ok(())
}

fn permutation(node: &NodeProto) -> Result<()> {
    let Some(perm) = attribute(node, "perm").filter(|_| node.op_type() == "Transpose") else {
        return Ok(());
    };
    let mut sorted = perm.ints.clone();
    sorted.sort_unstable();
    if sorted.iter().copied().eq(0..perm.ints.len() as i64) || !perm.ref_attr_name().is_empty() {
        return Ok(());
    }
    Err(Error::BadAttribute {
        place: node_place(node),
        attribute: "perm".to_string(),
        expected: format!(
            "a permutation of 0 to {}",
            perm.ints.len().saturating_sub(1)
        ),
        found: format!("{:?}", perm.ints),
    })
}
