//! Loads a compressed model with the fused operators and times a batch beside stock tract.
//!
//! ```console
//! $ cargo run --example serve -- small.onnx 8 32
//! ```

use std::time::{Duration, Instant};

use ndarray::ArrayD;
use onnx_bridge::runtime::{Activations, Runtime, RuntimeOptions};
use onnx_bridge::{Engine, Model};
use tn_formats::npy::NpyArray;

#[allow(clippy::print_stdout, reason = "an example")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("expected a model")?;
    let sizes: Vec<usize> = arguments.map(|a| a.parse()).collect::<Result<_, _>>()?;
    let model = Model::decode(std::fs::read(path)?)?;
    let stock = Engine::load(&model)?;
    let exact = Runtime::load(&model, &RuntimeOptions::default())?;
    let mut options = RuntimeOptions::default();
    options.activations = Activations::Int8;
    let rounded = Runtime::load(&model, &options)?;
    let bytes: usize = exact.layers().iter().map(|l| l.bytes).sum();
    println!("{} fused layers, {bytes} bytes", exact.layers().len());
    let inputs: Vec<NpyArray> = stock
        .inputs()
        .iter()
        .map(|input| {
            let open = |(axis, dim): (usize, &Option<usize>)| {
                dim.unwrap_or(*sizes.get(axis).unwrap_or(&1))
            };
            let shape: Vec<usize> = input.dims.iter().enumerate().map(open).collect();
            match input.data_type {
                1 => NpyArray::F32(ArrayD::from_elem(shape, 0.5)),
                _ => NpyArray::I64(ArrayD::from_elem(shape, 1)),
            }
        })
        .collect();
    let time = |name: &str,
                run: &dyn Fn() -> onnx_bridge::Result<Vec<NpyArray>>|
     -> Result<Vec<NpyArray>, Box<dyn std::error::Error>> {
        let first = run()?;
        let mut times = Vec::new();
        let start = Instant::now();
        while times.len() < 5 || start.elapsed() < Duration::from_secs(2) {
            let begin = Instant::now();
            run()?;
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        println!("{name}: {:?}", times[times.len() / 2]);
        Ok(first)
    };
    let expected = time("stock tract", &|| stock.run(&inputs))?;
    for (name, runtime) in [("fused, f32", &exact), ("fused, int8", &rounded)] {
        let found = time(name, &|| runtime.run(&inputs))?;
        let (a, b) = (expected[0].to_f32(), found[0].to_f32());
        let error =
            (&a - &b).mapv(|v| f64::from(v).powi(2)).sum() / a.mapv(|v| f64::from(v).powi(2)).sum();
        println!("  relative difference {:.2e}", error.sqrt());
    }
    Ok(())
}
