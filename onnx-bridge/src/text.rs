//! A graph as text: structure without numbers, for snapshots and for people.

use std::fmt::Write;

use crate::model::Model;
use crate::proto::{
    AttributeProto, AttributeType, TensorProto, ValueInfoProto, tensor_shape_proto::dimension,
    type_proto,
};
use crate::tensor::{self, type_name};

/// Prints a model's main graph: one line for each input, initializer, node and output. Integers are printed, floats are
/// not, so that the text depends on the structure alone.
pub fn graph_text(model: &Model) -> String {
    let graph = model.graph();
    let mut text = format!(
        "graph {:?} ir {} opset {}\n",
        graph.name(),
        model.ir_version(),
        model.opset()
    );
    let mut line = |args: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{args}");
    };
    for input in &graph.input {
        line(format_args!("input  {}", value(input)));
    }
    for tensor in &graph.initializer {
        line(format_args!(
            "const  {} = {}",
            tensor.name(),
            constant(tensor)
        ));
    }
    for node in &graph.node {
        let attributes: Vec<String> = node.attribute.iter().map(attribute).collect();
        let attributes = if attributes.is_empty() {
            String::new()
        } else {
            format!(" {{{}}}", attributes.join(", "))
        };
        let (inputs, outputs) = (node.input.join(", "), node.output.join(", "));
        line(format_args!(
            "node   {outputs} = {}({inputs}){attributes}",
            node.op_type()
        ));
    }
    for output in &graph.output {
        line(format_args!("output {}", value(output)));
    }
    text
}

fn value(info: &ValueInfoProto) -> String {
    let Some(type_proto::Value::TensorType(t)) =
        info.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return format!("{}: ?", info.name());
    };
    let dims = t.shape.iter().flat_map(|s| &s.dim).map(|d| match &d.value {
        Some(dimension::Value::DimValue(n)) => n.to_string(),
        Some(dimension::Value::DimParam(p)) => p.clone(),
        None => "?".to_string(),
    });
    format!(
        "{}: {}[{}]",
        info.name(),
        type_name(t.elem_type()),
        dims.collect::<Vec<_>>().join(", ")
    )
}

fn constant(t: &TensorProto) -> String {
    let head = format!("{}{:?}", type_name(t.data_type()), t.dims);
    match tensor::to_i64(t) {
        Some(values) if values.len() <= 8 => format!("{head} {values:?}"),
        _ => head,
    }
}

fn attribute(a: &AttributeProto) -> String {
    let name = a.name();
    match a.r#type() {
        AttributeType::Int => format!("{name}={}", a.i()),
        AttributeType::Ints => format!("{name}={:?}", a.ints),
        AttributeType::String => format!("{name}={:?}", String::from_utf8_lossy(a.s())),
        AttributeType::Tensor => format!(
            "{name}={}",
            a.t.as_ref().map_or_else(|| "?".to_string(), constant)
        ),
        AttributeType::Graph => format!("{name}=graph"),
        other => format!("{name}: {}", other.as_str_name().to_lowercase()),
    }
}
