//! Writes the containers that the tests read back and Python checks: `tests/data/*.safetensors`, each beside the dense array
//! as `.npy`.
//!
//! ```text
//! cargo run -p tn-formats --example write_containers -- tn-formats/tests/data
//! ```
#![allow(clippy::print_stdout, reason = "the example's output is its purpose")]

use std::error::Error;
use std::fs;
use std::path::Path;

use ndarray::{Array, Array2, ArrayD};
use quant_core::{Bits, Granularity, QuantScheme};
use tn_formats::npy::{NpyArray, write_npy};
use tn_formats::{
    Container, Layout, MatrixModes, TensorTrain, Truncation, TtMatrix, TtQuantizer, Tucker,
    TuckerQuantizer,
};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: write_containers FOLDER")?;
    for (name, container, dense) in samples()? {
        let path = Path::new(&folder).join(name);
        container.write(&mut fs::File::create(path.with_extension("safetensors"))?)?;
        write_npy(
            &mut fs::File::create(path.with_extension("npy"))?,
            &NpyArray::F32(dense),
        )?;
        println!("{}", path.display());
    }
    Ok(())
}

fn samples() -> tn_formats::Result<Vec<(&'static str, Container, ArrayD<f32>)>> {
    let tensor =
        Array::from_shape_fn((4, 5, 6), |(i, j, k)| 1.0f32 / (1 + i + 2 * j + k) as f32).into_dyn();
    let matrix = Array2::from_shape_fn((12, 10), |(i, j)| {
        ((3 * i + 2 * j) % 7) as f32 - 2.5 + 0.1 * i as f32
    });
    let rank = Truncation::MaxRank(3);
    let (train, _) = TensorTrain::decompose(tensor.view(), &rank)?;
    let (tucker, _) = Tucker::decompose(tensor.view(), &rank)?;
    let interleaved = MatrixModes::new(Layout::Interleaved, vec![3, 4], vec![5, 2])?;
    let split = MatrixModes::new(Layout::Split, vec![12], vec![5, 2])?;
    let (woven, _) = TtMatrix::decompose(matrix.view(), &interleaved, &rank)?;
    let (halves, _) = TtMatrix::decompose(matrix.view(), &split, &rank)?;

    let int3 = TtQuantizer::new(QuantScheme::affine(Bits::B3)).quantize_matrix(&woven)?;
    let blocks = QuantScheme::symmetric(Bits::B4).with_granularity(Granularity::per_block(3, 2)?);
    let int4 = TtQuantizer::new(blocks).quantize_matrix(&halves)?;
    let int8 = TuckerQuantizer::new(QuantScheme::symmetric(Bits::B8)).quantize(&tucker)?;
    Ok(vec![
        ("train_f32", train.clone().into(), train.to_dense()),
        (
            "matrix_affine3",
            int3.clone().into(),
            int3.dequantize().to_dense().into_dyn(),
        ),
        (
            "matrix_blocks4",
            int4.clone().into(),
            int4.dequantize().to_dense().into_dyn(),
        ),
        (
            "tucker_int8",
            int8.clone().into(),
            int8.dequantize().to_dense(),
        ),
    ])
}
