//! Ways of rounding a core in `Strategy::Compensated`, and what knowing the layer's inputs is worth, on the weights of an `.npz`.
//!
//! ```text
//! python tn-formats/tools/export_weights.py weights.npz MODEL.onnx ...
//! cargo run --release -p tn-formats --example rounding_table -- weights.npz rows.csv [EVERY]
//! cargo run --release -p tn-formats --example rounding_table -- weights.npz rows.csv EVERY moments.npz
//! ```
//!
//! Takes every so-many-th weight (1), low rank and interleaved with two modes on each side, ranks from an error of 0.3, at 4 and
//! 3 bits. Without `moments.npz` (one second moment `[N, N]` per weight, by name) the errors are relative to the float train
//! for each rounding, and seconds; with it they are relative in the norm of the inputs, of the plain and of the weighted
//! compensation. The last lines are medians.
#![allow(clippy::print_stdout, reason = "the example's output is its purpose")]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::time::Instant;

use ndarray::{Array2, Ix2};
use quant_core::{Bits, QuantScheme};
use tn_formats::npy::Npz;
use tn_formats::{CoreRounding, Layout, MatrixModes, Strategy, Truncation, TtMatrix, TtQuantizer};

const ROUNDINGS: [(&str, CoreRounding); 4] = [
    ("nearest", CoreRounding::Nearest),
    ("column order", CoreRounding::ColumnOrder),
    ("nearest plane", CoreRounding::NearestPlane),
    ("admm", CoreRounding::Admm { iterations: 20 }),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [weights, rows, rest @ ..] = args.as_slice() else {
        return Err("usage: rounding_table WEIGHTS.npz ROWS.csv [EVERY [MOMENTS.npz]]".into());
    };
    let every: usize = rest.first().map_or(Ok(1), |text| text.parse())?;
    let mut moments = match rest.get(1) {
        Some(path) => Some(Npz::open(File::open(path)?)?),
        None => None,
    };
    let mut out = File::create(rows)?;
    let mut npz = Npz::open(File::open(weights)?)?;
    let mut table: Vec<(Bits, Vec<f64>)> = Vec::new();
    for name in npz.names().to_vec().iter().step_by(every.max(1)) {
        let weight = npz.read(name)?.to_f32().into_dimensionality::<Ix2>()?;
        let moment = match &mut moments {
            Some(moments) => {
                let moment = moments.read(name)?.to_f32().mapv(f64::from);
                Some(moment.into_dimensionality::<Ix2>()?)
            }
            None => None,
        };
        for (layout, order) in [(Layout::Split, 1), (Layout::Interleaved, 2)] {
            let modes = MatrixModes::balanced(layout, weight.nrows(), weight.ncols(), order)?;
            let budget = Truncation::RelativeError(0.3);
            let (train, _) = TtMatrix::decompose(weight.view(), &modes, &budget)?;
            for bits in [Bits::B4, Bits::B3] {
                let row = match &moment {
                    None => by_rounding(&train, bits)?,
                    Some(moment) => by_norm(&train, bits, moment)?,
                };
                let text: Vec<String> = row.iter().map(|x| format!("{x:.5}")).collect();
                writeln!(out, "{name},{layout:?},{order},{bits},{}", text.join(","))?;
                table.push((bits, row));
            }
        }
    }
    for bits in [Bits::B4, Bits::B3] {
        let rows: Vec<&Vec<f64>> = table
            .iter()
            .filter(|(b, _)| *b == bits)
            .map(|(_, r)| r)
            .collect();
        let Some(first) = rows.first() else { continue };
        let medians = (0..first.len()).map(|k| median(rows.iter().map(|r| r[k]).collect()));
        let medians: Vec<String> = medians.map(|x| format!("{x:.4}")).collect();
        println!(
            "| {bits} bits, {} rows | {} |",
            rows.len(),
            medians.join(" | ")
        );
    }
    Ok(())
}

/// Errors of independent quantization and of each rounding, then the seconds of each.
fn by_rounding(train: &TtMatrix<f32>, bits: Bits) -> tn_formats::Result<Vec<f64>> {
    let quantizer = TtQuantizer::new(QuantScheme::symmetric(bits));
    let (_, independent) = quantizer.quantize_matrix_measured(train)?;
    let (mut errors, mut seconds) = (vec![independent.relative], Vec::new());
    for (_, rounding) in ROUNDINGS {
        let quantizer = quantizer
            .clone()
            .with_strategy(Strategy::BEST)
            .with_rounding(rounding);
        let start = Instant::now();
        let tried = quantizer.compare_matrix(train)?;
        seconds.push(start.elapsed().as_secs_f64());
        errors.push(tried.last().map_or(f64::NAN, |error| error.relative));
    }
    errors.extend(seconds);
    Ok(errors)
}

/// Errors in the norm of the inputs: independent, compensated in the plain norm, compensated in theirs.
fn by_norm(
    train: &TtMatrix<f32>,
    bits: Bits,
    moment: &Array2<f64>,
) -> tn_formats::Result<Vec<f64>> {
    let dense = train.cast::<f64>().to_dense();
    let size = |m: &Array2<f64>| -> tn_formats::Result<f64> {
        let weighted = tn_formats::linalg::matmul(m.view(), moment.view())?;
        Ok((&weighted * m).sum().max(0.0).sqrt())
    };
    let quantizer = TtQuantizer::new(QuantScheme::symmetric(bits));
    let (_, independent) = quantizer.quantize_matrix_weighted(train, moment.view())?;
    let quantizer = quantizer.with_strategy(Strategy::BEST);
    let (plain, _) = quantizer.quantize_matrix_measured(train)?;
    let plain = size(&(plain.dequantize().cast::<f64>().to_dense() - &dense))? / size(&dense)?;
    let (_, aware) = quantizer.quantize_matrix_weighted(train, moment.view())?;
    Ok(vec![independent.relative, plain, aware.relative])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
