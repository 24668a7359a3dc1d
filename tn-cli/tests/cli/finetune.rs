//! Training from the command line.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use onnx_bridge::Model;
use serde_json::Value;

use crate::common::{digits, failure, names, stdout, structure, tnq};

const NETWORK: &str = "--format low-rank --ranks 8 --bits 4 --layer fc3=keep";

/// The arguments of `tnq compress --finetune` on the digits, with more of them.
fn args(out: &Path, more: &str) -> Vec<String> {
    let [model, data] = ["model.onnx", "train.npz"].map(|f| digits(f).display().to_string());
    let out = out.display().to_string();
    let mut args = ["compress", &model, "-o", &out, "--finetune", &data]
        .map(String::from)
        .to_vec();
    args.extend(["--json", "--quiet"].map(String::from));
    args.extend(
        NETWORK
            .split(' ')
            .chain(more.split_whitespace())
            .map(String::from),
    );
    args
}

#[test]
fn one_command_compresses_trains_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let report = stdout(&args(&out, "--steps 200 --batch 64"));
    let report: Value = serde_json::from_str(&report).unwrap();
    insta::assert_snapshot!(structure(&report));
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap();
    assert!(number("/finetune/loss_after") < 0.5 * number("/finetune/loss_before"));
    assert_eq!(number("/finetune/samples/1"), 64.0);
    assert_eq!(number("/verification/samples"), 64.0);
    assert!(number("/verification/accuracy_after") > 0.9);
    let curve = report.pointer("/finetune/curve").and_then(Value::as_array);
    assert_eq!(curve.unwrap().len(), 21);
    assert_eq!(report["bytes"]["after"], fs::metadata(&out).unwrap().len());

    // The trained file goes on from where it is.
    let [model, data] = ["model.onnx", "train.npz"].map(|f| digits(f).display().to_string());
    let (again, first) = (folder.path().join("again.onnx"), out.display().to_string());
    let again = again.display().to_string();
    let line = [
        "finetune", &model, &first, "-o", &again, "--data", &data, "--steps", "1",
    ];
    let line = line
        .into_iter()
        .chain(["--json", "--quiet", "--batch", "64"]);
    let report: Value = serde_json::from_str(&stdout(&line.collect::<Vec<_>>())).unwrap();
    let found = report["finetune"]["loss_before"].as_f64().unwrap();
    assert!(
        (found / number("/finetune/loss_after") - 1.0).abs() < 1e-4,
        "{found}"
    );
}

#[test]
fn a_plan_is_made_again_by_what_training_left_and_the_better_one_kept() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx").display().to_string();
    let [model, data, calib] =
        ["model.onnx", "train.npz", "calib.npz"].map(|f| digits(f).display().to_string());
    let mut line = vec!["compress", &model, "-o", &out, "--calib", &calib];
    line.extend(["--target-size", "20x", "--rounds", "2", "--json", "--quiet"]);
    let (code, refused) = failure(&line);
    assert!(code == 2 && refused.contains("--finetune"), "{refused}");
    line.extend(["--finetune", &data, "--steps", "60", "--batch", "64"]);
    let report: Value = serde_json::from_str(&stdout(&line)).unwrap();
    let most = fs::metadata(&model).unwrap().len() / 20;
    assert!(fs::metadata(&out).unwrap().len() <= most);
    let loss = report["finetune"]["loss_after"].as_f64().unwrap();
    let rounds = report["finetune"]["rounds"].as_array();
    let rounds = rounds.map_or(&[][..], Vec::as_slice);
    for round in rounds {
        let [before, after] = ["loss_before", "loss_after"].map(|k| round[k].as_f64().unwrap());
        assert_eq!(round["kept"], after < before, "{round}");
        assert!(
            loss <= before.min(after) && round["changed"].as_u64() > Some(0),
            "{round}"
        );
    }
    assert!(!folder.path().join("out.onnx.jobs").exists());
}

#[test]
fn killed_and_resumed_it_writes_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let (whole, out, state) = (place("whole.onnx"), place("out.onnx"), place("state"));
    let more = "--steps 300 --batch 64";
    stdout(&args(&whole, more));

    let more = format!("{more} --checkpoint {}", state.display());
    let mut child = Command::new(env!("CARGO_BIN_EXE_tnq"))
        .args(args(&out, &more))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !state.exists() && start.elapsed() < Duration::from_secs(300) {
        sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        state.exists() && !out.exists(),
        "{:?}",
        names(folder.path())
    );

    let report: Value = serde_json::from_str(&stdout(&args(&out, &more))).unwrap();
    assert_eq!(report["finetune"]["steps"], 300);
    assert_eq!(report["finetune"]["curve"].as_array().unwrap().len(), 21);
    assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap());
}

#[test]
fn an_operator_that_cannot_be_trained_through_is_named_first() {
    let folder = tempfile::tempdir().unwrap();
    let (odd, out) = (
        folder.path().join("odd.onnx"),
        folder.path().join("out.onnx"),
    );
    let model = Model::decode(fs::read(digits("model.onnx")).unwrap()).unwrap();
    let mut proto = model.proto().clone();
    let nodes = &mut proto.graph.as_mut().unwrap().node;
    let relu = nodes.iter_mut().find(|n| n.op_type() == "Relu").unwrap();
    relu.op_type = Some("ThresholdedRelu".into());
    fs::write(&odd, Model::from_proto(proto).unwrap().encode().unwrap()).unwrap();
    let line = |more: &str| {
        let mut line = args(&out, more);
        line[1] = odd.display().to_string();
        line
    };
    let (code, stderr) = failure(&line(""));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("ThresholdedRelu"), "{stderr}");
    assert_eq!(names(folder.path()), ["odd.onnx"]);
    // Without training, the layers are rewritten as ever.
    let rest = line("");
    let untrained: Vec<&String> = rest[..4].iter().chain(&rest[6..]).collect();
    tnq(&untrained).assert().success();
}

#[test]
fn settings_of_a_training_need_data() {
    let model = digits("model.onnx").display().to_string();
    let line = ["compress", &model, "-o", "never.onnx", "--lr", "0.1"];
    let (code, stderr) = failure(&line);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("--lr: a setting of training needs --finetune"),
        "{stderr}"
    );
}
