//! Quantization error of every weight of an `.npz`, by layout, modes, error budget, width and strategy.
//!
//! ```text
//! python tn-formats/tools/export_weights.py weights.npz MODEL.onnx ...
//! RAYON_NUM_THREADS=1 cargo run --release -p tn-formats --example gauge_table -- weights.npz rows.csv [PART/PARTS]
//! cargo run --release -p tn-formats --example gauge_table -- --summary rows.csv ...
//! ```
//!
//! One CSV line per combination, appended as soon as it is known: the error relative to the float train, all strategies at
//! the same bytes. Combinations that `rows.csv` has already are not done again, so a run can be interrupted; `PART/PARTS`
//! (1/2, 2/2) takes each so-many-th weight, for several processes side by side.
#![allow(clippy::print_stdout, reason = "the example's output is its purpose")]

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;

use ndarray::Ix2;
use quant_core::{Bits, QuantScheme};
use tn_formats::npy::Npz;
use tn_formats::{Layout, MatrixModes, Strategy, Truncation, TtMatrix, TtQuantizer};

const BITS: [Bits; 3] = [Bits::B8, Bits::B4, Bits::B3];
const BUDGETS: [f64; 2] = [0.3, 0.1];
const HEAD: &str = "weight,layout,d,eps,bits,modes,ranks,bytes,independent,symmetric,rotated,compensated,predicted,used";
/// Columns that name a combination.
const KEY: usize = 5;
const USAGE: &str =
    "usage: gauge_table WEIGHTS.npz ROWS.csv [PART/PARTS], or gauge_table --summary ROWS.csv ...";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--summary", ref tables @ ..] if !tables.is_empty() => summary(tables),
        [weights, rows] => fill(weights, rows, (1, 1)),
        [weights, rows, part] => {
            let (part, parts) = part.split_once('/').ok_or(USAGE)?;
            fill(weights, rows, (part.parse()?, parts.parse()?))
        }
        _ => Err(USAGE.into()),
    }
}

/// Appends the rows that are missing.
fn fill(weights: &str, rows: &str, (part, parts): (usize, usize)) -> Result<(), Box<dyn Error>> {
    if part == 0 || part > parts {
        return Err(USAGE.into());
    }
    let known = fs::read_to_string(rows).unwrap_or_default();
    let done: HashSet<String> = known.lines().map(key).collect();
    let mut out = OpenOptions::new().create(true).append(true).open(rows)?;
    if known.is_empty() {
        writeln!(out, "{HEAD}")?;
    }
    let mut npz = Npz::open(File::open(weights)?)?;
    let names = npz.names().to_vec();
    for name in names.iter().skip(part - 1).step_by(parts) {
        let weight = npz.read(name)?.to_f32().into_dimensionality::<Ix2>()?;
        // d modes on each side; one on each side is the low-rank factorization, and interleaved the matrix itself.
        let kinds = [(Layout::Interleaved, 2..=4), (Layout::Split, 1..=4)];
        for (layout, d) in kinds
            .into_iter()
            .flat_map(|(l, ds)| ds.map(move |d| (l, d)))
        {
            let modes = MatrixModes::balanced(layout, weight.nrows(), weight.ncols(), d)?;
            for eps in BUDGETS {
                let key = |bits| format!("{name},{layout:?},{d},{eps},{bits}");
                let missing = BITS.into_iter().filter(|&bits| !done.contains(&key(bits)));
                let missing: Vec<Bits> = missing.collect();
                if missing.is_empty() {
                    continue;
                }
                let budget = Truncation::RelativeError(eps);
                let (train, _) = TtMatrix::decompose(weight.view(), &modes, &budget)?;
                for bits in missing {
                    writeln!(out, "{},{}", key(bits), row(&train, bits)?)?;
                }
            }
        }
    }
    Ok(())
}

fn key(line: &str) -> String {
    line.split(',').take(KEY).collect::<Vec<_>>().join(",")
}

