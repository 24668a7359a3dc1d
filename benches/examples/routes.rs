//! Every way to multiply rows by a compressed layer, beside the one that the runtime chooses.
//!
//! ```sh
//! cargo run --release -p tn-benches --example routes                # all layers, a quarter of an hour
//! cargo run --release -p tn-benches --example routes -- 1024x1024 'split 128'
//! ```
//!
//! `chain` is the plain file in tract, `cores`, `merged` and `dense` are the fused operator on a fixed route, `tract` is the
//! original layer in tract. All of a row take turns in one run, in an order that changes, each several times of which the last counts; times are medians in
//! milliseconds. `auto` is the runtime's choice, and the last column its median over that of the fastest other.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::{Duration, Instant};

use onnx_bridge::runtime::{Route, Runtime, RuntimeOptions};
use onnx_bridge::{Engine, Format, Job, Model, Quantization, Spec, compress, synthesize};
use quant_core::Bits;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;
use tn_benches::models::products;
use tn_formats::npy::NpyArray;
use tn_formats::{Layout, Truncation};

type Problem = Box<dyn std::error::Error>;

const LAYERS: [[usize; 2]; 4] = [[384, 1536], [784, 1024], [1024, 1024], [4096, 4096]];
const BATCHES: [usize; 6] = [1, 4, 16, 64, 128, 512];
/// Measuring takes so long for each row of the table, but at least [`ROUNDS`] rounds.
const TIME: Duration = Duration::from_millis(2000);
const ROUNDS: usize = 7;
/// Runs before the one that counts in each turn, at least, and their time together, at least.
const WARM: usize = 2;
const WARM_TIME: Duration = Duration::from_millis(1);

fn forms() -> Vec<(String, Spec)> {
    let spec = |format, layout, rank| Spec {
        layout,
        quantization: Quantization {
            bits: Bits::B8,
            ..Quantization::default()
        },
        truncation: Some(Truncation::MaxRank(rank)),
        ..Spec::of(format)
    };
    let low_rank =
        [32, 128, 512].map(|r| (format!("low rank {r}"), spec(Format::LowRank, None, r)));
    let split = [32, 128].map(|r| {
        let spec = spec(Format::Tt, Some(Layout::Split), r);
        (format!("split {r}"), spec)
    });
    let interleaved = [4, 8, 16, 32].map(|r| {
        let spec = spec(Format::Tt, Some(Layout::Interleaved), r);
        (format!("interleaved {r}"), spec)
    });
    low_rank
        .into_iter()
        .chain(split)
        .chain(interleaved)
        .collect()
}

type Way = (&'static str, Box<dyn Fn() -> Result<(), Problem>>);

fn ways(original: &Model, small: &Model, x: &[NpyArray]) -> Result<Vec<Way>, Problem> {
    let shapes = [x[0].shape().to_vec()];
    let mut ways: Vec<Way> = Vec::new();
    for (name, model) in [("tract", original), ("chain", small)] {
        let (engine, x) = (Engine::load_shaped(model, &shapes)?, x.to_vec());
        ways.push((name, Box::new(move || Ok(engine.run(&x).map(drop)?))));
    }
    let routes = [
        ("cores", Route::Cores),
        ("merged", Route::Merged),
        ("dense", Route::Dense),
        ("auto", Route::Auto),
    ];
    for (name, route) in routes {
        let mut options = RuntimeOptions::default();
        options.route = route;
        let (runtime, x) = (Runtime::load_shaped(small, &options, &shapes)?, x.to_vec());
        ways.push((name, Box::new(move || Ok(runtime.run(&x).map(drop)?))));
    }
    Ok(ways)
}

/// Median milliseconds of each way, in turns.
fn medians(ways: &[Way]) -> Result<Vec<f64>, Problem> {
    for (_, way) in ways {
        way()?;
    }
    let mut times = vec![Vec::new(); ways.len()];
    let mut order: Vec<usize> = (0..ways.len()).collect();
    let mut random = Pcg64Mcg::seed_from_u64(1);
    let start = Instant::now();
    while start.elapsed() < TIME || times[0].len() < ROUNDS {
        // What ran before takes the caches: nobody always follows the same.
        order.shuffle(&mut random);
        for &at in &order {
            let (_, way) = &ways[at];
            let warm = Instant::now();
            for run in 0.. {
                if run >= WARM && warm.elapsed() > WARM_TIME {
                    break;
                }
                way()?;
            }
            let begin = Instant::now();
            way()?;
            times[at].push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    Ok(times.iter_mut().map(median).collect())
}

fn main() -> Result<(), Problem> {
    let [only, only_form] = [1, 2].map(|at| std::env::args().nth(at));
    println!(
        "| layer | form | batch | tract | chain | cores | merged | dense | auto | auto / best |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for [inputs, outputs] in LAYERS {
        let layer = format!("{inputs}x{outputs}");
        if only.as_ref().is_some_and(|only| *only != layer) {
            continue;
        }
        let original = products(&[inputs, outputs]);
        for (form, spec) in forms() {
            if only_form.as_ref().is_some_and(|only| *only != form) {
                continue;
            }
            let (small, _) = compress(&original, &Job::new(spec))?;
            for batch in BATCHES {
                let data = synthesize(&original, batch, 1)?;
                let x = [data.arrays()[0].1.clone()];
                let times = medians(&ways(&original, &small, &x)?)?;
                let (auto, others) = times.split_last().unwrap_or((&0.0, &[]));
                let best = others.iter().copied().fold(f64::INFINITY, f64::min);
                let cells: Vec<String> = times.iter().map(|t| format!("{t:.4}")).collect();
                println!(
                    "| {layer} | {form} | {batch} | {} | {:.2} |",
                    cells.join(" | "),
                    auto / best
                );
            }
        }
    }
    Ok(())
}
