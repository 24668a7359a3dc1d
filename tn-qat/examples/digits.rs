//! Trains a tensor-train classifier of handwritten digits from scratch, in float and in 4 bits.
//!
//! `cargo run --release -p tn-qat --example digits` reads `examples/digits/train.npz` and `test.npz` of the workspace.
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::error::Error;
use std::fs::File;
use std::path::Path;

use ndarray::Array2;
use quant_core::{Bits, QuantScheme};
use tn_formats::npy::{NpyArray, Npz};
use tn_formats::{Layout, MatrixModes};
use tn_qat::{
    Activation, Layer, Network, Objective, QatSchedule, StepInit, TrainConfig, TtLinear, accuracy,
    train,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn dataset(name: &str) -> Outcome<(Array2<f32>, Vec<i64>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/digits")
        .join(name);
    let mut npz = Npz::open(File::open(path)?)?;
    let labels = match npz.read("labels")? {
        NpyArray::I64(a) => a.iter().copied().collect(),
        other => return Err(format!("labels are {}, expected int64", other.dtype()).into()),
    };
    Ok((npz.read("image")?.to_f32().into_dimensionality()?, labels))
}

fn main() -> Outcome<()> {
    let (x, labels) = dataset("train.npz")?;
    let (test, test_labels) = dataset("test.npz")?;
    for bits in [None, Some(Bits::B4)] {
        // 64 -> 256 -> 10, each weight a train: cores (1,4,4,8) (8,8,4,8) (8,8,4,1) and low rank 8.
        let hidden = MatrixModes::new(Layout::Interleaved, vec![4, 8, 8], vec![4, 4, 4])?;
        let mut first = TtLinear::<f32>::random(&hidden, &[8, 8], 1)?.with_zero_bias();
        let mut last =
            TtLinear::<f32>::random(&MatrixModes::low_rank(10, 256)?, &[8], 2)?.with_zero_bias();
        if let Some(bits) = bits {
            first.quantize(QuantScheme::symmetric(bits), StepInit::Mse)?;
            last.quantize(QuantScheme::symmetric(bits), StepInit::Mse)?;
        }
        let parameters: usize = [&first, &last]
            .iter()
            .flat_map(|l| l.parameters())
            .map(|p| p.values().len())
            .sum();
        let config = TrainConfig {
            steps: 1500,
            batch: 64,
            rate: 1e-2,
            qat: QatSchedule {
                float: 500,
                observe: 100,
                freeze_from: 1450,
            },
            ..TrainConfig::default()
        };
        let found = {
            let mut network = Network::new(vec![
                (Box::new(&mut first), Activation::Relu),
                (Box::new(&mut last), Activation::Identity),
            ])?;
            train(
                &mut network,
                x.view(),
                Objective::Labels(&labels),
                &config,
                &mut |_, _| {},
            )?;
            accuracy(network.predict(test.view())?.view(), &test_labels)?
        };
        let what = match bits {
            None => format!("float, {} bytes of cores", 4 * (parameters - 266)),
            Some(bits) => {
                let bytes = first.to_quantized()?.byte_len() + last.to_quantized()?.byte_len();
                format!("int{bits}, {bytes} bytes of cores")
            }
        };
        println!(
            "{what}: {:.2} % of the test digits (dense: {} bytes)",
            100.0 * found,
            4 * (256 * 64 + 2560)
        );
    }
    Ok(())
}
