//! Dense layers taken out of a graph as arrays: together they compute what the graph computes.

#![cfg(feature = "tract")]

mod common;

use common::{float, floats, int, node, noise, proto, value};
use ndarray::{Array2, ArrayD};
use onnx_bridge::{Dataset, DenseStack, Engine, Error, Model, SkipReason};
use tn_formats::npy::NpyArray;
use tn_qat::Activation;

/// Flatten, Gemm with alpha and beta, Relu, Dropout, MatMul + Add, Softmax.
fn model() -> Model {
    let initializer = vec![
        floats("w0", &[6, 12], |i| noise(1, i)),
        floats("b0", &[6], |i| noise(2, i)),
        floats("w1", &[6, 5], |i| noise(3, i)),
        floats("b1", &[5], |i| noise(4, i)),
    ];
    let gemm = vec![int("transB", 1), float("alpha", 0.5), float("beta", 2.0)];
    let nodes = vec![
        node("Sin", &["x"], "s", vec![]),
        node("Flatten", &["s"], "f", vec![]),
        node("Gemm", &["f", "w0", "b0"], "g", gemm),
        node("Relu", &["g"], "r", vec![]),
        node("Dropout", &["r"], "d", vec![]),
        node("MatMul", &["d", "w1"], "p", vec![]),
        node("Add", &["p", "b1"], "a", vec![]),
        node("Softmax", &["a"], "y", vec![]),
    ];
    let proto = proto(
        17,
        initializer,
        nodes,
        value("x", &[0, 3, 4]),
        value("y", &[0, 5]),
    );
    Model::from_proto(proto).unwrap()
}

fn data() -> Dataset {
    let x = ArrayD::from_shape_fn(vec![7, 3, 4], |at| noise(9, at[0] * 12 + at[1] * 4 + at[2]));
    Dataset::new(vec![("x".into(), NpyArray::F32(x))]).unwrap()
}

fn apply(stack: &DenseStack, mut x: Array2<f32>) -> Array2<f32> {
    for layer in stack.layers() {
        x = x.dot(&layer.weight.t());
        if let Some(bias) = &layer.bias {
            x += &ndarray::ArrayView1::from(bias);
        }
        x.mapv_inplace(|v| layer.activation.value(v));
    }
    x
}

#[test]
fn a_stack_computes_what_the_graph_does() {
    let (model, data) = (model(), data());
    let stack = DenseStack::at_output(&model).unwrap();
    let names: Vec<_> = stack.layers().iter().map(|l| l.name.as_str()).collect();
    assert_eq!((stack.input(), names), ("f", vec!["w0", "w1"]));
    assert_eq!(stack.layers()[0].activation, Activation::Relu);
    let mut y = apply(&stack, stack.inputs(&model, &data).unwrap());
    for mut row in y.rows_mut() {
        row.mapv_inplace(f32::exp);
        row /= row.sum();
    }
    let ran = Engine::load(&model).unwrap().run_all(&data).unwrap();
    let ran = ran[0].1.to_f32();
    let error = ran.iter().zip(&y).map(|(a, b)| (a - b).abs());
    assert!(error.fold(0.0, f32::max) < 1e-6);
}

#[test]
fn a_layer_is_found_by_its_weight() {
    let (model, data) = (model(), data());
    let stack = DenseStack::of_weight(&model, "w1").unwrap();
    assert_eq!(
        (stack.input(), stack.layers()[0].weight.dim()),
        ("d", (5, 6))
    );
    assert_eq!(stack.inputs(&model, &data).unwrap().dim(), (7, 6));
    let absent = DenseStack::of_weight(&model, "w2").unwrap_err();
    assert_eq!(absent, SkipReason::Unused);
    let bias = DenseStack::of_weight(&model, "b1").unwrap_err();
    assert_eq!(bias, SkipReason::Unused);
}

#[test]
fn a_model_without_dense_layers_at_its_end_has_none() {
    let nodes = vec![node("Relu", &["x"], "y", vec![])];
    let proto = proto(17, vec![], nodes, value("x", &[0, 3]), value("y", &[0, 3]));
    assert_eq!(
        DenseStack::at_output(&Model::from_proto(proto).unwrap()),
        None
    );
}

#[test]
fn inputs_of_the_wrong_kind_are_errors() {
    let model = model();
    let stack = DenseStack::of_weight(&model, "w0").unwrap();
    let flat = ArrayD::<f32>::zeros(vec![7, 5]);
    let data = Dataset::new(vec![("f".into(), NpyArray::F32(flat))]).unwrap();
    let error = stack.inputs(&model, &data).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data: array `f`: expected 12 entries along the last axis, found float32 [7, 5]"
    );
    let other = ArrayD::<f32>::zeros(vec![7, 5]);
    let data = Dataset::new(vec![("z".into(), NpyArray::F32(other))]).unwrap();
    assert!(matches!(
        stack.inputs(&model, &data),
        Err(Error::MissingInput { .. })
    ));
}
