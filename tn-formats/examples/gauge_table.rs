//! Quantization error of every weight of an `.npz`, by layout, order, error budget, width and strategy.
//!
//! ```text
//! python tn-formats/tools/export_weights.py weights.npz MODEL.onnx ...
//! cargo run --release -p tn-formats --example gauge_table -- weights.npz [EVERY]
//! ```
//!
//! One CSV line per combination: the error relative to the float train, all strategies at the same bytes. `EVERY` takes each
//! so-many-th weight only. The summary stands at the end.
#![allow(clippy::print_stdout, reason = "the example's output is its purpose")]

use std::error::Error;
use std::fs::File;

use ndarray::Ix2;
use quant_core::{Bits, QuantScheme};
use tn_formats::npy::Npz;
use tn_formats::{
    Gauge, Layout, MatrixModes, Rotation, Strategy, Truncation, TtMatrix, TtQuantizer,
};

const BITS: [Bits; 3] = [Bits::B8, Bits::B4, Bits::B3];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args
        .next()
        .ok_or("usage: gauge_table WEIGHTS.npz [EVERY]")?;
    let every: usize = args.next().map_or(Ok(1), |n| n.parse())?;
    let mut npz = Npz::open(File::open(path)?)?;
    println!(
        "weight,layout,d,eps,ranks,bits,bytes,independent,symmetric,rotated,compensated,predicted"
    );
    let mut gains: Vec<(Bits, f64)> = Vec::new();
    let names = npz.names().to_vec();
    for name in names.iter().step_by(every.max(1)) {
        let weight = npz.read(name)?.to_f32().into_dimensionality::<Ix2>()?;
        for layout in [Layout::Interleaved, Layout::Split] {
            for d in [2, 3, 4] {
                // A split train of order d: d cores in all for d = 2 (low rank), then one more mode on the longer sides.
                let modes = modes(layout, weight.nrows(), weight.ncols(), d)?;
                for eps in [0.3, 0.1] {
                    let (train, _) = TtMatrix::decompose(
                        weight.view(),
                        &modes,
                        &Truncation::RelativeError(eps),
                    )?;
                    for bits in BITS {
                        let [
                            independent,
                            symmetric,
                            rotated,
                            compensated,
                            predicted,
                            bytes,
                        ] = errors(&train, bits)?;
                        let ranks = train
                            .ranks()
                            .iter()
                            .map(usize::to_string)
                            .collect::<Vec<_>>()
                            .join("x");
                        println!(
                            "{name},{layout:?},{d},{eps},{ranks},{bits},{bytes},{independent:.5},{symmetric:.5},{rotated:.5},{compensated:.5},{predicted:.5}"
                        );
                        gains.push((bits, independent / compensated));
                    }
                }
            }
        }
    }
    for bits in BITS {
        let mut gains: Vec<f64> = gains.iter().filter(|g| g.0 == bits).map(|g| g.1).collect();
        gains.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (gains.first(), gains.last()) else {
            continue;
        };
        let halved = gains.iter().filter(|g| **g >= 2.0).count() as f64 / gains.len() as f64;
        println!(
            "# {bits} bits, {} rows: independent / compensated: least {least:.2}, median {:.2}, most {most:.2}; at least 2 in {:.1} %",
            gains.len(),
            gains[gains.len() / 2],
            100.0 * halved
        );
    }
    let halved = gains.iter().filter(|g| g.1 >= 2.0).count() as f64 / gains.len().max(1) as f64;
    println!(
        "# all: at least 2 in {:.1} % of {} rows",
        100.0 * halved,
        gains.len()
    );
    Ok(())
}

fn modes(layout: Layout, rows: usize, cols: usize, d: usize) -> tn_formats::Result<MatrixModes> {
    match layout {
        Layout::Interleaved => MatrixModes::balanced(layout, rows, cols, d),
        _ => {
            let inputs = tn_formats::factorize_balanced(cols, d / 2);
            MatrixModes::new(
                layout,
                tn_formats::factorize_balanced(rows, d.div_ceil(2)),
                inputs,
            )
        }
    }
}

/// Independent, symmetric, rotated, compensated, predicted for independent, bytes.
fn errors(train: &TtMatrix<f32>, bits: Bits) -> tn_formats::Result<[f64; 6]> {
    let quantizer = TtQuantizer::new(QuantScheme::symmetric(bits));
    let rotated = Gauge::Rotated(Rotation::Hadamard { seed: 0 });
    let (codes, independent) = quantizer.quantize_matrix_measured(train)?;
    let (_, symmetric) = quantizer.quantize_matrix_measured(&train.gauge(Gauge::Symmetric)?)?;
    let (_, turned) = quantizer.quantize_matrix_measured(&train.gauge(rotated)?)?;
    let (_, best) = quantizer
        .with_strategy(Strategy::BEST)
        .quantize_matrix_measured(train)?;
    let bytes = codes.byte_len() as f64;
    Ok([
        independent.relative,
        symmetric.relative,
        turned.relative,
        best.relative,
        independent.predicted,
        bytes,
    ])
}
