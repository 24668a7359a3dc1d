//! Writes `onnx-bridge/src/proto/onnx.rs` from `onnx-bridge/proto/onnx-ml.proto`.
//!
//! ```sh
//! cargo run --manifest-path onnx-bridge/proto/generate/Cargo.toml
//! ```
//!
//! The schema is the one that the newest official `onnx` package on PyPI ships (`onnx/onnx-ml.proto`).

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = here.parent().ok_or("the generator stands in a folder")?;
    let out = folder.join("../src/proto");
    let descriptors = protox::compile([folder.join("onnx-ml.proto")], [folder])?;
    prost_build::Config::new()
        .bytes([".onnx.TensorProto.raw_data"])
        .disable_comments(["."])
        .out_dir(&out)
        .compile_fds(descriptors)?;
    println!("wrote {}", out.join("onnx.rs").display());
    Ok(())
}
