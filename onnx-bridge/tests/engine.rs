//! Running models that tract takes with open shapes, with fixed ones, or not at all.

#![cfg(feature = "tract")]

mod common;

use common::{node, proto, value};
use ndarray::ArrayD;
use onnx_bridge::proto::ValueInfoProto;
use onnx_bridge::{Engine, Error, Model};
use tn_formats::npy::NpyArray;

fn engine(op: &str) -> Result<Engine, Error> {
    let nodes = vec![node(op, &["x"], "y", Vec::new())];
    let output = ValueInfoProto {
        name: Some("y".into()),
        ..Default::default()
    };
    let model = proto(17, Vec::new(), nodes, value("x", &[0, 0, 2]), output);
    Engine::load(&Model::from_proto(model).unwrap())
}

#[test]
fn shapes_may_change_from_run_to_run() {
    // tract refuses Flatten of two open axes.
    for op in ["Relu", "Flatten"] {
        let engine = engine(op).unwrap();
        for shape in [[3, 5, 2], [3, 5, 2], [1, 7, 2]] {
            let x = ArrayD::from_elem(&shape[..], 1.5f32);
            let outputs = engine.run(&[NpyArray::F32(x)]).unwrap();
            let flat = [shape[0], shape[1] * 2];
            let want: &[usize] = if op == "Relu" { &shape } else { &flat };
            assert_eq!(outputs[0].shape(), want, "{op}");
            assert!(outputs[0].to_f32().iter().all(|&v| v == 1.5), "{op}");
        }
    }
}

#[test]
fn an_operator_that_tract_lacks_is_an_error() {
    let error = engine("NoSuchOperator").unwrap_err();
    assert!(error.to_string().contains("NoSuchOperator"), "{error}");
}
