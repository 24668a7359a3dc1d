//! The page of a result.

use std::fs;

use crate::common::{digits, failure, names, stdout, tnq};

#[test]
fn a_page_comes_with_the_result_and_again_from_its_json() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let (model, calib) = (
        digits("model.onnx").display().to_string(),
        digits("calib.npz").display().to_string(),
    );
    let (out, page) = (place("out.onnx"), place("page.html"));
    let json = stdout(&[
        "compress",
        &model,
        "-o",
        &out,
        "--calib",
        &calib,
        "--target-size",
        "12x",
        "--report",
        &page,
        "--json",
        "--quiet",
    ]);
    fs::write(place("result.json"), json).unwrap();
    stdout(&["report", &place("result.json"), "-o", &place("again.html")]);
    let text = fs::read_to_string(&page).unwrap();
    assert_eq!(text, fs::read_to_string(place("again.html")).unwrap());
    for part in [
        "<!DOCTYPE html>",
        "lang=\"en\"",
        "<main",
        "<h1>model.onnx</h1>",
        "Size against loss",
        "scope=\"row\"",
        "Gemm<span class=\"own\">fc1.weight</span>",
    ] {
        assert!(text.contains(part), "{part}");
    }
    // Each word of the command stands in a span.
    let plain = text.replace("<span>", "").replace("</span>", "");
    for part in ["tnq compress ", "--target-size 12x"] {
        assert!(plain.contains(part), "{part}");
    }
    assert!(
        !text.contains("<script") && !text.contains("http:") && !text.contains("https:"),
        "the page loads nothing"
    );
}

#[test]
fn a_page_never_takes_the_place_of_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let model = digits("model.onnx").display().to_string();
    let (code, said) = failure(&[
        "compress",
        &model,
        "-o",
        &place("a"),
        "--report",
        &place("a"),
        "--quiet",
    ]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--report: expected another file"), "{said}");
    let (code, said) = failure(&[
        "compress",
        &model,
        "-o",
        &place("a"),
        "--report",
        &model,
        "--force",
        "--quiet",
    ]);
    assert_eq!(code, 2, "{said}");
    fs::write(place("page.html"), "mine").unwrap();
    let (code, said) = failure(&[
        "compress",
        &model,
        "-o",
        &place("a"),
        "--report",
        &place("page.html"),
        "--quiet",
    ]);
    assert_eq!(code, 1, "{said}");
    assert_eq!(fs::read(place("page.html")).unwrap(), b"mine");
    assert_eq!(names(folder.path()), ["page.html"]);
}

#[test]
fn what_is_no_result_makes_no_page() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let inspected = stdout(&[
        "inspect",
        &digits("model.onnx").display().to_string(),
        "--json",
    ]);
    for (name, text, want) in [
        ("text.json", "hello", "expected value"),
        (
            "inspect.json",
            &inspected,
            "`command` one of compress, plan, finetune, verify",
        ),
        ("deep.json", &"[".repeat(100_000), "recursion limit"),
        (
            "short.json",
            r#"{"schema":1,"command":"compress"}"#,
            "missing field `bytes`",
        ),
    ] {
        fs::write(place(name), text).unwrap();
        let (code, said) = failure(&["report", &place(name), "-o", &place("page.html")]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(want) && said.contains(name), "{said}");
    }
    assert!(!folder.path().join("page.html").exists());
}

#[test]
fn a_rule_that_matches_nothing_names_the_nearest_layers() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx").display().to_string();
    let (model, calib) = (
        digits("model.onnx").display().to_string(),
        digits("calib.npz").display().to_string(),
    );
    for goal in [&["--format", "dense"][..], &["--target-size", "8x"]] {
        let mut args = vec![
            "compress",
            &model,
            "-o",
            &out,
            "--calib",
            &calib,
            "--force",
            "--layer",
            "fc1.wieght=keep",
        ];
        args.extend(goal);
        let done = tnq(&args).assert().success().get_output().clone();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(
            said.contains("--layer 'fc1.wieght' matches no weight or node"),
            "{said}"
        );
        assert!(said.contains("fc1.weight"), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn a_replaced_file_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    fs::write(&out, "old").unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
    let model = digits("model.onnx").display().to_string();
    stdout(&[
        "compress",
        &model,
        "-o",
        &out.display().to_string(),
        "--force",
        "--quiet",
    ]);
    assert_eq!(
        fs::metadata(&out).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert!(fs::metadata(&out).unwrap().len() > 3);
}

#[cfg(target_os = "linux")]
#[test]
fn a_command_that_takes_more_memory_than_it_may_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let model = digits("model.onnx").display().to_string();
    let calib = digits("calib.npz").display().to_string();
    for most in ["100kB", "8MB"] {
        let (code, said) = failure(&[
            "compress",
            &model,
            "-o",
            &place("out.onnx"),
            "--calib",
            &calib,
            "--target-size",
            "12x",
            "--jobs",
            &place("jobs"),
            "--memory",
            most,
            "--quiet",
        ]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("--memory: expected at most"), "{said}");
        assert!(!folder.path().join("out.onnx").exists());
    }
    stdout(&["inspect", &model, "--memory", "1GB"]);
    let (code, said) = failure(&["inspect", &model, "--memory", "8x"]);
    assert_eq!(code, 2, "{said}");
}

#[cfg(unix)]
#[test]
fn external_data_behind_a_link_out_of_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let model = digits("model.onnx").display().to_string();
    fs::create_dir(folder.path().join("in")).unwrap();
    let whole = place("in/whole.onnx");
    stdout(&[
        "compress",
        &model,
        "-o",
        &whole,
        "--format",
        "dense",
        "--external-data",
        "--quiet",
    ]);
    let data = names(&folder.path().join("in"))
        .into_iter()
        .find(|n| n != "whole.onnx")
        .unwrap();
    stdout(&["inspect", &whole]);
    // The same bytes, but behind a link that leads out.
    fs::rename(
        folder.path().join("in").join(&data),
        folder.path().join(&data),
    )
    .unwrap();
    std::os::unix::fs::symlink(
        folder.path().join(&data),
        folder.path().join("in").join(&data),
    )
    .unwrap();
    let (code, said) = failure(&["inspect", &whole]);
    assert_eq!(code, 1);
    assert!(said.contains("found a link out of it"), "{said}");
}
