//! The experiments on the digits example.

use std::fs;

use serde_json::Value;

use crate::common::{digits, failure, stdout, structure};

fn study(args: &[&str]) -> Value {
    let model = digits("model.onnx");
    let (kind, rest) = args.split_first().unwrap();
    let mut all = vec!["study", kind, model.to_str().unwrap(), "--json", "--quiet"];
    all.extend(rest);
    serde_json::from_str(&stdout(&all)).unwrap()
}

#[test]
fn json_of_ranks_and_the_plot_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("ranks.svg");
    let report = study(&[
        "ranks",
        "--rank",
        "8",
        "--reduced",
        "4",
        "-o",
        plot.to_str().unwrap(),
    ]);
    insta::assert_snapshot!(structure(&report));
    assert_eq!(report["layers"][0]["name"], "fc2.weight");
    assert_eq!(report["result"]["rows"].as_array().unwrap().len(), 5 * 7);
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("int4"));
}

#[test]
fn json_of_qat_on_the_whole_network() {
    let (data, held_out) = (digits("train.npz"), digits("test.npz"));
    let report = study(&[
        "qat",
        "--data",
        data.to_str().unwrap(),
        "--held-out",
        held_out.to_str().unwrap(),
        "--ranks",
        "6",
        "--bits",
        "8,2",
        "--steps",
        "20",
    ]);
    insta::assert_snapshot!(structure(&report));
    let rows = report["result"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(report["result"]["original"].as_f64().unwrap() > 0.9);
    assert!(
        rows.iter()
            .all(|r| r["qat"]["accuracy"].as_f64().unwrap() > 0.1)
    );
}

#[test]
fn a_study_reads_as_text() {
    let text = stdout(&[
        "study",
        "gauge",
        digits("model.onnx").to_str().unwrap(),
        "--layer",
        "fc1",
        "--ranks",
        "4",
        "--modes",
        "8x8:16x32",
        "--quiet",
    ]);
    assert!(text.starts_with("fc1.weight of "), "{text}");
    for part in ["modes [16, 32] x [8, 8]", "| rank |", "median factor"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_cannot_be_studied_is_said() {
    let model = digits("model.onnx");
    let model = model.to_str().unwrap();
    let check = |args: &[&str], code: i32, want: &str| {
        let mut all = vec!["study"];
        all.extend(args);
        let (found, stderr) = failure(&all);
        assert_eq!(found, code, "{stderr}");
        assert!(stderr.contains(want), "{stderr}");
    };
    check(&["rank", model], 2, "unrecognized subcommand 'rank'");
    check(
        &["bits", model, "--layer", "fc9"],
        1,
        "matches none of fc1.weight, fc2.weight",
    );
    check(
        &["bits", model, "--modes", "2x2:4"],
        2,
        "--modes: expected modes of",
    );
    check(
        &["ranks", model, "--tolerances", "0"],
        2,
        "expected a relative error above 0",
    );
    check(&["qat", model, "--held-out", "x.npz"], 2, "--data");
    check(&["gauge", "absent.onnx"], 1, "absent.onnx: cannot read");
}
