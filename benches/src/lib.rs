//! Criterion benches, one for each crate and each beside a baseline: `cargo bench -p tn-benches`. They stand in `benches/`.

pub mod models;
