//! Outputs and gradients against PyTorch autograd; `fixtures/make.py` makes the numbers.

use ndarray::{Array2, Array4, ArrayD, IxDyn};
use quant_core::{Bits, Granularity, QuantScheme, Signedness};
use serde::Deserialize;
use tn_formats::{Layout, MatrixModes, TtMatrix, TtMatrixCore, Tucker};
use tn_qat::{Cache, DenseLinear, Layer, ParameterKind, Route, StepInit, TtLinear, TuckerLinear};

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    #[serde(default)]
    layout: String,
    #[serde(default)]
    row_modes: Vec<usize>,
    #[serde(default)]
    col_modes: Vec<usize>,
    #[serde(default)]
    rows: usize,
    scheme: String,
    shapes: Vec<Vec<usize>>,
    weights: Vec<Vec<f32>>,
    steps: Vec<Option<Vec<f32>>>,
    zero_points: Vec<Option<Vec<f32>>>,
    bias: Option<Vec<f32>>,
    batch: usize,
    x: Vec<f32>,
    c: Vec<f32>,
    y: Vec<f32>,
    dx: Vec<f32>,
    d_weights: Vec<Vec<f32>>,
    d_steps: Vec<Option<Vec<f32>>>,
    d_zero_points: Vec<Option<Vec<f32>>>,
    d_bias: Option<Vec<f32>>,
}

fn scheme(name: &str, axes: usize) -> Option<QuantScheme> {
    let symmetric = |bits| QuantScheme::symmetric(bits).with_signedness(Signedness::Signed);
    match name {
        "none" => None,
        "int4" => Some(symmetric(Bits::B4)),
        "int4 axis 0" => Some(symmetric(Bits::B4).with_granularity(Granularity::per_axis(0))),
        "int3 last axis" => {
            Some(symmetric(Bits::B3).with_granularity(Granularity::per_axis(axes - 1)))
        }
        "uint4 affine" => Some(QuantScheme::affine(Bits::B4)),
        "uint2 affine axis 0" => {
            Some(QuantScheme::affine(Bits::B2).with_granularity(Granularity::per_axis(0)))
        }
        other => panic!("unknown scheme {other}"),
    }
}

/// Largest difference relative to the largest entry.
fn check(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (a - b).abs() <= 1e-4 * scale,
            "{what}[{i}]: {a}, torch has {b}"
        );
    }
}

fn run<L: Layer<f32>>(
    name: &str,
    case: &Case,
    mut layer: L,
    quantize: impl Fn(&mut L, usize, QuantScheme),
) {
    for (k, shape) in case.shapes.iter().enumerate() {
        if let Some(scheme) = scheme(&case.scheme, shape.len()) {
            quantize(&mut layer, k, scheme);
        }
    }
    // Steps and zero points come in the order of the weights.
    let fill = |layer: &mut L, kind, values: &[Option<Vec<f32>>]| {
        let parameters = layer
            .parameters_mut()
            .iter_mut()
            .filter(|p| p.kind() == kind);
        let mut values = values.iter().flatten();
        for p in parameters {
            p.values_mut()
                .copy_from_slice(values.next().expect("one for each quantizer"));
        }
        assert!(values.next().is_none());
    };
    fill(&mut layer, ParameterKind::Step, &case.steps);
    fill(&mut layer, ParameterKind::ZeroPoint, &case.zero_points);

    let array = |values: &[f32], cols| {
        Array2::from_shape_vec((case.batch, cols), values.to_vec()).expect("a full array")
    };
    let (x, c) = (
        array(&case.x, layer.inputs()),
        array(&case.c, layer.outputs()),
    );
    let mut cache = Cache::new();
    let y = layer.forward(x.view(), &mut cache).unwrap();
    let (dx, grads) = layer.backward(x.view(), &mut cache, c.view()).unwrap();
    check(&format!("{name}: y"), y.as_slice().unwrap(), &case.y);
    check(&format!("{name}: dx"), dx.as_slice().unwrap(), &case.dx);
    let of = |kind| {
        let pairs = layer.parameters().iter().zip(grads.iter());
        pairs
            .filter(move |(p, _)| p.kind() == kind)
            .map(|(_, g)| g.to_vec())
            .collect::<Vec<_>>()
    };
    let flat = |values: &[Option<Vec<f32>>]| values.iter().flatten().cloned().collect::<Vec<_>>();
    let bias: Vec<_> = case.d_bias.iter().cloned().collect();
    for (kind, expected) in [
        (ParameterKind::Weight, &case.d_weights),
        (ParameterKind::Step, &flat(&case.d_steps)),
        (ParameterKind::ZeroPoint, &flat(&case.d_zero_points)),
        (ParameterKind::Bias, &bias),
    ] {
        let found = of(kind);
        assert_eq!(found.len(), expected.len(), "{name}: {kind:?}");
        for (k, (a, b)) in found.iter().zip(expected).enumerate() {
            check(&format!("{name}: {kind:?} {k}"), a, b);
        }
    }
}

