//! Timing from the command line, on the digits example.

use serde_json::Value;

use crate::common::{digits, failure, stdout, structure, tnq};

const SHORT: [&str; 4] = ["--batches", "1,4", "--seconds", "0"];

#[test]
fn json_of_bench_against_a_compressed_model() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let (model, out) = (digits("model.onnx"), out.to_str().unwrap());
    let model = model.to_str().unwrap();
    tnq(&["compress", model, "-o", out, "--bits", "4", "--quiet"])
        .assert()
        .success();
    let mut args = vec!["bench", model, out, "--json", "--quiet"];
    args.extend(SHORT);
    let report: Value = serde_json::from_str(&stdout(&args)).unwrap();
    insta::assert_snapshot!(structure(&report));
    let runtimes = |list: &Value| -> Vec<String> {
        let names = list.as_array().unwrap().iter();
        names
            .map(|m| m["runtime"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(runtimes(&report["models"]), ["plain", "plain", "fused"]);
    let fused = &report["models"][2];
    assert_eq!(fused["fused_layers"], 3);
    assert!(fused["difference"].as_f64().unwrap() < 1e-5);
    for (batch, size) in report["batches"].as_array().unwrap().iter().zip([1, 4]) {
        assert_eq!(batch["batch"], size);
        assert_eq!(batch["rounds"], 11);
        assert_eq!(runtimes(&batch["timings"]), ["plain", "plain", "fused"]);
    }

    args[3] = "--activations=int8";
    args.extend(["--runtime", "fused"]);
    let text = stdout(&args);
    for place in ["original", "fused int8", "RAM after load", "speed-up"] {
        assert!(text.contains(place), "{place}: {text}");
    }
}

#[test]
fn a_model_alone_is_timed_with_both_runtimes() {
    let (model, test) = (digits("model.onnx"), digits("test.npz"));
    let mut args = vec!["bench", model.to_str().unwrap(), "--json"];
    args.extend(["--data", test.to_str().unwrap()]);
    args.extend(SHORT);
    let report: Value = serde_json::from_str(&stdout(&args)).unwrap();
    assert_eq!(report["models"].as_array().unwrap().len(), 2);
    assert_eq!(report["models"][0]["model"], "model");

    assert_eq!(report["threads"], 1);

    let several = [&args[..], &["--threads", "2"]].concat();
    let report: Value = serde_json::from_str(&stdout(&several)).unwrap();
    assert_eq!(report["threads"], 2);
    let (code, stderr) = failure(&[&args[..], &["--threads", "1025"]].concat());
    assert_eq!(code, 2);
    assert!(
        stderr.contains("--threads: expected at most 1024, found 1025"),
        "{stderr}"
    );

    args.extend(["--batches", "501"]);
    let (code, stderr) = failure(&args);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("expected 501 samples for a batch, found 500"),
        "{stderr}"
    );
}
