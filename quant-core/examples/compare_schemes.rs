//! Bytes and errors of one weight under many schemes: `cargo run -p quant-core --example compare_schemes`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use quant_core::{
    Bits, ErrorStats, Granularity, QuantError, QuantParams, QuantScheme, QuantizedTensor,
    SymmetricRange, mse_optimal,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

fn main() -> Result<(), QuantError> {
    // Rows of different size and a few outliers, as trained weights have them.
    let (rows, columns) = (64, 256);
    let mut rng = Pcg64::seed_from_u64(1);
    let mut weight = |at: usize| {
        let bell: f32 = (0..6).map(|_| rng.random::<f32>() - 0.5).sum();
        bell * (1.0 + (at / columns % 5) as f32) * if at.is_multiple_of(911) { 6.0 } else { 1.0 }
    };
    let weights: Vec<f32> = (0..rows * columns).map(&mut weight).collect();
    let shape = [rows, columns];

    println!(
        "{:>4}  {:<28} {:>7}  {:>8}  {:>9}",
        "bits", "scheme", "bytes", "SQNR dB", "largest"
    );
    for bits in [Bits::B8, Bits::B4, Bits::B3, Bits::B2] {
        let symmetric = QuantScheme::symmetric(bits);
        let per_row = symmetric.with_granularity(Granularity::per_axis(0));
        let blocks = Granularity::per_block(1, 32)?;
        let schemes = [
            ("symmetric, per tensor", symmetric),
            (
                "symmetric, full, per tensor",
                symmetric.with_range(SymmetricRange::Full),
            ),
            ("symmetric, per row", per_row),
            (
                "symmetric, blocks of 32",
                symmetric.with_granularity(blocks),
            ),
            (
                "affine, blocks of 32",
                QuantScheme::affine(bits).with_granularity(blocks),
            ),
        ];
        let mut all = Vec::new();
        for (name, scheme) in schemes {
            all.push((name, QuantizedTensor::quantize(&weights, &shape, &scheme)?));
        }
        let scales = weights
            .chunks(columns)
            .map(|row| Ok(mse_optimal(row, &symmetric)?.scale));
        let params = QuantParams::from_scales(per_row, scales.collect::<Result<_, QuantError>>()?)?;
        all.push((
            "symmetric, per row, least MSE",
            QuantizedTensor::quantize_with(&weights, &shape, params)?,
        ));
        for (name, q) in all {
            let errors = ErrorStats::between(&weights, &q.dequantize())?;
            println!(
                "{bits:>4}  {name:<28} {:>7}  {:>8.2}  {:>9.4}",
                q.byte_len(),
                errors.sqnr_db(),
                errors.max_abs()
            );
        }
    }
    Ok(())
}
