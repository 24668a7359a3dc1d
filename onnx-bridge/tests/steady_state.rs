//! Fused operators that have seen a batch size allocate nothing for the next batch of it but their results.

#![cfg(feature = "tract")]

mod common;

use std::alloc::System;

use common::{gemm, node, proto, value};
use ndarray::ArrayD;
use onnx_bridge::runtime::{Activations, Runtime, RuntimeOptions};
use onnx_bridge::{Format, Job, Model, Spec, compress};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tn_formats::npy::NpyArray;
use tn_formats::{Layout, Truncation};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROWS: usize = 64;
const WIDTH: usize = 256;

/// Bytes that a warm run allocates.
fn warm_bytes(model: &Model, activations: Activations) -> usize {
    let mut options = RuntimeOptions::default();
    options.activations = activations;
    let shapes = [vec![ROWS, WIDTH]];
    let runtime = Runtime::load_shaped(model, &options, &shapes).unwrap();
    let x = [NpyArray::F32(ArrayD::from_elem(shapes[0].clone(), 0.5))];
    for _ in 0..2 {
        runtime.run(&x).unwrap();
    }
    let region = Region::new(ALLOCATOR);
    runtime.run(&x).unwrap();
    region.change().bytes_allocated
}

#[test]
fn a_warm_run_allocates_its_result_only() {
    let dims = [0, WIDTH];
    let nodes = vec![node("Relu", &["x"], "y", Vec::new())];
    let idle = proto(17, Vec::new(), nodes, value("x", &dims), value("y", &dims));
    let idle = warm_bytes(&Model::from_proto(idle).unwrap(), Activations::F32);
    let result = 4 * ROWS * WIDTH;
    let model = gemm(WIDTH, WIDTH, Vec::new());
    for (format, layout) in [
        (Format::Dense, None),
        (Format::LowRank, None),
        (Format::Tucker, None),
        (Format::Tt, Some(Layout::Interleaved)),
        (Format::Tt, Some(Layout::Split)),
    ] {
        let spec = Spec {
            layout,
            truncation: Some(Truncation::MaxRank(8)),
            ..Spec::of(format)
        };
        let (small, _) = compress(&model, &Job::new(spec)).unwrap();
        for activations in [Activations::F32, Activations::Int8] {
            let bytes = warm_bytes(&small, activations);
            // The node makes a result, where the idle model may reuse its input; scratch would be as large again.
            let most = idle + result + 8192;
            assert!(
                bytes < most,
                "{format:?} {layout:?} {activations:?}: {bytes}, {most}"
            );
        }
    }
}
