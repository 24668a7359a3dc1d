//! Layers and networks that have seen a batch size allocate nothing for the next batch of it.

use std::alloc::System;

use ndarray::Array2;
use quant_core::{Bits, QuantScheme};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tn_formats::{Layout, MatrixModes};
use tn_qat::{
    Activation, DenseLinear, Layer, Network, NetworkState, Route, StepInit, TtLinear, TuckerLinear,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn network(route: Route) -> Network<'static> {
    let modes = MatrixModes::new(Layout::Interleaved, vec![4, 6], vec![6, 4]).unwrap();
    let mut first = TtLinear::random(&modes, &[5], 1).unwrap().with_zero_bias();
    let split = MatrixModes::new(Layout::Split, vec![4, 4], vec![6, 4]).unwrap();
    let mut second = TtLinear::random(&split, &[3, 5, 4], 2).unwrap();
    let mut third = TuckerLinear::random(&[(5, 3)], &[(4, 4), (4, 2)], 3)
        .unwrap()
        .with_zero_bias();
    let mut last = DenseLinear::random(3, 5, 4).unwrap();
    let scheme = QuantScheme::symmetric(Bits::B4);
    first.quantize(scheme, StepInit::Mse).unwrap();
    second.quantize(scheme, StepInit::Mse).unwrap();
    third.quantize(scheme, StepInit::Mse).unwrap();
    last.quantize(scheme, StepInit::Mse).unwrap();
    let layers: [(Box<dyn Layer<f32>>, Activation); 4] = [
        (Box::new(first.with_route(route)), Activation::Relu),
        (Box::new(second.with_route(route)), Activation::Gelu),
        (Box::new(third.with_route(route)), Activation::Relu),
        (Box::new(last), Activation::Identity),
    ];
    Network::new(layers.into()).unwrap()
}

#[test]
fn the_second_batch_allocates_nothing() {
    // One thread: starting work on another one takes memory of the pool's own.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.unwrap().install(|| {
        for route in [Route::Auto, Route::Dense, Route::Cores] {
            let network = network(route);
            let x = Array2::from_shape_fn((32, 24), |(i, j)| ((i * 24 + j) as f32 * 0.7).sin());
            let (mut y, dy) = (Array2::zeros((32, 3)), Array2::ones((32, 3)));
            let (mut state, mut grads) = (NetworkState::default(), network.gradients());
            let mut step = || {
                network
                    .forward_into(x.view(), &mut state, y.view_mut())
                    .unwrap();
                network
                    .backward(x.view(), &mut state, dy.view(), &mut grads)
                    .unwrap();
            };
            step();
            let region = Region::new(ALLOCATOR);
            step();
            assert_eq!(region.change().allocations, 0, "{route:?}");
        }
    });
}
