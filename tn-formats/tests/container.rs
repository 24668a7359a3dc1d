//! Containers: what Python wrote is read, what was written here stays the same, and nothing broken gets in.

use std::fs;
use std::path::PathBuf;

use ndarray::ArrayD;
use rand::{RngExt, SeedableRng};
use tn_formats::Container;
use tn_formats::npy::{NpyArray, read_npy};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn dense(container: &Container) -> ArrayD<f32> {
    match container {
        Container::TensorTrain(t) => t.to_dense(),
        Container::TensorTrainF64(t) => t.to_dense().mapv(|x| x as f32),
        Container::TtMatrix(m) => m.to_dense().into_dyn(),
        Container::TtMatrixF64(m) => m.to_dense().mapv(|x| x as f32).into_dyn(),
        Container::Tucker(t) => t.to_dense(),
        Container::TuckerF64(t) => t.to_dense().mapv(|x| x as f32),
        Container::QuantizedTensorTrain(t) => t.dequantize().to_dense(),
        Container::QuantizedTtMatrix(m) => m.dequantize().to_dense().into_dyn(),
        Container::QuantizedTucker(t) => t.dequantize().to_dense(),
        other => panic!("unknown kind {other:?}"),
    }
}

const FILES: [&str; 6] = [
    "train_f32",
    "matrix_affine3",
    "matrix_blocks4",
    "tucker_int8",
    "python_matrix",
    "python_train_f64",
];

#[test]
fn files_from_here_and_from_python_hold_their_dense_arrays() {
    for name in FILES {
        let container =
            Container::read(&fs::read(data(&format!("{name}.safetensors"))).unwrap()).unwrap();
        let array = read_npy(&mut fs::File::open(data(&format!("{name}.npy"))).unwrap()).unwrap();
        let NpyArray::F32(expected) = array else {
            panic!("{name}: not float32")
        };
        let rebuilt = dense(&container);
        assert_eq!(rebuilt.shape(), expected.shape(), "{name}");
        let norm = |a: &ArrayD<f32>| a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        assert!(
            norm(&(&rebuilt - &expected)) <= 1e-6 * norm(&expected),
            "{name}"
        );
    }
}

#[test]
fn writing_again_gives_the_same_bytes() {
    for name in &FILES[..4] {
        let file = fs::read(data(&format!("{name}.safetensors"))).unwrap();
        let mut again = Vec::new();
        Container::read(&file).unwrap().write(&mut again).unwrap();
        assert_eq!(file, again, "{name}");
    }
    for name in &FILES[4..] {
        let container =
            Container::read(&fs::read(data(&format!("{name}.safetensors"))).unwrap()).unwrap();
        let mut again = Vec::new();
        container.write(&mut again).unwrap();
        assert_eq!(Container::read(&again).unwrap(), container, "{name}");
    }
}

/// One change of a file that leaves it different.
fn mutate(file: &[u8], rng: &mut rand_pcg::Pcg64Mcg) -> Vec<u8> {
    let mut out = file.to_vec();
    let at = rng.random_range(0..out.len());
    match rng.random_range(0..8) {
        0 | 1 => out[at] ^= 1 << rng.random_range(0..8),
        2 | 3 => out[at] = rng.random(),
        4 => out.truncate(at),
        5 => out.insert(at, rng.random()),
        6 => drop(out.remove(at)),
        _ => {
            let end = (at + rng.random_range(1..40)).min(out.len());
            out[at..end].iter_mut().for_each(|b| *b = rng.random());
        }
    }
    // A changed header length is the field a careless reader trusts most.
    if rng.random_range(0..20) == 0 && out.len() >= 8 {
        out[..8].copy_from_slice(&rng.random::<u64>().to_le_bytes());
    }
    out
}

#[test]
fn a_hundred_thousand_mutations_are_errors() {
    let files: Vec<Vec<u8>> = FILES
        .iter()
        .map(|name| fs::read(data(&format!("{name}.safetensors"))).unwrap())
        .collect();
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(2026);
    let mut tried = 0;
    while tried < 100_000 {
        let file = &files[tried % files.len()];
        let mutated = mutate(file, &mut rng);
        if mutated == *file {
            continue;
        }
        tried += 1;
        assert!(
            Container::read(&mutated).is_err(),
            "mutation {tried} was read"
        );
    }
}

#[test]
fn promises_beyond_the_file_are_errors() {
    let file = fs::read(data("matrix_affine3.safetensors")).unwrap();
    let text = String::from_utf8_lossy(&file).into_owned();
    for (from, to) in [
        ("[3,4]", "[3,4611686018427387904]"),
        ("\\\"version\\\":1", "\\\"version\\\":2"),
    ] {
        assert!(text.contains(from), "{from}");
        let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(file[8..8 + header_len].to_vec())
            .unwrap()
            .replacen(from, to, 1);
        let mut changed = (header.len() as u64).to_le_bytes().to_vec();
        changed.extend(header.as_bytes());
        changed.extend(&file[8 + header_len..]);
        assert!(Container::read(&changed).is_err(), "{to}");
    }
}
