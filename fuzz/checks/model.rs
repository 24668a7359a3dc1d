//! The bytes of a model: decoded, looked at, rewritten; what is written reads back.

use onnx_bridge::{Job, Model, Spec, compress, graph_text, inspect};

/// Panics where it does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(model) = Model::decode(bytes.to_vec()) else {
        return;
    };
    let seen = inspect(&model);
    let weights: u64 = seen.weights.iter().map(|w| w.bytes).sum();
    assert_eq!(weights + seen.rest_bytes, seen.file_bytes);
    let _ = graph_text(&model);
    if let Ok((written, _)) = compress(&model, &Job::new(Spec::default())) {
        let bytes = written
            .encode()
            .expect("a model of this size fits one file");
        Model::decode(bytes).expect("what is written reads back");
    }
}
