//! One array: decompose it, quantize the cores, store them, read them back.
//!
//! ```text
//! cargo run --release -p tn-formats --example one_array [W.npy OUT.safetensors]
//! ```
//!
//! Without arguments it takes a made-up matrix and keeps the file in memory.
#![allow(clippy::print_stdout, reason = "the example's output is its purpose")]

use std::error::Error;
use std::fs;

use ndarray::{Array2, Ix2};
use quant_core::{Bits, QuantScheme};
use tn_formats::npy::read_npy;
use tn_formats::{Container, Layout, MatrixModes, Strategy, Truncation, TtMatrix, TtQuantizer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let w: Array2<f32> = match args.next() {
        Some(path) => read_npy(&mut fs::File::open(path)?)?
            .to_f32()
            .into_dimensionality::<Ix2>()?,
        None => Array2::from_shape_fn((256, 192), |(i, j)| {
            ((i as f32 * 0.02).sin() + j as f32 * 0.01).cos()
        }),
    };
    let modes = MatrixModes::balanced(Layout::Interleaved, w.nrows(), w.ncols(), 3)?;
    let (train, certificate) =
        TtMatrix::decompose(w.view(), &modes, &Truncation::RelativeError(0.01))?;
    println!(
        "{} x {} as {:?}, ranks {:?}",
        w.nrows(),
        w.ncols(),
        modes.core_modes(),
        train.ranks()
    );
    println!(
        "truncation error {:.5}, known without rebuilding the matrix",
        certificate.relative_error()
    );

    let quantizer =
        TtQuantizer::new(QuantScheme::symmetric(Bits::B4)).with_strategy(Strategy::BEST);
    let (quantized, error) = quantizer.quantize_matrix_measured(&train)?;
    let report = quantized.report();
    println!(
        "quantization error {:.5} by {:?}",
        error.relative, error.used
    );
    println!(
        "{} bytes, {:.1} times smaller than the matrix",
        report.total().bytes,
        report.dense_ratio()
    );

    let mut file = Vec::new();
    Container::from(quantized).write(&mut file)?;
    match args.next() {
        Some(path) => fs::write(path, &file)?,
        None => println!("the container has {} bytes", file.len()),
    }
    let Container::QuantizedTtMatrix(back) = Container::read(&file)? else {
        return Err("another kind".into());
    };
    let rebuilt = back.dequantize().to_dense();
    let norm = |a: &Array2<f32>| a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    println!(
        "relative error in all {:.5}",
        norm(&(&rebuilt - &w)) / norm(&w)
    );
    Ok(())
}
