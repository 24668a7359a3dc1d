//! Containers: what Python wrote is read, what was written here stays the same; `reader_memory.rs` tries what is broken.

use std::fs;
use std::path::PathBuf;

use ndarray::ArrayD;
use tn_formats::Container;
use tn_formats::npy::{NpyArray, read_npy};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn dense(container: &Container) -> ArrayD<f32> {
    container.to_dense().to_f32()
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
