//! Calls of model-local functions replaced by their bodies, for engines that know no functions.

use std::collections::HashMap;

use crate::proto::{
    self, AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, is_standard_domain,
};

/// The deepest that functions call each other; ONNX allows no recursion, but a broken file may have it.
const MOST_DEPTH: usize = 32;

/// The model without functions, as far as they are defined for the model's own version of the standard operators: a
/// function of another version stays a call.
pub(crate) fn inlined(mut model: ModelProto) -> ModelProto {
    if model.functions.is_empty() {
        return model;
    }
    let standard = |imports: &[proto::OperatorSetIdProto]| {
        let import = imports.iter().find(|o| is_standard_domain(o.domain()));
        import.map(proto::OperatorSetIdProto::version)
    };
    let version = standard(&model.opset_import);
    let functions: Vec<FunctionProto> = std::mem::take(&mut model.functions)
        .into_iter()
        .filter(|f| standard(&f.opset_import).is_none_or(|v| Some(v) == version))
        .collect();
    let mut work = Inline {
        functions: &functions,
        calls: 0,
    };
    if let Some(graph) = &mut model.graph {
        work.graph(graph, 0);
    }
    model
}

struct Inline<'f> {
    functions: &'f [FunctionProto],
    calls: usize,
}

impl Inline<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) {
        let nodes = std::mem::take(&mut graph.node);
        graph.node = self.nodes(nodes, depth);
    }

    fn nodes(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Vec<NodeProto> {
        let mut flat = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            let function = self.functions.iter().find(|f| {
                f.name() == node.op_type()
                    && f.domain() == node.domain()
                    && f.overload() == node.overload()
            });
            match function {
                Some(function) if depth < MOST_DEPTH => {
                    self.calls += 1;
                    let body = body(function, &node, &format!("call{}", self.calls));
                    flat.extend(self.nodes(body, depth + 1));
                }
                _ => {
                    for attribute in &mut node.attribute {
                        let graphs = attribute.g.iter_mut().chain(&mut attribute.graphs);
                        graphs.for_each(|g| self.graph(g, depth));
                    }
                    flat.push(node);
                }
            }
        }
        flat
    }
}

/// The nodes of a function for one call: names of its own made unique, parameters replaced by arguments.
fn body(function: &FunctionProto, call: &NodeProto, unique: &str) -> Vec<NodeProto> {
    let argument = |list: &[String], k: usize| list.get(k).cloned().unwrap_or_default();
    let mut names: HashMap<String, String> = HashMap::new();
    for (k, input) in function.input.iter().enumerate() {
        names.insert(input.clone(), argument(&call.input, k));
    }
    let mut nodes = Vec::with_capacity(function.node.len());
    for (k, output) in function.output.iter().enumerate() {
        let wanted = argument(&call.output, k);
        if wanted.is_empty() {
            continue;
        }
        match names.get(output) {
            // The function gives back what it is given, or one value twice.
            Some(same) => nodes.push(proto::node("Identity", &wanted, &[same], &wanted, vec![])),
            None => drop(names.insert(output.clone(), wanted)),
        }
    }
    // Identities of outputs given twice stand behind what makes the value.
    let copies = std::mem::take(&mut nodes);
    let mut rename = Rename {
        names,
        unique,
        function,
        call,
    };
    nodes.extend(function.node.iter().map(|node| rename.node(node)));
    nodes.extend(copies);
    nodes
}

struct Rename<'c> {
    names: HashMap<String, String>,
    unique: &'c str,
    function: &'c FunctionProto,
    call: &'c NodeProto,
}

impl Rename<'_> {
    fn name(&mut self, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        let unique = self.unique;
        self.names
            .entry(name.to_string())
            .or_insert_with(|| format!("{unique}/{name}"))
            .clone()
    }

    fn node(&mut self, node: &NodeProto) -> NodeProto {
        let mut node = node.clone();
        node.input = node.input.iter().map(|n| self.name(n)).collect();
        node.output = node.output.iter().map(|n| self.name(n)).collect();
        if !node.name().is_empty() {
            node.name = Some(format!("{}/{}", self.unique, node.name()));
        }
        let attributes = std::mem::take(&mut node.attribute);
        node.attribute = attributes
            .into_iter()
            .filter_map(|a| self.attribute(a))
            .collect();
        node
    }

    /// An attribute with the value that the call or the function's default gives it; `None` where neither does.
    fn attribute(&mut self, mut attribute: AttributeProto) -> Option<AttributeProto> {
        if !attribute.ref_attr_name().is_empty() {
            let wanted = attribute.ref_attr_name().to_string();
            let given = self.call.attribute.iter();
            let mut given = given.chain(&self.function.attribute_proto);
            return given.find(|a| a.name() == wanted).map(|a| AttributeProto {
                name: attribute.name.clone(),
                ..a.clone()
            });
        }
        let graphs = attribute.g.iter_mut().chain(&mut attribute.graphs);
        graphs.for_each(|g| self.graph(g));
        Some(attribute)
    }

    fn graph(&mut self, graph: &mut GraphProto) {
        for info in graph.input.iter_mut().chain(&mut graph.output) {
            info.name = Some(self.name(info.name()));
        }
        for tensor in &mut graph.initializer {
            tensor.name = Some(self.name(tensor.name()));
        }
        graph.value_info.clear();
        graph.node = graph.node.iter().map(|n| self.node(n)).collect();
    }
}