/// The columns behind the key.
fn row(train: &TtMatrix<f32>, bits: Bits) -> tn_formats::Result<String> {
    let quantizer = TtQuantizer::new(QuantScheme::symmetric(bits)).with_strategy(Strategy::BEST);
    let tried = quantizer.compare_matrix(train)?;
    let [independent, symmetric, rotated, compensated] = tried[..] else {
        unreachable!("the best strategy tries four");
    };
    let best = tried
        .iter()
        .min_by(|a, b| a.relative.total_cmp(&b.relative));
    let best = best.unwrap_or(&compensated);
    let used = match best.used {
        Strategy::Independent => "independent",
        Strategy::Gauge(_) => "gauge",
        _ => "compensated",
    };
    let bytes: usize = train
        .cores()
        .iter()
        .map(|c| quant_core::packed_len(c.as_slice().len(), bits) + size_of::<f32>())
        .sum();
    let join = |sizes: Vec<usize>| {
        let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
        sizes.join("x")
    };
    let modes = train.modes();
    Ok(format!(
        "{}:{},{},{bytes},{:.5},{:.5},{:.5},{:.5},{:.5},{used}",
        join(modes.row_modes().to_vec()),
        join(modes.col_modes().to_vec()),
        join(train.ranks()),
        independent.relative,
        symmetric.relative,
        rotated.relative,
        best.relative,
        independent.predicted,
    ))
}

/// One row of the summary: which rows of the table it takes.
type Pick<'a> = (String, Box<dyn Fn(&[&str]) -> bool + 'a>);

/// Medians and gains by width and by layout and order, as a Markdown table.
fn summary(tables: &[&str]) -> Result<(), Box<dyn Error>> {
    let text = tables.iter().map(fs::read_to_string);
    let text = text.collect::<Result<Vec<_>, _>>()?.concat();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| !line.starts_with("weight,"))
        .map(|line| line.split(',').collect())
        .collect();
    let weights: HashSet<&str> = rows.iter().map(|r| r[0]).collect();
    println!("{} weights, {} rows", weights.len(), rows.len());
    println!(
        "| rows | number | independent | symmetric | + rotation | + compensation | independent / compensated: least, median | at least 2 | worse |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut picks: Vec<Pick<'_>> = vec![("all".into(), Box::new(|_| true))];
    for bits in BITS.map(|b| b.to_string()) {
        let name = format!("{bits} bits");
        picks.push((name, Box::new(move |r: &[&str]| r[4] == bits)));
    }
    let mut shapes: Vec<(&str, &str)> = rows.iter().map(|r| (r[1], r[2])).collect();
    shapes.sort_unstable();
    shapes.dedup();
    for (layout, d) in shapes {
        let name = format!("4 bits, {layout}, d = {d}");
        let pick = move |r: &[&str]| r[4] == "4" && (r[1], r[2]) == (layout, d);
        picks.push((name, Box::new(pick)));
    }
    for (name, pick) in picks {
        let taken: Vec<&Vec<&str>> = rows.iter().filter(|r| pick(r)).collect();
        if taken.is_empty() {
            continue;
        }
        let column =
            |k: usize| -> Result<Vec<f64>, _> { taken.iter().map(|r| r[k].parse()).collect() };
        let (independent, compensated) = (column(8)?, column(11)?);
        let gains: Vec<f64> = independent
            .iter()
            .zip(&compensated)
            .map(|(i, c)| i / c)
            .collect();
        let halved = gains.iter().filter(|g| **g >= 2.0).count() as f64 / gains.len() as f64;
        let worse = gains.iter().filter(|g| **g < 1.0).count();
        println!(
            "| {name} | {} | {:.4} | {:.4} | {:.4} | {:.4} | {:.2}, {:.2} | {:.1} % | {worse} |",
            gains.len(),
            median(independent),
            median(column(9)?),
            median(column(10)?),
            median(compensated),
            gains.iter().copied().fold(f64::INFINITY, f64::min),
            median(gains.clone()),
            100.0 * halved,
        );
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
