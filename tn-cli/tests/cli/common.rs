//! Running the binary, and the shape of what it prints.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

/// A file of the digits example.
pub(crate) fn digits(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/digits")
        .join(file)
}

/// `tnq` with arguments.
pub(crate) fn tnq<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tnq"));
    command.args(args).env("NO_COLOR", "1");
    command
}

/// What `tnq` prints on stdout when it succeeds.
pub(crate) fn stdout<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> String {
    let output = tnq(args).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

/// The exit code and stderr of a failing `tnq`, which prints nothing on stdout.
pub(crate) fn failure<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> (i32, String) {
    let output = tnq(args).assert().failure().get_output().clone();
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    (
        output.status.code().expect("an exit code, not a signal"),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The keys and types of a JSON value, one line per path; arrays show what their elements have in common or not.
pub(crate) fn structure(value: &Value) -> String {
    let mut lines = Vec::new();
    collect(value, "", &mut lines);
    lines.sort();
    lines.dedup();
    lines.join("\n")
}

fn collect(value: &Value, path: &str, lines: &mut Vec<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(key, value)| collect(value, &format!("{path}.{key}"), lines)),
        Value::Array(items) if items.is_empty() => lines.push(format!("{path}[] (empty)")),
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect(item, &format!("{path}[]"), lines)),
        Value::String(_) => lines.push(format!("{path}: string")),
        Value::Number(n) if n.is_f64() => lines.push(format!("{path}: float")),
        Value::Number(_) => lines.push(format!("{path}: integer")),
        Value::Bool(_) => lines.push(format!("{path}: bool")),
        Value::Null => lines.push(format!("{path}: null")),
    }
}
