use ndarray::{Array2, ArrayView2, ShapeBuilder};
use quant_core::{Bits, Granularity, QuantScheme};
use tn_formats::{Layout, MatrixModes, Real};

use super::linear::{generator, normal};
use super::*;
use crate::{ParameterKind, QatError, Route};

fn random<T: Real>(rows: usize, cols: usize, seed: u64) -> Array2<T> {
    Array2::from_shape_vec((rows, cols), normal(rows * cols, 1.0, &mut generator(seed))).unwrap()
}

fn dot<T: Real>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> f64 {
    a.iter().zip(&b).map(|(a, b)| a.widen() * b.widen()).sum()
}

type Case = (Layout, &'static [usize], &'static [usize], &'static [usize]);

/// Odd shapes, rank 1, one core, many cores.
const TRAINS: &[Case] = &[
    (Layout::Interleaved, &[6], &[5], &[]),
    (Layout::Interleaved, &[3, 5], &[7, 2], &[1]),
    (Layout::Interleaved, &[3, 2, 4], &[2, 5, 3], &[4, 3]),
    (
        Layout::Interleaved,
        &[2, 3, 2, 1],
        &[1, 2, 3, 2],
        &[2, 5, 2],
    ),
    (Layout::Interleaved, &[1, 1], &[4, 3], &[2]),
    (Layout::Split, &[7], &[9], &[3]),
    (Layout::Split, &[7], &[9], &[1]),
    (Layout::Split, &[2, 3], &[3, 2, 2], &[3, 4, 3, 2]),
    (Layout::Split, &[1], &[5], &[1]),
];

fn train<T: Real>(&(layout, rows, cols, ranks): &Case, route: Route) -> TtLinear<T> {
    let modes = MatrixModes::new(layout, rows.to_vec(), cols.to_vec()).unwrap();
    let bias = normal(modes.rows(), 1.0, &mut generator(9));
    TtLinear::random(&modes, ranks, 5)
        .unwrap()
        .with_bias(bias)
        .unwrap()
        .with_route(route)
}

type TuckerCase = (&'static [(usize, usize)], &'static [(usize, usize)]);

const TUCKERS: &[TuckerCase] = &[
    (&[(6, 3)], &[(5, 2)]),
    (&[(3, 2), (4, 3)], &[(5, 1)]),
    (&[(2, 2), (3, 1)], &[(3, 2), (2, 2), (4, 3)]),
    (&[(1, 1)], &[(3, 3)]),
];

fn tucker<T: Real>(&(rows, cols): &TuckerCase, route: Route) -> TuckerLinear<T> {
    TuckerLinear::random(rows, cols, 3)
        .unwrap()
        .with_zero_bias()
        .with_route(route)
}

/// Output against the dense weight, gradients of all parameters and of the input against central differences of the loss
/// `sum(c y)`.
fn check(name: &str, layer: &mut dyn Layer<f64>) {
    let (n, m) = (layer.inputs(), layer.outputs());
    for batch in [1, 3] {
        let (x, c) = (random::<f64>(batch, n, 1), random::<f64>(batch, m, 2));
        let mut cache = Cache::new();
        let y = layer.forward(x.view(), &mut cache).unwrap();
        let w = layer.effective_weight().unwrap();
        let mut expected = x.dot(&w.t());
        if let Some(b) = layer
            .parameters()
            .iter()
            .find(|p| p.kind() == ParameterKind::Bias)
        {
            expected
                .rows_mut()
                .into_iter()
                .for_each(|mut row| row.iter_mut().zip(b.values()).for_each(|(y, b)| *y += b));
        }
        assert!(
            (&y - &expected).iter().all(|d| d.abs() < 1e-12),
            "{name}: output"
        );

        let (dx, grads) = layer.backward(x.view(), &mut cache, c.view()).unwrap();
        assert!(
            (&dx - &c.dot(&w)).iter().all(|d| d.abs() < 1e-12),
            "{name}: gradient of the input"
        );
        let h = 1e-6;
        for (p, grad) in grads.iter().enumerate() {
            for (i, &g) in grad.iter().enumerate() {
                let mut loss = |delta: f64| {
                    layer.parameters_mut()[p].values_mut()[i] += delta;
                    let y = layer.forward(x.view(), &mut Cache::new()).unwrap();
                    layer.parameters_mut()[p].values_mut()[i] -= delta;
                    dot(y.view(), c.view())
                };
                let numeric = (loss(h) - loss(-h)) / (2.0 * h);
                assert!(
                    (g - numeric).abs() < 1e-6 * (1.0 + numeric.abs()),
                    "{name}: parameter {p}[{i}]: {g} {numeric}"
                );
            }
        }
    }
}

#[test]
fn train_gradients_equal_central_differences() {
    for case in TRAINS {
        for route in [Route::Auto, Route::Dense, Route::Cores] {
            check(
                &format!("{case:?} {route:?}"),
                &mut train::<f64>(case, route),
            );
        }
    }
}

#[test]
fn tucker_gradients_equal_central_differences() {
    for case in TUCKERS {
        for route in [Route::Auto, Route::Dense, Route::Cores] {
            check(
                &format!("{case:?} {route:?}"),
                &mut tucker::<f64>(case, route),
            );
        }
    }
}

#[test]
fn dense_gradients_equal_central_differences() {
    check(
        "dense",
        &mut DenseLinear::<f64>::random(4, 7, 1)
            .unwrap()
            .with_zero_bias(),
    );
}

/// The same numbers on every route, with fake quantization, on one thread and on several.
fn check_routes<L: Layer<f32>>(name: &str, batch: usize, layers: [L; 3]) {
    let (n, m) = (layers[0].inputs(), layers[0].outputs());
    let (x, c) = (random::<f32>(batch, n, 1), random::<f32>(batch, m, 2));
    let run = |layer: &L| {
        let mut cache = Cache::new();
        let y = layer.forward(x.view(), &mut cache).unwrap();
        let (dx, grads) = layer.backward(x.view(), &mut cache, c.view()).unwrap();
        let mut all = vec![
            y.iter().copied().collect::<Vec<f32>>(),
            dx.iter().copied().collect(),
        ];
        all.extend(grads.iter().map(<[f32]>::to_vec));
        all
    };
    let pool = |threads: usize| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let reference = run(&layers[0]);
    for (route, layer) in layers.iter().enumerate() {
        for threads in [1, 3] {
            let found = pool(threads).install(|| run(layer));
            for (k, (a, b)) in reference.iter().zip(&found).enumerate() {
                let scale = a.iter().map(|v| v.abs()).fold(0.0, f32::max);
                let worst = a
                    .iter()
                    .zip(b)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(
                    worst <= 2e-4 * scale,
                    "{name}: route {route}, {threads} threads, array {k}: {worst} of {scale}"
                );
            }
        }
    }
}

#[test]
fn routes_and_threads_agree() {
    let routes = [Route::Dense, Route::Auto, Route::Cores];
    let scheme = QuantScheme::symmetric(Bits::B4).with_granularity(Granularity::per_axis(0));
    let big: Case = (Layout::Interleaved, &[4, 6, 5], &[5, 4, 6], &[7, 6]);
    for case in TRAINS.iter().chain([&big]) {
        let layers = routes.map(|route| {
            let mut layer = train::<f32>(case, route);
            layer.quantize(scheme, StepInit::Mse).unwrap();
            layer
        });
        check_routes(&format!("{case:?}"), 70, layers);
    }
    let big: TuckerCase = (&[(8, 3), (9, 5)], &[(7, 4), (10, 6)]);
    for case in TUCKERS.iter().chain([&big]) {
        let layers = routes.map(|route| {
            let mut layer = tucker::<f32>(case, route);
            layer
                .quantize(QuantScheme::affine(Bits::B3), StepInit::Mse)
                .unwrap();
            layer
        });
        check_routes(&format!("{case:?}"), 70, layers);
    }
}

#[test]
fn stored_integers_are_those_of_the_forward_pass() {
    for (bits, scheme) in [
        (Bits::B4, QuantScheme::symmetric(Bits::B4)),
        (Bits::B3, QuantScheme::affine(Bits::B3)),
    ] {
        for case in TRAINS {
            let mut layer = train::<f32>(case, Route::Auto);
            layer.quantize(scheme, StepInit::Mse).unwrap();
            let stored = layer.to_quantized().unwrap();
            assert!(stored.cores().iter().all(|c| c.scheme().bits() == bits));
            let dense = stored.dequantize().to_dense();
            let used = layer.effective_weight().unwrap();
            assert!((&dense - &used).iter().all(|d| d.abs() < 1e-5), "{case:?}");
        }
        let mut layer = tucker::<f32>(&TUCKERS[2], Route::Auto);
        layer.quantize(scheme, StepInit::MinMax).unwrap();
        let used = layer.effective_weight().unwrap();
        let dense = layer.to_quantized().unwrap().dequantize().to_dense();
        let dense = dense.to_shape(used.dim()).unwrap();
        assert!((&dense - &used).iter().all(|d| d.abs() < 1e-5));
    }
}

#[test]
fn gradients_add_up_and_phases_stop_them() {
    let mut layer = train::<f32>(&TRAINS[2], Route::Auto);
    layer
        .quantize(QuantScheme::affine(Bits::B2), StepInit::Mse)
        .unwrap();
    let (x, c) = (
        random::<f32>(4, layer.inputs(), 1),
        random::<f32>(4, layer.outputs(), 2),
    );
    let mut cache = Cache::new();
    let mut run = |layer: &TtLinear| {
        layer.forward(x.view(), &mut cache).unwrap();
        let mut grads = Gradients::zeros(layer.parameters());
        layer
            .backward_into(x.view(), &mut cache, c.view(), &mut grads, None)
            .unwrap();
        let once = grads.clone();
        layer
            .backward_into(x.view(), &mut cache, c.view(), &mut grads, None)
            .unwrap();
        for (one, two) in once.iter().zip(grads.iter()) {
            assert!(
                one.iter()
                    .zip(two)
                    .all(|(a, b)| (2.0 * a - b).abs() <= 1e-4 * (1.0 + a.abs()))
            );
        }
        once
    };
    let moving = |layer: &TtLinear, grads: &Gradients| {
        let is_moving = |kind| {
            let pairs = layer.parameters().iter().zip(grads.iter());
            pairs
                .filter(|(p, _)| p.kind() == kind)
                .any(|(_, g)| g.iter().any(|&g| g != 0.0))
        };
        [
            ParameterKind::Weight,
            ParameterKind::Step,
            ParameterKind::ZeroPoint,
        ]
        .map(is_moving)
    };
    for (phase, expected) in [
        (QatPhase::Learn, [true, true, true]),
        (QatPhase::Freeze, [true, false, false]),
        (QatPhase::Observe, [true, false, false]),
        (QatPhase::Float, [true, false, false]),
    ] {
        layer.set_phase(phase);
        let grads = run(&layer);
        assert_eq!(moving(&layer, &grads), expected, "{phase:?}");
    }
}

#[test]
fn scratch_is_reused_and_views_in_any_order_are_taken() {
    let layer = train::<f64>(&TRAINS[3], Route::Auto);
    let (x, c) = (
        random::<f64>(6, layer.inputs(), 1),
        random::<f64>(6, layer.outputs(), 2),
    );
    let mut cache = Cache::new();
    let y = layer.forward(x.view(), &mut cache).unwrap();
    let (dx, _) = layer.backward(x.view(), &mut cache, c.view()).unwrap();
    let held = cache.elements();

    let x_turned = Array2::from_shape_fn(x.dim().f(), |at| x[at]);
    let mut y_turned = Array2::zeros(y.dim().f());
    layer
        .forward_into(x_turned.view(), &mut cache, y_turned.view_mut())
        .unwrap();
    assert_eq!(y, y_turned);
    let mut grads = Gradients::zeros(layer.parameters());
    let mut dx_turned = Array2::zeros(dx.dim().f());
    layer
        .backward_into(
            x_turned.view(),
            &mut cache,
            c.view(),
            &mut grads,
            Some(dx_turned.view_mut()),
        )
        .unwrap();
    assert_eq!(dx, dx_turned);
    assert_eq!(cache.elements(), held);

    let empty = layer
        .forward(Array2::zeros((0, layer.inputs())).view(), &mut cache)
        .unwrap();
    assert_eq!(empty.dim(), (0, layer.outputs()));
}

#[test]
fn wrong_shapes_and_caches_are_errors() {
    let layer = train::<f32>(&TRAINS[1], Route::Auto);
    let other = train::<f32>(&TRAINS[2], Route::Auto);
    let (n, m) = (layer.inputs(), layer.outputs());
    let mut cache = Cache::new();
    let x = random::<f32>(2, n, 1);
    let text = |e: QatError| e.to_string();
    assert_eq!(
        text(
            layer
                .forward(random(2, n + 1, 1).view(), &mut cache)
                .unwrap_err()
        ),
        "input of a layer: expected shape [2, 14], found [2, 15]"
    );
    let dy = random::<f32>(2, m, 1);
    let without = "backward of a batch of 2 needs the cache of its forward pass, found one of 0";
    assert_eq!(
        text(layer.backward(x.view(), &mut cache, dy.view()).unwrap_err()),
        without
    );
    other
        .forward(random(2, other.inputs(), 1).view(), &mut cache)
        .unwrap();
    assert_eq!(
        text(layer.backward(x.view(), &mut cache, dy.view()).unwrap_err()),
        without
    );
    let mut none = Gradients::zeros(&[]);
    layer.forward(x.view(), &mut cache).unwrap();
    assert_eq!(
        text(
            layer
                .backward_into(x.view(), &mut cache, dy.view(), &mut none, None)
                .unwrap_err()
        ),
        "gradients: expected 3 entries, found 0"
    );
    assert_eq!(
        text(layer.to_quantized().unwrap_err()),
        "a quantized train `core.0` has no quantization scheme, expected one"
    );
    assert_eq!(
        text(layer.with_bias(vec![0.0; 3]).unwrap_err()),
        "bias: expected 15 entries, found 3"
    );
}

#[test]
fn embedding_rows_have_their_own_gradients() {
    for block in [None, Some(2)] {
        let mut table = Embedding::<f32>::random(5, 5, 1).unwrap();
        table
            .quantize_rows(QuantScheme::affine(Bits::B3), block, StepInit::Mse)
            .unwrap();
        let indices = [4, 1, 4];
        let rows = table.lookup(&indices).unwrap();
        let all = table.to_quantized().unwrap().dequantize();
        for (row, i) in rows.rows().into_iter().zip([4, 1, 4]) {
            assert_eq!(row.as_slice().unwrap(), &all[i * 5..(i + 1) * 5]);
        }
        let mut grads = Gradients::zeros(table.parameters());
        table.backward(&indices, rows.view(), &mut grads).unwrap();
        // The same gradients through a dense layer that picks rows by one-hot inputs.
        let weights = table.parameters()[0].values().to_vec();
        let mut dense = DenseLinear::new(Array2::from_shape_vec((5, 5), weights).unwrap()).unwrap();
        let granularity = block.map_or(Granularity::per_axis(0), |b| {
            Granularity::per_block(1, b).unwrap()
        });
        dense
            .quantize(
                QuantScheme::affine(Bits::B3).with_granularity(granularity),
                StepInit::Mse,
            )
            .unwrap();
        let mut dw = [0.0; 25];
        for (k, &i) in indices.iter().enumerate() {
            (0..5).for_each(|j| dw[i as usize * 5 + j] += rows[(k, j)]);
        }
        let x = Array2::<f32>::eye(5);
        let dy = Array2::from_shape_fn((5, 5), |(j, i)| dw[i * 5 + j]);
        let mut cache = Cache::new();
        dense.forward(x.view(), &mut cache).unwrap();
        let (_, expected) = dense.backward(x.view(), &mut cache, dy.view()).unwrap();
        for (a, b) in expected.iter().zip(grads.iter()) {
            assert!(
                a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5),
                "{a:?} {b:?}"
            );
        }
        assert!(matches!(
            table.lookup(&[5]).unwrap_err(),
            QatError::Index {
                position: 0,
                bound: 5,
                found: 5,
                ..
            }
        ));
        assert!(table.lookup(&[0, -1]).is_err());
    }
}
