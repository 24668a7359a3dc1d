//! Times one forward + backward step of a 1024 x 1024 TT-matrix layer, (4, 8, 8, 4)², batch 128, at ranks 8 and 16.
//!
//! Prints the medians in microseconds as JSON. `benches/python/tt_linear_torch.py --rust` runs it beside PyTorch:
//! `cargo run --release -p tn-qat --example tt_step -- 2` (threads).
#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::{Duration, Instant};

use ndarray::Array2;
use tn_formats::{Layout, MatrixModes};
use tn_qat::{Cache, Gradients, Layer, Route, TtLinear};

fn median(rank: usize, route: Route) -> Result<f64, Box<dyn std::error::Error>> {
    let modes = MatrixModes::new(Layout::Interleaved, vec![4, 8, 8, 4], vec![4, 8, 8, 4])?;
    let layer = TtLinear::<f32>::random(&modes, &[rank; 3], 1)?.with_route(route);
    let x = Array2::from_shape_fn((128, 1024), |(b, i)| {
        ((b * 31 + i * 17) % 101) as f32 / 50.0 - 1.0
    });
    let (mut y, mut dx) = (Array2::zeros((128, 1024)), Array2::zeros((128, 1024)));
    let (mut cache, mut grads) = (Cache::new(), Gradients::zeros(layer.parameters()));
    let (mut times, start) = (Vec::new(), Instant::now());
    while start.elapsed() < Duration::from_millis(700) || times.len() < 5 {
        let begin = Instant::now();
        grads.clear();
        layer.forward_into(x.view(), &mut cache, y.view_mut())?;
        layer.backward_into(
            x.view(),
            &mut cache,
            x.view(),
            &mut grads,
            Some(dx.view_mut()),
        )?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(0), |n| n.parse())?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()?;
    let mut ranks = Vec::new();
    for rank in [8, 16] {
        let (auto, dense) = (median(rank, Route::Auto)?, median(rank, Route::Dense)?);
        ranks.push(format!(
            "\"rank {rank}\": {{\"auto\": {auto:.1}, \"dense\": {dense:.1}}}"
        ));
    }
    println!("{{{}}}", ranks.join(", "));
    Ok(())
}
