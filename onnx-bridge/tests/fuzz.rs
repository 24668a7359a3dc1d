//! The kept corpus of the fuzz targets, through the code that the targets run.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../../fuzz/checks/container.rs"]
mod container;
#[path = "../../fuzz/checks/external.rs"]
mod external;
#[path = "../../fuzz/checks/model.rs"]
mod model;
#[path = "../../fuzz/checks/npz.rs"]
mod npz;
#[path = "../../fuzz/checks/plan.rs"]
mod plan;

fn run(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let files = fs::read_dir(corpus.join(target)).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let bytes = fs::read(&file).unwrap();
        assert!(catch_unwind(|| check(&bytes)).is_ok(), "{}", file.display());
    }
}

#[test]
fn containers() {
    run("container", container::check);
}

#[test]
fn external_data() {
    run("external", external::check);
}

#[test]
fn models() {
    run("model", model::check);
}

#[test]
fn arrays() {
    run("npz", npz::check);
}

#[test]
fn plans() {
    run("plan", plan::check);
}
