//! Fits the two hidden layers of a trained 784-1024-1024-10 network by trains, one layer after the other, float cores.
//!
//! `python tn-qat/examples/export_gemm.py ../shared/models/mnist-mlp.onnx /tmp/mnist-mlp.npz`, then
//! `cargo run --release -p tn-qat --example mnist_layerwise -- /tmp/mnist-mlp.npz ../shared/data/mnist 8 1500 1500 4e-3`
//! (weights, folder with train.npz and dev.npz, rank, gradient steps per layer on its own outputs, then on what the next
//! layer sees of them, rate). Prints the accuracy on dev.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use ndarray::{Array1, Array2};
use tn_formats::npy::{NpyArray, Npz};
use tn_formats::{Layout, MatrixModes};
use tn_qat::{
    Activation, DenseLinear, FitConfig, Network, TtLinear, accuracy, fit_ahead, fit_train,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn matrix(npz: &mut Npz<File>, name: &str) -> Outcome<Array2<f32>> {
    Ok(npz.read(name)?.to_f32().into_dimensionality()?)
}

fn dataset(path: &Path) -> Outcome<(Array2<f32>, Vec<i64>)> {
    let mut npz = Npz::open(File::open(path)?)?;
    let labels = match npz.read("labels")? {
        NpyArray::I64(a) => a.iter().copied().collect(),
        other => return Err(format!("labels are {}, expected int64", other.dtype()).into()),
    };
    Ok((matrix(&mut npz, "image")?, labels))
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [weights, data, rank, steps, ahead, rate] = args.as_slice() else {
        return Err("usage: mnist_layerwise WEIGHTS.npz DATA_FOLDER RANK STEPS AHEAD RATE".into());
    };
    let (rank, steps, ahead): (usize, u64, u64) = (rank.parse()?, steps.parse()?, ahead.parse()?);
    let rate: f64 = rate.parse()?;
    let mut npz = Npz::open(File::open(weights)?)?;
    let (x, _) = dataset(&Path::new(data).join("train.npz"))?;
    let (dev, labels) = dataset(&Path::new(data).join("dev.npz"))?;
    let modes = [
        MatrixModes::new(Layout::Interleaved, vec![4, 8, 8, 4], vec![4, 7, 4, 7])?,
        MatrixModes::new(Layout::Interleaved, vec![4, 8, 8, 4], vec![4, 8, 8, 4])?,
    ];
    let mut original = Vec::new();
    for k in 0..3 {
        let bias: Array1<f32> = npz.read(&format!("b{k}"))?.to_f32().into_dimensionality()?;
        original.push((matrix(&mut npz, &format!("w{k}"))?, bias));
    }
    // What the original computes, and what the compressed network feeds to its next layer.
    let (mut truth, mut inputs, mut dev_inputs) = (x.clone(), x.clone(), dev.clone());
    for (k, modes) in modes.iter().enumerate() {
        let start = Instant::now();
        let (w, b) = &original[k];
        let target = truth.dot(&w.t()) + b;
        let mut config = FitConfig {
            through: Activation::Relu,
            ..FitConfig::default()
        };
        config.train.steps = steps;
        config.train.rate = rate;
        config.sweeps = 3;
        let mut layer = TtLinear::from_matrix(w.view(), modes, rank)?.with_bias(b.to_vec())?;
        let report = fit_train(&mut layer, inputs.view(), target.view(), &config)?;
        if ahead > 0 {
            config.train.steps = ahead;
            let next = original[k + 1].0.view();
            let report = fit_ahead(&mut layer, inputs.view(), target.view(), next, &config)?;
            let (first, last) = (report.curve[0], report.last_loss());
            println!("layer {k}: error at the next layer {first:.4}, then {last:.4}");
        }
        println!(
            "layer {k}: {report}, {:.1} s",
            start.elapsed().as_secs_f64()
        );
        truth = target.mapv(|v| v.max(0.0));
        let network = Network::new(vec![(Box::new(layer), Activation::Relu)])?;
        inputs = network.predict(inputs.view())?;
        dev_inputs = network.predict(dev_inputs.view())?;
    }
    let (w, b) = &original[2];
    let last = DenseLinear::new(w.clone())?.with_bias(b.to_vec())?;
    let last = Network::new(vec![(Box::new(last), Activation::Identity)])?;
    let found = accuracy(last.predict(dev_inputs.view())?.view(), &labels)?;
    println!("rank {rank}: accuracy {:.2} % on dev", 100.0 * found);
    Ok(())
}
