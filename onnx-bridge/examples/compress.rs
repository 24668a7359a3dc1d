//! Compresses an ONNX file with default choices and compares it with the original in tract.
//!
//! ```sh
//! cargo run --release -p onnx-bridge --example compress -- model.onnx out.onnx low-rank 0.1
//! ```
#![allow(clippy::print_stdout, reason = "an example prints")]

use onnx_bridge::{
    Folder, Format, Job, Model, Spec, compress, dense_reference, verify_synthesized,
};
use tn_formats::Truncation;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, input, output, rest @ ..] = args.as_slice() else {
        return Err("usage: compress MODEL OUT [FORMAT [EPS]]".into());
    };
    let folder = std::path::Path::new(input)
        .parent()
        .unwrap_or(std::path::Path::new("."));
    let model = Model::decode_with(std::fs::read(input)?, Folder::new(folder))?;
    let mut spec = Spec::default();
    if let Some(name) = rest.first() {
        let format = Format::ALL
            .into_iter()
            .find(|f| f.name() == name)
            .ok_or("format: tt, low-rank, tucker or dense")?;
        spec = Spec::of(format);
    }
    if let Some(eps) = rest.get(1) {
        spec.truncation = Some(Truncation::RelativeError(eps.parse()?));
    }
    let (rewritten, report) = compress(&model, &Job::new(spec))?;
    for (name, r) in report.rewritten() {
        println!(
            "{name}: {} ranks {:?}, {} bytes, error {:.4}",
            r.format.name(),
            r.ranks,
            r.bytes,
            r.error
        );
    }
    for (name, reason) in report.skipped() {
        println!("{name}: stays: {reason}");
    }
    println!(
        "{} bytes, before {}",
        report.bytes_after, report.bytes_before
    );
    std::fs::write(output, rewritten.encode()?)?;
    let against_original = verify_synthesized(&model, &rewritten, 64, 0)?;
    let against_codes = verify_synthesized(&dense_reference(&model, &report)?, &rewritten, 64, 0)?;
    println!(
        "against the original: relative L2 {:.5}",
        against_original.relative_l2
    );
    println!(
        "against the dense matrices of the same codes: relative L2 {:.1e}",
        against_codes.relative_l2
    );
    Ok(())
}
