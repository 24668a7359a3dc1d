use ndarray::{Array2, array};
use quant_core::{Bits, Granularity, QuantScheme};

use super::*;
use crate::{DenseLinear, Layer, QatError, QatSchedule, StepInit};

fn loss_of(objective: Objective<'_>, y: &Array2<f32>) -> f64 {
    objective.loss(y.view(), &[1, 0]).unwrap().0
}

/// Gradients of every objective against central differences.
#[test]
fn objectives_have_the_right_gradients() {
    let y = array![[0.3f32, -1.2, 2.0], [1.5, 0.1, -0.4]];
    let teacher = array![[1.0f32, 0.0, -1.0], [0.2, 0.5, 0.9]];
    let outputs = |through| Objective::Outputs {
        target: teacher.view(),
        through,
    };
    for objective in [
        Objective::Labels(&[2, 0]),
        Objective::Logits {
            teacher: teacher.view(),
            temperature: 2.0,
        },
        outputs(Activation::Identity),
        outputs(Activation::Relu),
        outputs(Activation::Gelu),
    ] {
        let (_, d) = objective.loss(y.view(), &[1, 0]).unwrap();
        for at in [(0, 0), (0, 2), (1, 0), (1, 1)] {
            let h = 1e-2;
            let moved = |delta: f32| {
                let mut y = y.clone();
                y[at] += delta;
                loss_of(objective, &y)
            };
            let numeric = (moved(h) - moved(-h)) / f64::from(2.0 * h);
            assert!(
                (f64::from(d[at]) - numeric).abs() < 1e-3,
                "{objective:?} {at:?}: {} {numeric}",
                d[at]
            );
        }
    }
}

#[test]
fn losses_have_their_known_values() {
    let y = array![[0.0f32, 0.0], [0.0, 0.0]];
    assert!((loss_of(Objective::Labels(&[0, 1]), &y) - 2f64.ln()).abs() < 1e-6);
    let same = Objective::Logits {
        teacher: y.view(),
        temperature: 3.0,
    };
    assert!(loss_of(same, &y).abs() < 1e-9);
    assert_eq!(
        accuracy(array![[1.0, 2.0], [3.0, 1.0]].view(), &[1, 1]).unwrap(),
        0.5
    );
    let wrong = Objective::Labels(&[0, 2])
        .loss(y.view(), &[0, 1])
        .unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "label: expected an index below 2, found 2 at position 1"
    );
}

/// Two rings in the plane, learned by a small quantized network; the same seed gives the same bits.
#[test]
fn a_quantized_network_learns_rings() {
    let x = Array2::from_shape_fn((400, 2), |(i, j)| {
        let (angle, radius) = (i as f32 * 0.37, if i % 2 == 0 { 1.0 } else { 2.0 });
        radius * if j == 0 { angle.cos() } else { angle.sin() }
    });
    let labels: Vec<i64> = (0..400).map(|i| i % 2).collect();
    let run = || {
        let scheme = QuantScheme::symmetric(Bits::B4).with_granularity(Granularity::per_axis(0));
        let mut first = DenseLinear::random(24, 2, 1).unwrap().with_zero_bias();
        let mut second = DenseLinear::random(2, 24, 2).unwrap().with_zero_bias();
        first.quantize(scheme, StepInit::Mse).unwrap();
        second.quantize(scheme, StepInit::Mse).unwrap();
        let mut network = Network::new(vec![
            (Box::new(first), Activation::Relu),
            (Box::new(second), Activation::Identity),
        ])
        .unwrap();
        let config = TrainConfig {
            steps: 300,
            batch: 64,
            rate: 2e-2,
            qat: QatSchedule {
                float: 100,
                observe: 20,
                freeze_from: 280,
            },
            ..TrainConfig::default()
        };
        let mut calls = 0;
        let report = train(
            &mut network,
            x.view(),
            Objective::Labels(&labels),
            &config,
            &mut |_, _| calls += 1,
        )
        .unwrap();
        assert_eq!((calls, report.curve.len()), (300, 100));
        (network.predict(x.view()).unwrap(), report)
    };
    let (y, report) = run();
    assert!(
        accuracy(y.view(), &labels).unwrap() > 0.97,
        "{:?}",
        report.curve
    );
    assert_eq!((y, report), run());
}

