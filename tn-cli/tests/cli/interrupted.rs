//! A run killed at any moment goes on where it stopped, to the same bytes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::common::digits;

/// The command, with its jobs kept in a folder.
fn command(out: &Path, jobs: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tnq"));
    command
        .args(["compress", "--target-size", "12x", "--force", "--quiet"])
        .arg(digits("model.onnx"))
        .arg("--calib")
        .arg(digits("calib.npz"))
        .arg("-o")
        .arg(out)
        .arg("--jobs")
        .arg(jobs)
        .stdout(Stdio::null());
    command
}

/// The finished jobs and when they were written; a file in the making has a name that starts with a point.
fn finished(jobs: &Path) -> Vec<(String, SystemTime)> {
    let Ok(files) = fs::read_dir(jobs) else {
        return Vec::new();
    };
    let mut found: Vec<(String, SystemTime)> = files
        .filter_map(|file| {
            let file = file.ok()?;
            let name = file.file_name().into_string().ok()?;
            (!name.starts_with('.')).then_some((name, file.metadata().ok()?.modified().ok()?))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_killed_run_goes_on_and_redoes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, out] = ["whole.onnx", "out.onnx"].map(|name| folder.path().join(name));
    let all = folder.path().join("all");
    assert!(command(&whole, &all).status().unwrap().success());
    let bytes = fs::read(&whole).unwrap();
    let count = finished(&all).len();
    assert!(count > 4, "{count} jobs");

    // Killed as soon as so many jobs are done, or a moment after.
    for (after, wait) in [(0, 20), (1, 0), (count / 2, 3), (count - 1, 0)] {
        let jobs = folder.path().join(format!("killed{after}"));
        let mut run = command(&out, &jobs).spawn().unwrap();
        while finished(&jobs).len() < after && run.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(wait));
        // SIGKILL; a run that has ended by now is a run that nothing is left to do of.
        let _ = run.kill();
        run.wait().unwrap();
        let before = finished(&jobs);
        assert!(before.len() >= after.min(count), "{before:?}");

        assert!(command(&out, &jobs).status().unwrap().success());
        assert!(
            fs::read(&out).unwrap() == bytes,
            "killed after {after} jobs"
        );
        let now = finished(&jobs);
        assert_eq!(now.len(), count, "killed after {after} jobs");
        for job in &before {
            assert!(now.contains(job), "{} was done again", job.0);
        }
    }
}
