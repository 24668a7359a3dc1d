//! Containers that are not: an error each, and never more memory than the file's size allows.

use std::alloc::System;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use rand::{RngExt, SeedableRng};
use safetensors::SafeTensors;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tn_formats::Container;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FILES: [&str; 6] = [
    "train_f32",
    "matrix_affine3",
    "matrix_blocks4",
    "tucker_int8",
    "python_matrix",
    "python_train_f64",
];

/// All that one reading may allocate, freed or not: so many times the file and so many bytes. JSON is parsed into maps and
/// strings, twice, which takes more than its text.
const TIMES: usize = 24;
const BYTES: usize = 4096;

fn files() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let read = |name| fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
    FILES.map(read).into()
}

/// Whether the file was read, and that reading it allocated within the bounds.
fn read(file: &[u8], name: &str) -> bool {
    let region = Region::new(ALLOCATOR);
    let result = Container::read(file);
    let change = region.change();
    let allocated = change.bytes_allocated + change.bytes_reallocated.max(0) as usize;
    assert!(
        allocated <= TIMES * file.len() + BYTES,
        "{name}: {allocated} bytes for a file of {}",
        file.len()
    );
    result.is_ok()
}

/// One change of a file.
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

fn crc32(chunks: &[&[u8]]) -> String {
    let mut crc = !0u32;
    for byte in chunks.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    format!("{:08x}", !crc)
}

/// The file with another header of ours and a checksum that fits it, or nothing where the header names no parts.
fn resealed(file: &[u8], header: &str) -> Option<Vec<u8>> {
    let tensors = SafeTensors::deserialize(file).ok()?;
    let value: serde_json::Value = serde_json::from_str(header).ok()?;
    let mut chunks = vec![header.as_bytes()];
    for part in value["parts"].as_array()? {
        let name = part["name"].as_str()?;
        for suffix in ["", ".codes", ".scales", ".zero_points"] {
            if let Ok(view) = tensors.tensor(&format!("{name}{suffix}")) {
                chunks.push(view.data());
            }
        }
    }
    let metadata = [("tnq", header.to_owned()), ("tnq.crc32", crc32(&chunks))];
    let metadata: HashMap<String, String> = metadata
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect();
    safetensors::serialize(tensors.tensors(), Some(metadata)).ok()
}

/// The header with one of its numbers changed, often to a large one.
fn other_number(header: &str, rng: &mut rand_pcg::Pcg64Mcg) -> String {
    let digits: Vec<usize> = (0..header.len())
        .filter(|&k| header.as_bytes()[k].is_ascii_digit())
        .collect();
    let at = digits[rng.random_range(0..digits.len())];
    let number = match rng.random_range(0..4) {
        0 => rng.random_range(0..10u64),
        1 => rng.random_range(0..100_000),
        2 => 1 << rng.random_range(20..64),
        _ => u64::MAX - rng.random_range(0..3),
    };
    format!("{}{number}{}", &header[..at], &header[at + 1..])
}

// One test: the allocator counts for the whole process.
#[test]
fn no_file_takes_more_memory_than_its_size_allows() {
    let files = files();
    for (file, name) in files.iter().zip(FILES) {
        assert!(read(file, name), "{name} itself is read");
    }
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(2026);
    let mut tried = 0;
    while tried < 100_000 {
        let file = &files[tried % files.len()];
        let mutated = mutate(file, &mut rng);
        if mutated == *file {
            continue;
        }
        tried += 1;
        let name = format!("mutation {tried}");
        assert!(!read(&mutated, &name), "{name} was read");
    }
    // Behind the checksum: headers that promise something else and are sealed again. Some of them are right.
    let (mut sealed, mut refused) = (0, 0);
    for k in 0..20_000 {
        let file = &files[k % files.len()];
        let (_, metadata) = SafeTensors::read_metadata(file).unwrap();
        let header = &metadata.metadata().as_ref().unwrap()["tnq"];
        let header = other_number(header, &mut rng);
        let Some(changed) = resealed(file, &header) else {
            continue;
        };
        sealed += 1;
        refused += usize::from(!read(&changed, &header));
    }
    assert!(
        sealed > 10_000 && refused > sealed / 2,
        "{refused} of {sealed}"
    );
}
