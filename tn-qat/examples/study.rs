//! Runs a study on the hidden layers of a network whose weights stand in an npz (`export_gemm.py` makes one).
//!
//! `cargo run --release -p tn-qat --example study -- qat /tmp/mnist-mlp.npz ../shared/data/mnist /tmp/qat.svg`
//! (study: qat, ranks, bits or gauge; weights w0, b0, w1 ..; folder with train.npz and dev.npz; where the plot goes).
//! Prints the table and the conclusion.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::error::Error;
use std::fs::File;
use std::path::Path;

use ndarray::{Array2, s};
use tn_formats::npy::{NpyArray, Npz};
use tn_formats::{Layout, MatrixModes};
use tn_qat::Activation;
use tn_qat::studies::{
    BitsConfig, GaugeConfig, QatConfig, QatLayer, QatProblem, RanksConfig, Study, bits, gauge, qat,
    ranks,
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
    let [study, weights, data, plot] = args.as_slice() else {
        return Err("usage: study qat|ranks|bits|gauge WEIGHTS.npz DATA_FOLDER PLOT.svg".into());
    };
    let mut npz = Npz::open(File::open(weights)?)?;
    let modes = |cols: &[usize]| {
        MatrixModes::new(Layout::Interleaved, vec![4, 8, 8, 4], cols.to_vec()).map(Some)
    };
    let square = modes(&[4, 8, 8, 4])?;
    let report = match study.as_str() {
        "qat" => {
            let (x, _) = dataset(&Path::new(data).join("train.npz"))?;
            let (dev, labels) = dataset(&Path::new(data).join("dev.npz"))?;
            let choices = [
                (modes(&[4, 7, 4, 7])?, Activation::Relu),
                (square, Activation::Relu),
                (None, Activation::Identity),
            ];
            let mut layers = Vec::new();
            for (k, (modes, activation)) in choices.into_iter().enumerate() {
                let bias = npz
                    .read(&format!("b{k}"))?
                    .to_f32()
                    .iter()
                    .copied()
                    .collect();
                let weight = matrix(&mut npz, &format!("w{k}"))?;
                layers.push(QatLayer {
                    weight,
                    bias: Some(bias),
                    activation,
                    modes,
                });
            }
            let problem = QatProblem {
                layers,
                x: x.slice(s![..5000, ..]),
                held_out: dev.view(),
                labels: Some(&labels),
            };
            qat(&problem, &QatConfig::default(), &mut |_, _| {})?.report()
        }
        "ranks" => {
            let modes = square.ok_or("modes of the layer")?;
            ranks(
                matrix(&mut npz, "w1")?.view(),
                &modes,
                &RanksConfig::default(),
            )?
            .report()
        }
        "bits" => {
            let modes = square.ok_or("modes of the layer")?;
            bits(
                matrix(&mut npz, "w1")?.view(),
                &modes,
                &BitsConfig::default(),
            )?
            .report()
        }
        "gauge" => {
            let modes = square.ok_or("modes of the layer")?;
            gauge(
                matrix(&mut npz, "w1")?.view(),
                &modes,
                &GaugeConfig::default(),
            )?
            .report()
        }
        other => {
            return Err(format!("study is {other}, expected qat, ranks, bits or gauge").into());
        }
    };
    println!("{}", report.markdown());
    std::fs::write(plot, report.svg()?)?;
    Ok(())
}
