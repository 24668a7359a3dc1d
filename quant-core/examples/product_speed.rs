//! Speed of the products with low-bit and dense matrices on this processor, on one thread.
//!
//! ```console
//! $ cargo run --release -p quant-core --example product_speed -- 4096 4096
//! ```

use std::time::{Duration, Instant};

use quant_core::{LowBitMatrix, LowBitParts, PanelMatrix, ProductScratch};

/// Billions of multiply-adds a second, the median of some runs.
fn speed(work: usize, mut run: impl FnMut()) -> f64 {
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 5 || start.elapsed() < Duration::from_millis(150) {
        let begin = Instant::now();
        run();
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    work as f64 / times[times.len() / 2].as_secs_f64() / 1e9
}

#[allow(clippy::print_stdout, reason = "an example")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .map(|a| a.parse())
        .collect::<Result<_, _>>()?;
    let &[n, k] = sizes.as_slice() else {
        return Err("expected two sizes: outputs and inputs".into());
    };
    let codes: Vec<u8> = (0..n * k).map(|i| (i * 7 % 11 % 4) as u8).collect();
    let scales = vec![0.1; n * k.div_ceil(64)];
    let low = |levels: usize| {
        LowBitMatrix::new(LowBitParts {
            shape: [n, k],
            codes: &codes,
            levels,
            zero: (levels - 1) as f32 / 2.0,
            block: 64,
            scales: &scales,
            offsets: &[],
        })
    };
    let matrices = [low(4)?, low(16)?, low(256)?];
    let dense = PanelMatrix::new(&matrices[0].dequantize(), [n, k])?;
    let mut scratch = ProductScratch::default();
    println!("batch   dense   2 bits  4 bits  8 bits  | int8: 2 bits  4 bits  8 bits   (GMAC/s)");
    for m in [1, 2, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512] {
        let x: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 - 8.0).collect();
        let mut y = vec![0.0; m * n];
        let work = m * n * k;
        let mut row = vec![speed(work, || {
            dense.matmul(&x, &mut y, &mut scratch).unwrap()
        })];
        for w in &matrices {
            row.push(speed(work, || w.matmul(&x, &mut y, &mut scratch).unwrap()));
        }
        for w in &matrices {
            row.push(speed(work, || {
                w.matmul_int8(&x, &mut y, &mut scratch).unwrap()
            }));
        }
        let row: Vec<String> = row.iter().map(|g| format!("{g:8.1}")).collect();
        println!("{m:5} {}", row.join(""));
    }
    Ok(())
}
