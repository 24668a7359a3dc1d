//! What the arguments are called and how they are explained.

use crate::common::{failure, stdout};

#[test]
fn help_of_every_command() {
    for command in [
        "",
        "inspect",
        "compress",
        "verify",
        "bench",
        "report",
        "run",
        "decompose",
        "reconstruct",
        "completions",
        "man",
    ] {
        let args: Vec<&str> = [command, "--help"]
            .into_iter()
            .filter(|arg| !arg.is_empty())
            .collect();
        insta::assert_snapshot!(
            format!("help_{}", if command.is_empty() { "tnq" } else { command }),
            stdout(&args)
        );
    }
}

#[test]
fn wrong_usage_exits_with_two() {
    let check = |args: &[&str], want: &str| {
        let (code, stderr) = failure(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(want), "{args:?}: {stderr}");
    };
    check(&["compres"], "unrecognized subcommand 'compres'");
    check(&["compress", "m.onnx"], "--output <OUT>");
    check(
        &["compress", "m.onnx", "-o", "o.onnx", "--bits", "9"],
        "expected 2 to 8 bits, found \"9\"",
    );
    check(
        &["compress", "m.onnx", "-o", "o.onnx", "--ranks", "0"],
        "expected a rank (8), ranks (4,8,4) or eps=0.02",
    );
    check(
        &["compress", "m.onnx", "-o", "o.onnx", "--format", "ring"],
        "possible values: auto, tt, low-rank, tucker, dense",
    );
    check(
        &["compress", "m.onnx", "-o", "o.onnx", "--layer", "fc1"],
        "expected REGEX=keep",
    );
    check(
        &["compress", "m.onnx", "-o", "o.onnx", "--modes", "2x2:4"],
        "modes need the format tt",
    );
    check(
        &[
            "compress", "m.onnx", "-o", "o.onnx", "--target", "ort", "--ranks", "8",
        ],
        "--ranks: a goal, or the formats of an engine, leave this to the plan",
    );
    check(
        &[
            "compress",
            "m.onnx",
            "-o",
            "o.onnx",
            "--target-size",
            "8x",
            "--layer",
            "fc=ranks=8",
        ],
        "--layer 'fc': ranks: a goal, or the formats of an engine, leave this to the plan",
    );
    check(
        &["verify", "a.onnx", "b.onnx", "--threads", "100000"],
        "--threads: expected at most 1024, found 100000",
    );
    check(&["verify", "a.onnx"], "<OUTPUT>");
    check(
        &["inspect", "m.onnx", "--threads", "2"],
        "unexpected argument '--threads'",
    );
}

#[test]
fn completions_and_manual_name_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = stdout(&["completions", shell]);
        for command in [
            "inspect",
            "compress",
            "verify",
            "bench",
            "run",
            "decompose",
            "reconstruct",
        ] {
            assert!(text.contains(command), "{shell}: {command}");
        }
    }
    let manual = stdout(&["man"]);
    for place in [".TH tnq", "tnq\\-compress", "\\-\\-ranks", "Exit codes"] {
        assert!(manual.contains(place), "{place}");
    }
}
