use ndarray::Array2;
use quant_core::Bits;
use tn_formats::{Layout, MatrixModes};

use super::*;
use crate::Activation;

fn weight() -> (Array2<f32>, MatrixModes) {
    let w = Array2::from_shape_fn((24, 36), |(i, j)| {
        ((i * j) as f32 * 0.21).sin() + (i as f32 - j as f32).abs() * 0.02
    });
    (
        w,
        MatrixModes::new(Layout::Interleaved, vec![4, 6], vec![6, 6]).unwrap(),
    )
}

/// Every cell of the table, every series, and the sentences are there; JSON goes there and back; the SVG is one document.
fn check<S: Study + for<'a> serde::Deserialize<'a>>(study: &S, rows: usize) -> StudyReport {
    let report = study.report();
    assert_eq!(report.rows.len(), rows);
    assert!(report.rows.iter().all(|r| r.len() == report.columns.len()));
    assert!(!report.series.is_empty() && !report.conclusion.is_empty());
    let text = report.markdown();
    assert!(
        text.starts_with("### ") && text.lines().filter(|l| l.starts_with('|')).count() == rows + 2,
        "{text}"
    );
    let svg = report.svg().unwrap();
    assert!(
        svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("polyline")
    );
    let json = serde_json::to_string(study).unwrap();
    assert_eq!(
        serde_json::from_str::<S>(&json).unwrap().report().rows,
        report.rows
    );
    report
}

#[test]
fn ranks_rise_to_the_noise() {
    let (w, modes) = weight();
    let config = RanksConfig {
        rank: 6,
        reduced: vec![4, 2],
        bits: vec![Bits::B8, Bits::B3],
        ..RanksConfig::default()
    };
    let study = ranks(w.view(), &modes, &config).unwrap();
    let report = check(&study, 3 * config.tolerances.len() + 2 * 2);
    assert_eq!(report.conclusion.len(), 2 + 2 * 4);
    // Noise falls with bits, and no count exceeds the rank of the train.
    let noise = |bits| {
        study
            .rows
            .iter()
            .find(|r| r.bits == Some(bits))
            .unwrap()
            .noise
    };
    assert!(noise(Bits::B8) < noise(Bits::B3) / 4.0);
    assert!(study.rows.iter().flat_map(|r| &r.ranks).all(|&r| r <= 6));
    assert!(
        study
            .reduced
            .iter()
            .all(|r| r.reduced <= r.requantized * 1.5)
    );
}

#[test]
fn more_bits_cost_bytes_and_lower_the_error() {
    let (w, modes) = weight();
    let study = bits(
        w.view(),
        &modes,
        &BitsConfig {
            ranks: vec![3, 6],
            ..BitsConfig::default()
        },
    )
    .unwrap();
    check(&study, 14);
    for pair in study.rows.windows(2).filter(|p| p[0].rank == p[1].rank) {
        assert!(pair[0].bytes < pair[1].bytes && pair[1].symmetric < pair[0].symmetric);
    }
}

#[test]
fn a_better_gauge_costs_no_bytes() {
    let (w, modes) = weight();
    let config = GaugeConfig {
        ranks: vec![4, 6],
        ..GaugeConfig::default()
    };
    let study = gauge(w.view(), &modes, &config).unwrap();
    check(&study, 6);
    assert!(
        study
            .rows
            .iter()
            .all(|r| r.left > 0.0 && r.symmetric > 0.0 && r.rotated > 0.0)
    );
}

#[test]
fn training_with_quantization_beats_quantizing_after_it() {
    let (w, modes) = weight();
    let x = Array2::from_shape_fn((400, 36), |(b, j)| ((b * 36 + j) as f32 * 12.9898).sin());
    let layer = QatLayer {
        weight: w,
        bias: Some(vec![0.1; 24]),
        activation: Activation::Identity,
        modes: Some(modes),
    };
    let problem = QatProblem {
        layers: vec![layer],
        x: x.view(),
        held_out: x.slice(ndarray::s![..100, ..]),
        labels: None,
    };
    let config = QatConfig {
        ranks: vec![6],
        bits: vec![Bits::B8, Bits::B2],
        steps: 150,
        ..QatConfig::default()
    };
    let mut calls = Vec::new();
    let study = qat(&problem, &config, &mut |done, total| {
        calls.push((done, total))
    })
    .unwrap();
    assert_eq!(calls, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    check(&study, 2);
    let two = &study.rows[1];
    assert!(two.qat.error < two.ptq.error, "{two:?}");
    let none = QatProblem {
        layers: Vec::new(),
        ..problem
    };
    assert!(qat(&none, &config, &mut |_, _| {}).is_err());
}
