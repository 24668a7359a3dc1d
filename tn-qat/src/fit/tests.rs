use ndarray::Array2;
use quant_core::{Bits, QuantScheme};
use tn_formats::{Layout, MatrixModes};

use super::*;
use crate::StepInit;

fn wave(rows: usize, cols: usize, a: f32) -> Array2<f32> {
    Array2::from_shape_fn((rows, cols), |(i, j)| {
        ((i * cols + j) as f32 * a).sin() + 0.3
    })
}

/// A train is found again from its outputs, in both layouts, bias included.
#[test]
fn least_squares_recover_a_train() {
    for (layout, rows, cols, ranks) in [
        (Layout::Interleaved, vec![3, 4], vec![5, 2], vec![3]),
        (
            Layout::Interleaved,
            vec![2, 3, 2],
            vec![3, 2, 2],
            vec![2, 2],
        ),
        (Layout::Split, vec![6], vec![8], vec![2]),
        (Layout::Interleaved, vec![6], vec![8], vec![]),
    ] {
        let modes = MatrixModes::new(layout, rows, cols).unwrap();
        let bias = (0..modes.rows()).map(|i| i as f32).collect();
        let truth = TtLinear::<f32>::random(&modes, &ranks, 1)
            .unwrap()
            .with_bias(bias)
            .unwrap();
        let x = wave(60, modes.cols(), 12.9898);
        let y = truth.forward(x.view(), &mut Cache::new()).unwrap();
        let mut layer = TtLinear::<f32>::random(&modes, &ranks, 2)
            .unwrap()
            .with_zero_bias();
        let config = FitConfig {
            sweeps: 60,
            ridge: 0.0,
            train: TrainConfig {
                steps: 0,
                ..TrainConfig::default()
            },
            ..FitConfig::default()
        };
        let report = fit_train(&mut layer, x.view(), y.view(), &config).unwrap();
        assert!(
            report.after < 1e-4,
            "{modes:?}: {report} {:?}",
            report.sweeps
        );
        assert!(
            report.sweeps.windows(2).all(|w| w[1] <= w[0] + 1e-9),
            "{:?}",
            report.sweeps
        );
    }
}

/// With quantizers and an activation, every stage lowers the error on a layer that a train cannot represent.
#[test]
fn gradients_go_below_least_squares() {
    let modes = MatrixModes::new(Layout::Interleaved, vec![4, 4], vec![4, 4]).unwrap();
    let x = wave(300, 16, 78.233);
    let y = x.dot(&wave(16, 16, 0.71).t());
    let mut layer = TtLinear::<f32>::random(&modes, &[5], 2)
        .unwrap()
        .with_zero_bias();
    layer
        .quantize(QuantScheme::symmetric(Bits::B3), StepInit::Mse)
        .unwrap();
    let config = FitConfig {
        through: Activation::Gelu,
        train: TrainConfig {
            steps: 300,
            batch: 64,
            rate: 5e-3,
            ..TrainConfig::default()
        },
        ..FitConfig::default()
    };
    let report = fit_train(&mut layer, x.view(), y.view(), &config).unwrap();
    assert!(
        report.solved < report.before && report.after < report.solved,
        "{report}"
    );
    let mut other = TtLinear::<f32>::random(&modes, &[5], 2).unwrap();
    let wrong = fit_layer(&mut other, x.view(), x.slice(ndarray::s![.., ..3]), &config);
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "target outputs: expected shape [300, 16], found [300, 3]"
    );
}