#[test]
fn wrong_networks_and_data_are_errors() {
    let dense = |m, n| Box::new(DenseLinear::random(m, n, 1).unwrap()) as Box<dyn Layer<f32>>;
    let pair = Network::new(vec![
        (dense(3, 2), Activation::Relu),
        (dense(2, 4), Activation::Relu),
    ]);
    assert_eq!(
        pair.err().map(|e| e.to_string()).as_deref(),
        Some("inputs of a layer: expected 3 entries, found 4")
    );
    let mut network = Network::new(vec![(dense(3, 2), Activation::Identity)]).unwrap();
    let x = Array2::zeros((4, 2));
    let config = TrainConfig::default();
    let error = train(
        &mut network,
        x.view(),
        Objective::Labels(&[0]),
        &config,
        &mut |_, _| {},
    )
    .unwrap_err();
    assert!(matches!(
        error,
        QatError::Length {
            expected: 4,
            found: 1,
            ..
        }
    ));
    let nan = Array2::from_elem((4, 2), f32::NAN);
    let error = train(
        &mut network,
        nan.view(),
        Objective::Labels(&[0; 4]),
        &config,
        &mut |_, _| {},
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "loss is not finite at step 0");
}

/// A run that is stopped, written, read and gone on with on a network built anew ends as one that was never stopped,
/// whichever phase of its schedule it is stopped in.
#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    let x = Array2::from_shape_fn((50, 6), |(i, j)| ((i * 6 + j) as f32 * 12.9898).sin());
    let target = Array2::from_shape_fn((50, 3), |(i, j)| (i as f32 * 0.1 + j as f32).cos());
    let build = || {
        let scheme = QuantScheme::symmetric(Bits::B4).with_granularity(Granularity::per_axis(0));
        let mut first = DenseLinear::random(8, 6, 1).unwrap().with_zero_bias();
        first.quantize(scheme, StepInit::Mse).unwrap();
        let second = DenseLinear::random(3, 8, 2).unwrap();
        Network::new(vec![
            (Box::new(first), Activation::Relu),
            (Box::new(second), Activation::Identity),
        ])
        .unwrap()
    };
    let objective = Objective::Outputs {
        target: target.view(),
        through: Activation::Identity,
    };
    let config = TrainConfig {
        steps: 40,
        batch: 16,
        qat: QatSchedule {
            float: 10,
            observe: 8,
            freeze_from: 33,
        },
        ..TrainConfig::default()
    };
    let go = |network: &mut Network<'_>, from, until| {
        let quiet = &mut |_, _| {};
        train_until(network, x.view(), objective, &config, from, until, quiet).unwrap()
    };
    let mut whole = build();
    let expected = go(&mut whole, None, 40);
    for stop in [0, 5, 10, 14, 18, 25, 33, 39, 40] {
        let saved = go(&mut build(), None, stop);
        assert_eq!(saved.steps(), stop);
        let json = serde_json::to_string(&saved).unwrap();
        let read: TrainState = serde_json::from_str(&json).unwrap();
        let mut network = build();
        assert_eq!(
            go(&mut network, Some(read), 40),
            expected,
            "stopped at {stop}"
        );
        assert_eq!(
            network.predict(x.view()).unwrap(),
            whole.predict(x.view()).unwrap()
        );
    }
    let other = &mut Network::new(vec![(
        Box::new(DenseLinear::random(3, 6, 1).unwrap()) as Box<dyn Layer<f32>>,
        Activation::Identity,
    )])
    .unwrap();
    let error = train_until(
        other,
        x.view(),
        objective,
        &config,
        Some(expected),
        40,
        &mut |_, _| {},
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "layers of a saved run: expected 1 entries, found 2"
    );
}

/// Every sample once in each pass, another order in each, and no memory of how a step was reached.
#[test]
fn batches_depend_on_seed_and_step_alone() {
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    let mut order = run::Order::new(10, 7);
    for t in 0..5 {
        order.batch(t, 4, &mut rows);
        all.extend_from_slice(&rows);
    }
    let (first, second) = all.split_at(10);
    assert_ne!(first, second);
    for pass in [first, second] {
        let mut pass = pass.to_vec();
        pass.sort_unstable();
        assert_eq!(pass, (0..10).collect::<Vec<_>>());
    }
    run::Order::new(10, 7).batch(3, 4, &mut rows);
    assert_eq!(rows, all[12..16]);
}
