//! Damaged archives of arrays: errors or arrays, never a panic, and no more memory than the file says it holds.

use std::io::Cursor;

use ndarray::ArrayD;
use rand::{RngExt, SeedableRng};
use tn_formats::npy::{NpyArray, Npz, read_npy, write_npz};

const MUTATIONS: usize = 50_000;

fn archive() -> Vec<u8> {
    let values = |shape: &[usize]| {
        let mut k = 0.0;
        ArrayD::from_shape_simple_fn(shape, || {
            k += 1.0;
            k
        })
    };
    let arrays = [
        (
            "image",
            NpyArray::F32(values(&[3, 4]).mapv(|v: f64| v as f32)),
        ),
        ("labels", NpyArray::I64(values(&[3]).mapv(|v| v as i64))),
        ("mask", NpyArray::Bool(ArrayD::from_elem(vec![2, 2], true))),
    ];
    let mut file = Cursor::new(Vec::new());
    write_npz(&mut file, arrays.iter().map(|(name, array)| (*name, array))).unwrap();
    file.into_inner()
}

#[test]
fn damaged_archives_are_errors_or_arrays() {
    let whole = archive();
    // The first member's array alone: its magic up to the next member's.
    let start = whole.windows(6).position(|w| w == b"\x93NUMPY").unwrap();
    let alone = whole[start..start + 128 + 48].to_vec();
    let pieces: [&[u8]; 8] = [
        b"(9223372036854775807,)",
        b"(-1, 4)",
        b"'<f8'",
        b"'O'",
        b"True",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"PK\x05\x06",
    ];
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(2026);
    let (mut opened, mut read) = (0, 0);
    for k in 0..MUTATIONS {
        let mut bytes = if k % 2 == 0 {
            whole.clone()
        } else {
            alone.clone()
        };
        for _ in 0..rng.random_range(1..4) {
            if bytes.is_empty() {
                break;
            }
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..6) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.random(),
                2 => bytes.truncate(at),
                3 => drop(bytes.remove(at)),
                4 => {
                    let piece = pieces[rng.random_range(0..pieces.len())];
                    let end = (at + piece.len()).min(bytes.len());
                    bytes.splice(at..end, piece.iter().copied());
                }
                _ => {
                    let end = (at + rng.random_range(0..60)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        if k % 2 == 0 {
            if let Ok(mut npz) = Npz::open(Cursor::new(&bytes)) {
                opened += 1;
                read += usize::from(npz.read_all().is_ok());
            }
        } else {
            read += usize::from(read_npy(&mut Cursor::new(&bytes)).is_ok());
        }
    }
    assert!(opened > 1000 && read > 100, "{opened} {read}");
    assert!(read < MUTATIONS / 2, "checksums and headers are looked at");
}
