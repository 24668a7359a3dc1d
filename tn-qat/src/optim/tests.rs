use super::*;

fn parameter(kind: ParameterKind, values: &[f64]) -> Vec<Parameter<f64>> {
    vec![Parameter::new("p", kind, &[values.len()], values.to_vec()).unwrap()]
}

fn gradient(parameters: &[Parameter<f64>], values: &[f64]) -> Gradients<f64> {
    let mut g = Gradients::zeros(parameters);
    g.slot(0).copy_from_slice(values);
    g
}

/// Five steps on gradients `cos(t + i)` from (1, -2, 0.5), by `torch.optim` 2.15 (`tests/fixtures/make.py` prints them).
#[test]
fn trajectories_equal_pytorch() {
    let run = |optimizer: &mut dyn Optimizer<f64>| {
        let mut p = parameter(ParameterKind::Weight, &[1.0, -2.0, 0.5]);
        for t in 0..5 {
            let g: Vec<f64> = (0..3).map(|i| f64::from(t + i).cos()).collect();
            let g = gradient(&p, &g);
            optimizer.step(0, &mut p, &g, 0.05).unwrap();
        }
        p[0].values().to_vec()
    };
    let close = |a: Vec<f64>, b: [f64; 3]| {
        assert!(
            a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12),
            "{a:?} {b:?}"
        )
    };
    close(
        run(&mut AdamW::new((0.9, 0.999), 1e-8, 0.1).unwrap()),
        ADAMW,
    );
    close(run(&mut Sgd::new(0.9, 0.0).unwrap()), SGD);
}

const ADAMW: [f64; 3] = [0.8738290988319966, -1.926814130419571, 0.667455690092747];
const SGD: [f64; 3] = [0.885459383078334, -1.8570161320955074, 0.7690496439831513];

#[test]
fn a_saved_optimizer_goes_on_bit_for_bit() {
    let step = |adam: &mut AdamW<f64>, p: &mut Vec<Parameter<f64>>, t: f64| {
        let g = gradient(p, &[t.sin(), t.cos()]);
        adam.step(0, p, &g, 0.01).unwrap();
    };
    let (mut adam, mut p) = (
        AdamW::default(),
        parameter(ParameterKind::Weight, &[0.3, -0.7]),
    );
    (0..5).for_each(|t| step(&mut adam, &mut p, f64::from(t)));
    let (saved, saved_p) = (
        serde_json::to_string(&adam).unwrap(),
        serde_json::to_string(&p).unwrap(),
    );
    (5..9).for_each(|t| step(&mut adam, &mut p, f64::from(t)));
    let mut again: AdamW<f64> = serde_json::from_str(&saved).unwrap();
    let mut again_p: Vec<Parameter<f64>> = serde_json::from_str(&saved_p).unwrap();
    (5..9).for_each(|t| step(&mut again, &mut again_p, f64::from(t)));
    assert_eq!((p, adam), (again_p, again));
}

#[test]
fn steps_stay_positive_and_move_relative_to_their_size() {
    let mut p = parameter(ParameterKind::Step, &[1e-3, 10.0]);
    let mut adam = AdamW::default();
    for _ in 0..1000 {
        let g = gradient(&p, &[1.0, 1.0]);
        adam.step(0, &mut p, &g, 1.0).unwrap();
    }
    assert!(p[0].values().iter().all(|&s| s > 0.0));
    let mut p = parameter(ParameterKind::Step, &[1e-3, 10.0]);
    let g = gradient(&p, &[2.0, 2.0]);
    AdamW::default().step(0, &mut p, &g, 0.01).unwrap();
    let ratios: Vec<f64> = p[0]
        .values()
        .iter()
        .zip([1e-3, 10.0])
        .map(|(a, b)| a / b)
        .collect();
    assert!((ratios[0] - (-0.01f64).exp()).abs() < 1e-5 && (ratios[0] - ratios[1]).abs() < 1e-4);
}

#[test]
fn weights_alone_decay() {
    for (kind, expected) in [
        (ParameterKind::Weight, 0.99),
        (ParameterKind::Bias, 1.0),
        (ParameterKind::Step, 1.0),
    ] {
        let mut p = parameter(kind, &[1.0]);
        let g = gradient(&p, &[0.0]);
        AdamW::new((0.9, 0.999), 1e-8, 0.1)
            .unwrap()
            .step(0, &mut p, &g, 0.1)
            .unwrap();
        assert_eq!(p[0].values(), [expected]);
    }
}

#[test]
fn clipping_keeps_direction_and_limits_the_common_norm() {
    let p = parameter(ParameterKind::Weight, &[0.0, 0.0]);
    let (mut a, mut b) = (gradient(&p, &[3.0, 0.0]), gradient(&p, &[0.0, 4.0]));
    assert_eq!(clip_gradients(&mut [&mut a, &mut b], 10.0), 5.0);
    assert_eq!(a.get(0).unwrap(), [3.0, 0.0]);
    assert_eq!(clip_gradients(&mut [&mut a, &mut b], 1.0), 5.0);
    assert!((a.norm_sq() + b.norm_sq() - 1.0).abs() < 1e-12);
    let mut bad = gradient(&p, &[f64::NAN, 1.0]);
    assert!(clip_gradients(&mut [&mut bad], 1.0).is_nan());
}

#[test]
fn wrong_parameters_are_errors() {
    assert!(AdamW::<f64>::new((1.0, 0.9), 1e-8, 0.0).is_err());
    assert_eq!(
        Sgd::<f64>::new(1.5, 0.0).unwrap_err().to_string(),
        "momentum is 1.5, expected 0 <= momentum < 1"
    );
    let mut adam = AdamW::default();
    let mut two = parameter(ParameterKind::Weight, &[0.0, 0.0]);
    let g = gradient(&two, &[0.0, 0.0]);
    adam.step(3, &mut two, &g, 0.1).unwrap();
    let mut three = parameter(ParameterKind::Weight, &[0.0; 3]);
    let g = gradient(&three, &[0.0; 3]);
    assert!(adam.step(3, &mut three, &g, 0.1).is_err());
}
