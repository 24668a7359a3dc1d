//! Observers against ONNX Runtime's calibrators, on the fixture that `fixtures/ort_calibrators.py` writes.

use quant_core::{
    Bits, Entropy, Granularity, GroupObserver, Histogram, HistogramSpan, MinMax, MovingAverage,
    MseObserver, Observer, Percentile, QuantError, QuantParams, QuantScheme, Range, mse_optimal,
};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/ort_calibrators.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

fn counts(case: &Value) -> Vec<u64> {
    case["counts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_u64().unwrap())
        .collect()
}

fn histogram(case: &Value, span: HistogramSpan) -> Histogram {
    let number = |key: &str| case[key].as_f64().unwrap() as f32;
    let range = Range::new(number("min"), number("max")).unwrap();
    Histogram::from_counts(span, counts(case), number("threshold"), range).unwrap()
}

fn check_bins(case: &Value, kind: &str, found: impl Fn(f64) -> (usize, usize)) -> usize {
    let rows = case[kind].as_array().unwrap();
    for row in rows {
        let at = |i: usize| row[i].as_u64().unwrap() as usize;
        let parameter = row[0].as_f64().unwrap();
        let name = &case["name"];
        let bins = case["counts"].as_array().unwrap().len();
        assert_eq!(
            found(parameter),
            (at(1), at(2)),
            "{kind} {parameter} of {name}, {bins} bins"
        );
    }
    rows.len()
}

#[test]
fn ranges_are_onnx_runtimes_to_the_bin() {
    let fixture = fixture();
    let mut checked = 0;
    for case in fixture["symmetric"].as_array().unwrap() {
        let histogram = histogram(case, HistogramSpan::Symmetric);
        checked += check_bins(case, "percentile", |p| {
            histogram.percentile_bins(p).unwrap()
        });
        checked += check_bins(case, "entropy", |l| {
            histogram.entropy_bins(l as usize).unwrap()
        });
    }
    for case in fixture["magnitude"].as_array().unwrap() {
        let histogram = histogram(case, HistogramSpan::Magnitude);
        checked += check_bins(case, "percentile", |p| {
            histogram.percentile_bins(p).unwrap()
        });
    }
    assert!(checked > 150, "{checked}");
}

#[test]
fn streams_are_counted_as_onnx_runtime_counts_them() {
    let mut streams = 0;
    for case in fixture()["symmetric"].as_array().unwrap() {
        let batches = case["batches"].as_array().unwrap();
        if batches.is_empty() {
            continue;
        }
        streams += 1;
        let mut found = Histogram::new(HistogramSpan::Symmetric, 512, 1 << 20).unwrap();
        batches
            .iter()
            .for_each(|batch| found.add(&floats(batch)).unwrap());
        let want = counts(case);
        assert_eq!(found.counts().len(), want.len(), "{}", case["name"]);
        // Their edges are rounded to f32: a value next to an edge may stand in the next bin.
        let moved: u64 = found
            .counts()
            .iter()
            .zip(&want)
            .map(|(a, b)| a.abs_diff(*b))
            .sum();
        assert!(moved <= 2, "{}: {moved} values in other bins", case["name"]);
        assert_eq!(found.counts().iter().sum::<u64>(), want.iter().sum::<u64>());
        let threshold = case["threshold"].as_f64().unwrap();
        assert!((f64::from(found.threshold()) - threshold).abs() <= 1e-6 * threshold);
    }
    assert!(streams >= 5);
}

#[test]
fn memory_is_bounded_and_nothing_is_lost() {
    for span in [HistogramSpan::Symmetric, HistogramSpan::Magnitude] {
        let mut found = Histogram::new(span, 64, 250).unwrap();
        let mut values = 0;
        for k in 0..60 {
            let batch: Vec<f32> = (-50..50).map(|i| i as f32 * 1.7f32.powi(k)).collect();
            found.add(&batch).unwrap();
            values += batch.len() as u64;
            assert!(found.counts().len() <= 250);
            assert_eq!(found.counts().iter().sum::<u64>(), values);
        }
        assert!(found.threshold() >= 50.0 * 1.7f32.powi(59));
        let (low, high) = found.percentile_bins(99.9).unwrap();
        assert!(low <= high && high <= 250);
    }
}

#[test]
fn a_stream_of_zeros_keeps_its_count() {
    let mut found = Histogram::new(HistogramSpan::Symmetric, 8, 16).unwrap();
    found.add(&[0.0, 0.0]).unwrap();
    found.add(&[1.0]).unwrap();
    assert_eq!(found.counts(), [0, 0, 0, 0, 2, 0, 0, 1]);
}

#[test]
fn every_observer_gives_parameters_and_refuses_what_it_cannot_use() {
    let scheme = QuantScheme::affine(Bits::B8);
    let all: [fn() -> Box<dyn Observer>; 5] = [
        || Box::new(MinMax::new()),
        || Box::new(MovingAverage::new(0.1).unwrap()),
        || Box::new(Percentile::new(99.9, HistogramSpan::Symmetric).unwrap()),
        || Box::new(Entropy::new().unwrap()),
        || Box::new(MseObserver::new().unwrap()),
    ];
    for (i, new) in all.iter().enumerate() {
        let mut observer = new();
        assert_eq!(
            observer.scale_and_zero_point(&scheme),
            Err(QuantError::NoData),
            "{i}"
        );
        let data: Vec<f32> = (0..4000)
            .map(|i| ((i * 7919 % 4001) as f32 / 500.0 - 2.0).sin())
            .collect();
        for batch in data.chunks(1000) {
            observer.observe(batch).unwrap();
        }
        let before = observer.scale_and_zero_point(&scheme).unwrap();
        assert!(observer.observe(&[1.0, f32::NAN]).is_err());
        observer.observe(&[]).unwrap();
        assert_eq!(
            observer.scale_and_zero_point(&scheme).unwrap(),
            before,
            "{i}"
        );
        assert!((before.0 - 2.0 / 255.0).abs() < 2e-3, "{i}: {before:?}");
    }
    assert!(MovingAverage::new(0.0).is_err());
    assert!(Percentile::new(101.0, HistogramSpan::Symmetric).is_err());
    assert!(Histogram::new(HistogramSpan::Symmetric, 3, 8).is_err());
}

#[test]
fn the_mse_observer_is_nearly_as_good_as_the_tensor_itself() {
    let data: Vec<f32> = (0..5000)
        .map(|i| ((i * 37 % 4999) as f32 / 1700.0).powi(3) - 5.0)
        .collect();
    for bits in [Bits::B3, Bits::B4, Bits::B6] {
        let scheme = QuantScheme::symmetric(bits);
        let mut observer = MseObserver::new().unwrap();
        data.chunks(500)
            .for_each(|batch| observer.observe(batch).unwrap());
        let (scale, zero_point) = observer.scale_and_zero_point(&scheme).unwrap();
        let params = QuantParams::new(scheme, vec![scale], vec![zero_point]).unwrap();
        let y = quant_core::fake_quantize(&data, &[5000], &params).unwrap();
        let error: f64 = data
            .iter()
            .zip(&y)
            .map(|(x, y)| f64::from(x - y).powi(2))
            .sum();
        let best = mse_optimal(&data, &scheme).unwrap().squared_error;
        assert!(error <= 1.01 * best, "{bits} bits: {error} against {best}");
    }
}

#[test]
fn groups_are_observed_each_on_their_own() {
    let data: Vec<f32> = (0..60)
        .map(|i| (i % 7) as f32 - 3.0 + i as f32 / 10.0)
        .collect();
    for granularity in [
        Granularity::PerTensor,
        Granularity::per_axis(0),
        Granularity::per_axis(2),
        Granularity::per_block(1, 2).unwrap(),
        Granularity::per_block(2, 3).unwrap(),
    ] {
        let scheme = QuantScheme::affine(Bits::B8).with_granularity(granularity);
        let mut observers = GroupObserver::new(&[3, 4, 5], scheme, MinMax::new()).unwrap();
        observers.observe(&data).unwrap();
        observers
            .observe(&data.iter().map(|x| x * 0.5).collect::<Vec<_>>())
            .unwrap();
        assert!(observers.observe(&data[1..]).is_err());
        let want = QuantParams::min_max(&data, &[3, 4, 5], &scheme).unwrap();
        assert_eq!(observers.params().unwrap(), want, "{granularity:?}");
    }
}
