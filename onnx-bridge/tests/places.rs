//! Weights that stand elsewhere than in a dense layer of the main graph: under other operators, in subgraphs, in functions.

#![cfg(feature = "tract")]

mod common;

use common::{floats, ints, matmul, node, noise, proto, value};
use onnx_bridge::proto::{
    AttributeProto, AttributeType, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto,
    TensorProto,
};
use onnx_bridge::{
    Format, Job, Model, RewriteReport, SkipReason, Spec, Verdict, compress, dense_reference,
    inspect, verify_synthesized,
};

/// The weights that a job rewrites, after checking that the result encodes, is not larger, and agrees in tract with the dense
/// matrices of the same codes.
fn rewritten(model: &Model, format: Format) -> (Model, RewriteReport) {
    let (made, report) = compress(model, &Job::new(Spec::of(format))).unwrap();
    assert_eq!(Model::decode(made.encode().unwrap()).unwrap(), made);
    assert!(report.bytes_after <= report.bytes_before);
    let reference = dense_reference(model, &report).unwrap();
    let found = verify_synthesized(&reference, &made, 7, 1).unwrap();
    assert!(found.relative_l2 < 1e-5, "{found:?}");
    (made, report)
}

fn names(report: &RewriteReport) -> Vec<&str> {
    report.rewritten().map(|(name, _)| name).collect()
}

fn one_input(nodes: Vec<NodeProto>, weights: Vec<TensorProto>, x: &[usize], y: &[usize]) -> Model {
    Model::from_proto(proto(17, weights, nodes, value("x", x), value("y", y))).unwrap()
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec()),
        ..Default::default()
    }
}

fn graph(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(graph),
        ..Default::default()
    }
}

fn weight(name: &str, dims: &[usize]) -> TensorProto {
    floats(name, dims, |i| noise(dims.len() as u64, i))
}

#[test]
fn operators_that_multiply_take_dense_codes_where_the_weight_stands() {
    let batched = node("MatMul", &["x", "w"], "y", vec![]);
    let equation = vec![text("equation", "bsd,dhk->bshk")];
    let einsum = node("Einsum", &["x", "w"], "y", equation);
    let left = node("MatMul", &["w", "x"], "y", vec![]);
    let cases = [
        ("batched", batched, vec![3, 32, 24], [0, 3, 5, 32], 24),
        ("einsum", einsum, vec![32, 4, 12], [0, 5, 32, 0], 4),
        ("left", left, vec![40, 32], [0, 32, 6, 0], 6),
    ];
    for (label, node, dims, x, _) in cases {
        let x: Vec<usize> = if label == "batched" {
            x.to_vec()
        } else {
            x[..3].to_vec()
        };
        let y = vec![0; if label == "left" { 3 } else { 4 }];
        let model = one_input(vec![node], vec![weight("w", &dims)], &x, &y);
        let (made, report) = rewritten(&model, Format::Dense);
        assert_eq!(names(&report), ["w"], "{label}");
        let makes_w = |n: &NodeProto| n.output == ["w"];
        assert!(made.graph().node.iter().any(makes_w), "{label}");
        let (same, report) = compress(&model, &Job::new(Spec::of(Format::LowRank))).unwrap();
        assert_eq!(same, model, "{label}");
        let (_, reason) = report.skipped().next().unwrap();
        assert!(
            matches!(reason, SkipReason::Misfit { .. }),
            "{label}: {reason}"
        );
    }
}

#[test]
fn a_table_tied_to_a_layer_stays_one_tensor() {
    let nodes = vec![
        node("Cast", &["x"], "ids", vec![common::int("to", 7)]),
        node("Gather", &["w", "ids"], "e", vec![]),
        node("Transpose", &["w"], "t", vec![ints("perm", &[1, 0])]),
        node("MatMul", &["e", "t"], "y", vec![]),
    ];
    let model = one_input(nodes, vec![weight("w", &[90, 32])], &[0, 5], &[0, 5, 90]);
    let (made, report) = rewritten(&model, Format::Dense);
    assert_eq!(names(&report), ["w"]);
    let codes = |t: &&TensorProto| t.dims == [90, 32];
    assert_eq!(made.graph().initializer.iter().filter(codes).count(), 1);
}

