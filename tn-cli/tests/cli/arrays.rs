//! One array into cores and back.

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD};
use serde_json::Value;
use tn_formats::Container;
use tn_formats::npy::{NpyArray, read_npy, write_npy, write_npz};

use crate::common::{failure, names, stdout, structure};

/// A smooth 24 x 20 matrix.
fn matrix() -> ArrayD<f32> {
    Array2::from_shape_fn((24, 20), |(i, j)| 1.0 / (1.0 + i as f32 + 0.5 * j as f32)).into_dyn()
}

fn save(folder: &Path, name: &str, array: NpyArray) -> PathBuf {
    let path = folder.join(name);
    write_npy(&mut fs::File::create(&path).unwrap(), &array).unwrap();
    path
}

fn load(path: &Path) -> NpyArray {
    read_npy(&mut fs::File::open(path).unwrap()).unwrap()
}

fn distance(a: &ArrayD<f32>, b: &ArrayD<f32>) -> f64 {
    let norm = |a: &ArrayD<f32>| a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    norm(&(a - b)) / norm(a)
}

/// Decomposes `w.npy` of the folder with these flags, rebuilds it, checks the error that was told; the report.
fn round_trip(folder: &Path, flags: &[&str]) -> Value {
    let (w, cores, back) = (
        folder.join("w.npy"),
        folder.join("cores"),
        folder.join("back.npy"),
    );
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let mut line = vec![
        "decompose".to_owned(),
        path(&w),
        "-o".to_owned(),
        path(&cores),
    ];
    line.extend(["--json", "--quiet", "--force"].map(str::to_owned));
    line.extend(flags.iter().map(|flag| flag.to_string()));
    let report: Value = serde_json::from_str(&stdout(&line)).unwrap();
    let rebuilt: Value = serde_json::from_str(&stdout(&[
        "reconstruct",
        &path(&cores),
        "-o",
        &path(&back),
        "--json",
        "--force",
    ]))
    .unwrap();
    assert_eq!(report["kind"], rebuilt["kind"]);
    assert_eq!(report["total"]["file_bytes"], rebuilt["bytes"]);
    assert_eq!(
        fs::metadata(&cores).unwrap().len(),
        rebuilt["bytes"].as_u64().unwrap()
    );
    let (array, original) = (load(&back).to_f32(), load(&w).to_f32());
    let array = array.into_shape_with_order(original.shape()).unwrap();
    let told = report["errors"]["measured"].as_f64().unwrap();
    let found = distance(&original, &array);
    assert!(
        (told - found).abs() <= 1e-5 * found + 1e-6,
        "{flags:?}: {told} {found}"
    );
    report
}

#[test]
fn every_kind_comes_back_as_the_report_says() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save(folder, "w.npy", NpyArray::F32(matrix()));
    let check = |flags: &str, kind: &str, most: f64| {
        let report = round_trip(folder, &flags.split_whitespace().collect::<Vec<_>>());
        assert_eq!(report["kind"], kind, "{flags}");
        let error = report["errors"]["measured"].as_f64().unwrap();
        assert!(error <= most, "{flags}: {error}");
        report
    };
    let float = check("--bits float --ranks eps=0.01", "tt_matrix", 0.01);
    assert_eq!(float["errors"]["quantization"], Value::Null);
    check("--ranks eps=0.01", "tt_matrix", 0.02);
    check(
        "--layout split --modes 4x5:6x4 --ranks 4,6,4 --bits 4",
        "tt_matrix",
        0.2,
    );
    check(
        "--format low-rank --ranks 3 --bits 6 --strategy independent",
        "tt_matrix",
        0.2,
    );
    check(
        "--modes 4x6x20 --ranks 4 --granularity block:8 --scheme affine",
        "tensor_train",
        0.05,
    );
    check(
        "--format tucker --ranks eps=0.01 --granularity axis --strategy rotated",
        "tucker",
        0.05,
    );
    check(
        "--format tucker --modes 4x6x20 --bits float --ranks 3,3,4",
        "tucker",
        0.2,
    );
    let learned = check("--strategy learned --bits 5", "tt_matrix", 0.3);
    let strategy = learned["strategy"].as_str().unwrap();
    assert!(["gauge", "independent"].contains(&strategy), "{strategy}");
}

#[test]
fn json_of_decompose() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), "w.npy", NpyArray::F32(matrix()));
    insta::assert_snapshot!(structure(&round_trip(folder.path(), &[])));
}

#[test]
fn inputs_change_what_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    save(folder, "w.npy", NpyArray::F32(matrix()));
    // Inputs that see the last columns only.
    let inputs = Array2::from_shape_fn((60, 20), |(i, j)| {
        ((i * (j + 3)) as f32 * 0.7).sin() * if j < 15 { 0.05 } else { 1.0 }
    });
    let moment = inputs.t().dot(&inputs).mapv(|x| f64::from(x) / 60.0);
    let calib = save(folder, "x.npy", NpyArray::F32(inputs.into_dyn()));
    let second = save(
        folder,
        "c.npy",
        NpyArray::F64(((&moment + &moment.t()) / 2.0).into_dyn()),
    );
    let flags = ["--format", "low-rank", "--ranks", "1", "--bits", "8"];
    let with = |calib: &Path| {
        let mut flags = flags.to_vec();
        flags.extend(["--calib", calib.to_str().unwrap()]);
        round_trip(folder, &flags)
    };
    let (samples, moments) = (with(&calib), with(&second));
    let seen = |report: &Value| report["errors"]["measured_on_inputs"].as_f64().unwrap();
    assert!((seen(&samples) - seen(&moments)).abs() < 1e-4 * seen(&samples));
    let plain = round_trip(folder, &flags);
    assert_eq!(plain["errors"]["measured_on_inputs"], Value::Null);
    assert!(plain["errors"]["measured"].as_f64() <= samples["errors"]["measured"].as_f64());
    assert!(seen(&samples) < plain["errors"]["measured"].as_f64().unwrap());
}

