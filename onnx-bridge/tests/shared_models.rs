//! The models beside the workspace: round trips and what inspection says. Skipped, visibly, where they are absent.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use onnx_bridge::{Format, Inspection, Model, Verdict, inspect};

/// The bytes of a file in the folder beside the workspace.
fn shared(name: &str) -> Option<Vec<u8>> {
    let path = format!("{}/../../shared/models/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).ok();
    if bytes.is_none() {
        eprintln!("skipped: {path} is absent");
    }
    bytes
}

fn adds_up(inspection: &Inspection, file: usize) {
    assert_eq!(inspection.file_bytes, file as u64);
    let weights: u64 = inspection.weights.iter().map(|w| w.bytes).sum();
    assert_eq!(weights + inspection.rest_bytes, inspection.file_bytes);
    let shares: f64 =
        inspection.weights.iter().map(|w| w.share).sum::<f64>() + inspection.rest_share();
    assert!((shares - 1.0).abs() < 1e-9, "shares add up to {shares}");
}

fn rewritable(inspection: &Inspection) -> usize {
    let all = |f: &Vec<Format>| *f == Format::ALL;
    let verdicts = inspection.weights.iter().map(|w| &w.verdict);
    verdicts
        .filter(|v| matches!(v, Verdict::CanBecome { formats, .. } if all(formats)))
        .count()
}

#[test]
fn round_trips_are_byte_identical() {
    for name in ["mnist-mlp.onnx", "minilm-l6.onnx"] {
        let Some(bytes) = shared(name) else { return };
        let model = Model::decode(bytes.clone()).unwrap();
        assert!(
            model.encode().unwrap() == bytes,
            "{name}: the encoded bytes differ"
        );
    }
}

#[test]
fn the_mlp_has_three_dense_layers() {
    let Some(bytes) = shared("mnist-mlp.onnx") else {
        return;
    };
    let inspection = inspect(&Model::decode(bytes.clone()).unwrap());
    adds_up(&inspection, bytes.len());
    assert_eq!(rewritable(&inspection), 3);
    let names: Vec<&str> = inspection.weights.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["a.weight", "b.weight", "c.weight"]);
}

#[test]
fn the_encoder_has_36_dense_layers_and_three_tables() {
    let Some(bytes) = shared("minilm-l6.onnx") else {
        return;
    };
    let inspection = inspect(&Model::decode(bytes.clone()).unwrap());
    adds_up(&inspection, bytes.len());
    assert_eq!(rewritable(&inspection), 36);
    let rows = [Format::Tt, Format::LowRank, Format::Dense];
    let tables = inspection
        .weights
        .iter()
        .filter(|w| matches!(&w.verdict, Verdict::CanBecome { formats, .. } if *formats == rows));
    assert_eq!(tables.count(), 3);
    assert_eq!(inspection.weights.len(), 39);
    assert!(inspection.weights.iter().any(|w| w.ops == ["MatMul + Add"]));
}