fn train(case: &Case, route: Route) -> TtLinear {
    let layout = if case.layout == "split" {
        Layout::Split
    } else {
        Layout::Interleaved
    };
    let modes = MatrixModes::new(layout, case.row_modes.clone(), case.col_modes.clone()).unwrap();
    let cores = case.shapes.iter().zip(&case.weights).map(|(s, w)| {
        TtMatrixCore::new(Array4::from_shape_vec((s[0], s[1], s[2], s[3]), w.clone()).unwrap())
    });
    let cores = cores.collect::<Result<_, _>>().unwrap();
    TtLinear::from_train(&TtMatrix::from_cores(modes, cores).unwrap())
        .unwrap()
        .with_route(route)
}

fn tucker(case: &Case, route: Route) -> TuckerLinear {
    let core = ArrayD::from_shape_vec(IxDyn(&case.shapes[0]), case.weights[0].clone()).unwrap();
    let factors = case.shapes[1..]
        .iter()
        .zip(&case.weights[1..])
        .map(|(s, w)| Array2::from_shape_vec((s[0], s[1]), w.clone()).unwrap());
    let network = Tucker::from_parts(core, factors.collect()).unwrap();
    TuckerLinear::from_tucker(&network, case.rows)
        .unwrap()
        .with_route(route)
}

#[test]
fn outputs_and_gradients_equal_pytorch() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/torch.json")).unwrap();
    let init = StepInit::MinMax;
    for (index, case) in fixture.cases.iter().enumerate() {
        for route in [Route::Auto, Route::Dense, Route::Cores] {
            let name = format!("case {index}, {} {} {route:?}", case.kind, case.scheme);
            match case.kind.as_str() {
                "train" => {
                    let mut layer = train(case, route);
                    if let Some(bias) = &case.bias {
                        layer = layer.with_bias(bias.clone()).unwrap();
                    }
                    run(&name, case, layer, |l, k, s| {
                        l.quantize_weight(k, s, init).unwrap()
                    });
                }
                "tucker" => {
                    let mut layer = tucker(case, route);
                    if let Some(bias) = &case.bias {
                        layer = layer.with_bias(bias.clone()).unwrap();
                    }
                    run(&name, case, layer, |l, k, s| {
                        l.quantize_weight(k, s, init).unwrap()
                    });
                }
                _ => {
                    let (s, w) = (&case.shapes[0], case.weights[0].clone());
                    let layer = DenseLinear::new(Array2::from_shape_vec((s[0], s[1]), w).unwrap());
                    run(&name, case, layer.unwrap(), |l, k, s| {
                        l.quantize_weight(k, s, init).unwrap();
                    });
                }
            }
        }
    }
    assert_eq!(fixture.cases.len(), 48);
}