#[test]
fn doubles_stay_doubles_and_archives_have_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let array = NpyArray::F64(matrix().mapv(f64::from));
    let other = NpyArray::F32(ArrayD::zeros(vec![3]));
    let file = fs::File::create(path("w.npz")).unwrap();
    write_npz(file, [("w", &array), ("b", &other)]).unwrap();
    let text = stdout(&[
        "decompose",
        &path("w.npz"),
        "--name",
        "w",
        "-o",
        &path("cores"),
        "--bits",
        "float",
        "--ranks",
        "eps=1e-12",
        "--quiet",
    ]);
    for part in [
        "core 0",
        "total",
        "tt_matrix of 24 x 20",
        "truncation error",
        "measured",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let container = Container::read(&fs::read(path("cores")).unwrap()).unwrap();
    assert!(matches!(container, Container::TtMatrixF64(_)));
    let text = stdout(&[
        "reconstruct",
        &path("cores"),
        "-o",
        &path("back.npy"),
        "--quiet",
    ]);
    assert!(text.contains("float64 of 24 x 20"), "{text}");
    let NpyArray::F64(back) = load(Path::new(&path("back.npy"))) else {
        panic!("not float64")
    };
    assert!(
        (back - matrix().mapv(f64::from))
            .iter()
            .all(|d| d.abs() < 1e-11)
    );
}

#[test]
fn what_does_not_fit_is_said_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let w = save(folder, "w.npy", NpyArray::F32(matrix()));
    let line = save(folder, "line.npy", NpyArray::F32(ArrayD::ones(vec![8])));
    fs::write(folder.join("text"), "not an array").unwrap();
    let before = names(folder);
    let (w, line) = (w.to_str().unwrap(), line.to_str().unwrap());
    let out = folder.join("out");
    let out = out.to_str().unwrap();
    let check = |input: &str, flags: &str, code: i32, want: &str| {
        let mut args = vec!["decompose", input, "-o", out, "--quiet"];
        args.extend(flags.split_whitespace());
        let (found, stderr) = failure(&args);
        assert_eq!(found, code, "{flags}: {stderr}");
        assert!(stderr.contains(want), "{flags}: {stderr}");
        assert_eq!(names(folder), before, "{flags}");
    };
    check(w, "--bits 9", 2, "expected 2 to 8 bits or float");
    check(
        w,
        "--bits float --scheme affine",
        2,
        "--scheme: floats have none",
    );
    check(
        w,
        "--format tucker --layout split",
        2,
        "--layout: a layout needs the format tt",
    );
    check(
        w,
        "--format low-rank --modes 4x5:24",
        2,
        "--modes: low rank has none",
    );
    check(
        w,
        "--format tucker --modes 4x5:24",
        2,
        "--modes: a Tucker network",
    );
    check(w, "--modes 4x4:24", 2, "--modes: column modes");
    check(
        w,
        "--modes 4x5:24",
        2,
        "--modes: column modes of an interleaved layout",
    );
    check(
        w,
        "--modes 4x4x4",
        2,
        "--modes: 4x4x4 has 64 elements, expected 480",
    );
    check(
        w,
        "--modes 4x6x20 --layout split",
        2,
        "--layout: a layout needs modes IN:OUT",
    );
    check(
        w,
        "--format tucker --calib w.npy",
        2,
        "--calib: inputs are of use to a matrix only",
    );
    check(w, "--name w", 1, "expected an .npz with an array \"w\"");
    check(
        line,
        "--format low-rank",
        2,
        "expected a matrix, found shape [8]",
    );
    check(
        w,
        "--ranks 4,4,4",
        1,
        "ranks of a truncation: expected 1 entries, found 3",
    );
    check(w, &format!("--calib {line}"), 1, "expected samples [S, N]");
    let calib = format!("--calib {w} --modes 4x5:6x4 --ranks 2");
    let mut args = vec!["decompose", w, "-o", out, "--quiet", "--json"];
    args.extend(calib.split_whitespace());
    stdout(&args);
    let (code, stderr) = failure(&args);
    assert!(
        code == 1 && stderr.contains("--force overwrites it"),
        "{stderr}"
    );
    let text = folder.join("text");
    let (code, stderr) = failure(&["reconstruct", text.to_str().unwrap(), "-o", w]);
    assert!(
        code == 1 && stderr.contains("w.npy: a file of that name exists"),
        "{stderr}"
    );
    let (code, stderr) = failure(&["reconstruct", text.to_str().unwrap(), "-o", w, "--force"]);
    assert!(
        code == 1 && stderr.contains("text: container: file"),
        "{stderr}"
    );
    assert_eq!(load(Path::new(w)).shape(), [24, 20]);
}
