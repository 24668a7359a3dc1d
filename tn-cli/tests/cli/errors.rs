//! Bad input: one line with the place, a non-zero exit code, no file left behind, no panic.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use tn_formats::npy::{NpyArray, write_npy, write_npz};

use crate::common::{digits, failure, names};

/// Run a command that must fail in an otherwise empty folder; give its one line.
fn fails(folder: &Path, args: &[&str]) -> String {
    let before = names(folder);
    let quiet: Vec<&str> = args.iter().copied().chain(["--quiet"]).collect();
    let (code, stderr) = failure(&quiet);
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(code, 1, "{args:?}: {stderr}");
    assert!(
        matches!(lines[..], [line] if line.starts_with("error: ")),
        "{args:?}: {stderr}"
    );
    assert_eq!(names(folder), before, "{args:?}");
    lines[0].replace(&folder.display().to_string(), "DIR")
}

/// The digits model with a bias that says 11 numbers and holds 10.
fn wrong_length() -> Vec<u8> {
    let mut model = fs::read(digits("model.onnx")).unwrap();
    let bias = b"\x08\x0a\x10\x01\x42\x08fc3.bias";
    let at = model
        .windows(bias.len())
        .position(|window| window == bias)
        .expect("the bias of the last layer");
    model[at + 1] = 11;
    model
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(digits("model.onnx")).unwrap();
    let files: [(&str, Vec<u8>, &str); 5] = [
        (
            "truncated.onnx",
            whole[..whole.len() / 2].to_vec(),
            "cut short",
        ),
        (
            "text.onnx",
            b"# a readme\nand more of it\n".to_vec(),
            "text file",
        ),
        ("empty.onnx", Vec::new(), "empty file"),
        ("length.onnx", wrong_length(), "fc3.bias"),
        (
            "random.onnx",
            (0..997u32).map(|i| ((i * i * 31) >> 3) as u8).collect(),
            "not an ONNX model",
        ),
    ];
    let calib = digits("calib.npz").display().to_string();
    let out = folder.path().join("out.onnx").display().to_string();
    let npz = folder.path().join("out.npz").display().to_string();
    for (name, bytes, want) in files {
        let path = folder.path().join(name).display().to_string();
        fs::write(&path, bytes).unwrap();
        let whole = digits("model.onnx").display().to_string();
        for args in [
            &["inspect", &path][..],
            &["compress", &path, "-o", &out],
            &["verify", &path, &whole],
            &["verify", &whole, &path],
            &["run", &path, "--input", &calib, "-o", &npz],
        ] {
            let line = fails(folder.path(), args);
            assert!(line.starts_with(&format!("error: DIR/{name}: ")), "{line}");
            assert!(line.contains(want), "{line}");
        }
    }
}

#[test]
fn a_missing_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.onnx").display().to_string();
    let line = fails(folder.path(), &["inspect", &path]);
    assert!(
        line.starts_with("error: DIR/absent.onnx: cannot read: No such file"),
        "{line}"
    );
}

#[test]
fn a_place_that_cannot_be_written_is_named_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let model = digits("model.onnx").display().to_string();
    let calib = digits("calib.npz").display().to_string();
    fs::write(folder.path().join("there.onnx"), "something").unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let check = |out: &str, want: &str| {
        let out = folder.path().join(out).display().to_string();
        for args in [
            &["compress", &model, "-o", &out][..],
            &["run", &model, "--input", &calib, "-o", &out],
        ] {
            let line = fails(folder.path(), args);
            assert!(line.contains(want), "{line}");
        }
    };
    check(
        "absent/out.onnx",
        "DIR/absent/out.onnx: cannot write: No such file",
    );
    check(
        "sub",
        "DIR/sub: cannot write: expected a file name, found a folder",
    );
    check(
        "there.onnx",
        "DIR/there.onnx: a file of that name exists; --force overwrites it",
    );
    assert_eq!(
        fs::read(folder.path().join("there.onnx")).unwrap(),
        b"something"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_file_is_named() {
    // Nobody, not even root, can make a file there.
    let folder = tempfile::tempdir().unwrap();
    let model = digits("model.onnx").display().to_string();
    let line = fails(
        folder.path(),
        &["compress", &model, "-o", "/dev/null", "--force"],
    );
    assert!(line.contains("expected a file, found a device"), "{line}");
    let line = fails(folder.path(), &["compress", &model, "-o", "/proc/out.onnx"]);
    assert!(
        line.starts_with("error: /proc/out.onnx: cannot write: "),
        "{line}"
    );
}

#[test]
fn the_model_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    fs::copy(digits("model.onnx"), &model).unwrap();
    let path = model.display().to_string();
    let (code, stderr) = failure(&["compress", &path, "-o", &path, "--force"]);
    assert_eq!(code, 2, "{stderr}");
    assert_eq!(
        fs::read(&model).unwrap(),
        fs::read(digits("model.onnx")).unwrap()
    );
}

#[test]
fn data_that_does_not_fit_the_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = digits("model.onnx").display().to_string();
    let outputs = folder.path().join("out.npz").display().to_string();
    let out = folder.path().join("out.onnx").display().to_string();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let zeros = |shape: &[usize]| NpyArray::F32(ndarray::ArrayD::zeros(shape));
    let npy = |shape: &[usize]| {
        let mut bytes = Vec::new();
        write_npy(&mut bytes, &zeros(shape)).unwrap();
        bytes
    };
    let npz = |arrays: &[(&str, NpyArray)]| {
        let mut bytes = Cursor::new(Vec::new());
        write_npz(
            &mut bytes,
            arrays.iter().map(|(name, array)| (*name, array)),
        )
        .unwrap();
        bytes.into_inner()
    };
    let whole = [("image", zeros(&[2, 64]))];
    let files = [
        (
            write("text.npz", b"hello there"),
            "expected an .npz or .npy file",
        ),
        (write("empty.npz", b""), "0 bytes"),
        (write("half.npz", &npz(&whole)[..300]), "zip archive"),
        (write("wide.npy", &npy(&[2, 65])), "image"),
        (write("short.npy", &npy(&[2, 64])[..200]), "512 bytes"),
        (write("flat.npy", &npy(&[64])), "image"),
        (write("none.npy", &npy(&[0, 64])), "at least one"),
        (
            write("missing.npz", &npz(&[("pixels", zeros(&[2, 64]))])),
            "image",
        ),
        (
            write(
                "type.npz",
                &npz(&[("image", NpyArray::I64(ndarray::ArrayD::zeros(vec![2, 64])))]),
            ),
            "int64",
        ),
    ];
    for (path, want) in &files {
        for args in [
            &["run", &model, "--input", path, "-o", &outputs][..],
            &["compress", &model, "-o", &out, "--calib", path],
            &["verify", &model, &model, "--data", path],
        ] {
            let line = fails(folder.path(), args);
            assert!(line.contains(want), "{line}");
            assert!(
                line.contains(&path.replace(&folder.path().display().to_string(), "DIR")),
                "{line}"
            );
        }
    }
}

#[test]
fn a_reference_of_trained_codes_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let model = digits("model.onnx").display().to_string();
    let calib = digits("calib.npz").display().to_string();
    let out = folder.path().join("out.onnx").display().to_string();
    let dense = folder.path().join("dense.onnx").display().to_string();
    let (code, stderr) = failure(&[
        "compress",
        &model,
        "-o",
        &out,
        "--reference",
        &dense,
        "--finetune",
        &calib,
    ]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("--reference: expected no --finetune"),
        "{stderr}"
    );
    assert!(names(folder.path()).is_empty());
}
