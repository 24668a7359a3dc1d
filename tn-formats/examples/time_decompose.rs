//! Decomposes one `.npy` some times and prints one line of JSON: seconds of each run, the measured relative error, the
//! certificate's, the peak memory of the process in the first run (the array included; later runs would count what the allocator
//! keeps of earlier ones). `benches/python/tensorly_side_by_side.py` runs it beside tensorly.
//!
//! ```text
//! time_decompose FILE.npy REPEATS matrix 4x8x8x4:4x8x8x4 16
//! time_decompose FILE.npy REPEATS train 20
//! time_decompose FILE.npy REPEATS hooi 0,1,2 8,8,8
//! ```
#![allow(clippy::print_stdout, reason = "the example's output is its purpose")]

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::time::Instant;

use ndarray::{ArrayD, Ix2};
use tn_formats::npy::{NpyArray, read_npy};
use tn_formats::{
    Certificate, Layout, MatrixModes, Real, TensorTrain, Truncation, TtMatrix, Tucker,
};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, repeats, job @ ..] = args.as_slice() else {
        return Err("usage: time_decompose FILE.npy REPEATS (matrix MODES RANK | train RANK | hooi MODES RANKS)".into());
    };
    let job: Vec<&str> = job.iter().map(String::as_str).collect();
    let array = read_npy(&mut BufReader::new(File::open(path)?))?;
    match array {
        NpyArray::F32(a) => run(a, repeats.parse()?, &job),
        NpyArray::F64(a) => run(a, repeats.parse()?, &job),
        other => Err(format!(
            "{path}: expected float32 or float64, found {}",
            other.dtype()
        )
        .into()),
    }
}

fn run<T: Real>(a: ArrayD<T>, repeats: usize, job: &[&str]) -> Outcome {
    match job {
        ["matrix", modes, rank] => {
            let w = a.view().into_dimensionality::<Ix2>()?;
            let (rows, cols) = modes.split_once(':').ok_or("modes are ROWS:COLS")?;
            let modes =
                MatrixModes::new(Layout::Interleaved, sizes(rows, 'x')?, sizes(cols, 'x')?)?;
            let truncation = Truncation::MaxRank(rank.parse()?);
            let decompose = || TtMatrix::decompose(w, &modes, &truncation);
            measure(repeats, &a, decompose, |t| t.to_dense().into_dyn())
        }
        ["train", rank] => {
            let truncation = Truncation::MaxRank(rank.parse()?);
            measure(
                repeats,
                &a,
                || TensorTrain::decompose(a.view(), &truncation),
                TensorTrain::to_dense,
            )
        }
        ["hooi", modes, ranks] => {
            let modes = sizes(modes, ',')?;
            let truncation = Truncation::Ranks(sizes(ranks, ',')?);
            measure(
                repeats,
                &a,
                || Tucker::hooi(a.view(), &modes, &truncation, 100),
                Tucker::to_dense,
            )
        }
        other => Err(format!("unknown job {other:?}").into()),
    }
}

fn sizes(text: &str, separator: char) -> Result<Vec<usize>, std::num::ParseIntError> {
    text.split(separator).map(str::parse).collect()
}

fn measure<T: Real, R>(
    repeats: usize,
    a: &ArrayD<T>,
    decompose: impl Fn() -> tn_formats::Result<(R, Certificate)>,
    dense: impl Fn(&R) -> ArrayD<T>,
) -> Outcome {
    let copy = Instant::now();
    let twice = (a.clone(), a.clone());
    let copy = copy.elapsed().as_secs_f64();
    drop(twice);
    // From here on the peak is the array and what decomposing it takes.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let mut seconds = Vec::new();
    let (mut last, mut peak) = (None, 0);
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        let result = decompose()?;
        seconds.push(start.elapsed().as_secs_f64());
        if last.is_none() {
            peak = peak_bytes();
        }
        last = Some(result);
    }
    let (result, certificate) = last.ok_or("no run")?;
    let rebuilt = dense(&result);
    let square = |x: f64| x * x;
    let error: f64 = rebuilt
        .iter()
        .zip(a)
        .map(|(x, y)| square(x.widen() - y.widen()))
        .sum();
    println!(
        "{{\"seconds\": {seconds:?}, \"error\": {:e}, \"certificate\": {:e}, \"array_bytes\": {}, \"peak_bytes\": {peak}, \"copy_twice\": {copy}}}",
        error.sqrt() / certificate.norm(),
        certificate.relative_error(),
        a.len() * T::BYTES,
    );
    Ok(())
}

/// Peak resident memory of this process, 0 where the system does not tell.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().split(' ').next()?.parse::<usize>().ok())
        .unwrap_or(0)
        * 1024
}