/// `y = if sum(x) > 0 then x w + v else x u`: `w` from around the branch, `v` and `u` inside.
fn branches() -> Model {
    let branch =
        |name: &str, nodes: Vec<NodeProto>, tensor: TensorProto, output: &str| GraphProto {
            name: Some(name.into()),
            node: nodes,
            initializer: vec![tensor],
            output: vec![value(output, &[0, 48])],
            ..Default::default()
        };
    let then = vec![
        node("MatMul", &["x", "w"], "p", vec![]),
        node("MatMul", &["p", "v"], "yes", vec![]),
    ];
    let other = vec![node("MatMul", &["x", "u"], "no", vec![])];
    let nodes = vec![
        node("ReduceSum", &["x"], "sum", vec![common::int("keepdims", 0)]),
        node("Greater", &["sum", "zero"], "flag", vec![]),
        node(
            "If",
            &["flag"],
            "y",
            vec![
                graph(
                    "then_branch",
                    branch("then", then, weight("v", &[48, 48]), "yes"),
                ),
                graph(
                    "else_branch",
                    branch("else", other, weight("u", &[64, 48]), "no"),
                ),
            ],
        ),
    ];
    let stored = vec![floats("zero", &[], |_| 0.0), weight("w", &[64, 48])];
    one_input(nodes, stored, &[0, 64], &[0, 48])
}

#[test]
fn weights_of_branches_are_weights_of_the_model() {
    let model = branches();
    let inspection = inspect(&model);
    let found: Vec<_> = inspection
        .weights
        .iter()
        .map(|w| (w.name.as_str(), w.place.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("w", ""),
            ("v", "If_y/then_branch"),
            ("u", "If_y/else_branch")
        ]
    );
    let (made, report) = rewritten(&model, Format::Dense);
    assert_eq!(names(&report), ["w", "v", "u"]);
    // The captured weight is made again before the If, so its branches read it as before.
    let at = |output: &str| made.graph().node.iter().position(|n| n.output == [output]);
    assert!(at("w") < at("y"));
    let (_, report) = rewritten(&model, Format::LowRank);
    assert_eq!(names(&report), ["v", "u"]);
}

/// A function with a weight in a Constant, called twice, and a layer that gives it a weight.
fn functions() -> Model {
    let constant = AttributeProto {
        name: Some("value".into()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(weight("", &[64, 64])),
        ..Default::default()
    };
    let nodes = vec![
        node("Constant", &[], "w", vec![constant]),
        node("MatMul", &["a", "w"], "p", vec![]),
        node("MatMul", &["p", "given"], "b", vec![]),
    ];
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
    };
    let function = FunctionProto {
        name: Some("Layer".into()),
        domain: Some("local".into()),
        input: vec!["a".into(), "given".into()],
        output: vec!["b".into()],
        node: nodes,
        opset_import: vec![opset("", 17)],
        ..Default::default()
    };
    let call = |inputs: &[&str], output: &str| NodeProto {
        domain: Some("local".into()),
        ..node("Layer", inputs, output, vec![])
    };
    let calls = vec![call(&["x", "g"], "h"), call(&["h", "g"], "y")];
    let stored = vec![weight("g", &[64, 64])];
    let (x, y) = (value("x", &[0, 64]), value("y", &[0, 64]));
    let mut made = proto(17, stored, calls, x, y);
    made.opset_import.push(opset("local", 1));
    made.functions = vec![function];
    Model::from_proto(made).unwrap()
}

#[test]
fn weights_of_functions_are_rewritten_in_the_function() {
    let model = functions();
    let (made, report) = rewritten(&model, Format::Dense);
    assert_eq!(names(&report), ["g", "w"]);
    let [function] = made.proto().functions.as_slice() else {
        panic!("expected one function");
    };
    // A function has no initializers: what it stores stands in Constant nodes.
    assert!(
        function
            .node
            .iter()
            .filter(|n| n.op_type() == "Constant")
            .count()
            >= 2
    );
    assert_eq!(function.input, ["a", "given"]);
}

#[test]
fn a_file_never_grows() {
    let model = one_input(
        vec![node("MatMul", &["x", "w"], "y", vec![])],
        vec![weight("w", &[8, 8])],
        &[0, 8],
        &[0, 8],
    );
    for format in Format::ALL {
        let (same, report) = compress(&model, &Job::new(Spec::of(format))).unwrap();
        assert_eq!(same, model, "{}", format.name());
        let (_, reason) = report.skipped().next().unwrap();
        assert!(matches!(reason, SkipReason::NoGain { .. }), "{reason}");
    }
    assert!(matches!(
        inspect(&matmul(60, 72)).weights[0].verdict,
        Verdict::CanBecome { .. }
    ));
}
