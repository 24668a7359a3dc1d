//! What a loaded model takes in memory, measured in a process of its own.

use std::process::{Command, Stdio};

use super::{Contender, How};
use crate::error::CliError;
use crate::limit::held;
use crate::model::read_model;
use crate::timing::{ActivationsChoice, BenchArgs, RuntimeChoice};

/// Bytes by which the memory of a fresh process grows when it loads a model for inputs of these shapes; `None` where the
/// system does not say.
pub(super) fn after_load(contender: &Contender<'_>, shapes: &[Vec<usize>]) -> Option<u64> {
    let (runtime, activations) = match contender.how {
        How::Plain => ("plain", "f32"),
        How::Fused(ActivationsChoice::F32) => ("fused", "f32"),
        How::Fused(ActivationsChoice::Int8) => ("fused", "int8"),
    };
    let output = Command::new(std::env::current_exe().ok()?)
        .arg("bench")
        .arg(contender.path)
        .args(["--runtime", runtime, "--activations", activations])
        .args(["--memory-for", &written(shapes)])
        // glibc otherwise keeps up to 64 MiB of what loading needed only for a while.
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .env("MALLOC_TRIM_THRESHOLD_", "65536")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    std::str::from_utf8(&output.stdout)
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// What the fresh process does.
///
/// # Errors
///
/// Those of reading and loading the model.
pub(super) fn measure(args: &BenchArgs, shapes: &str) -> Result<Option<u64>, CliError> {
    let shapes = read(shapes)?;
    let before = held("VmRSS:");
    let model = read_model(&args.model)?;
    let contender = Contender {
        name: "model",
        path: &args.model,
        model: &model,
        how: match args.runtime {
            RuntimeChoice::Fused => How::Fused(args.activations),
            RuntimeChoice::Plain | RuntimeChoice::Both => How::Plain,
        },
        threads: args.threads,
    };
    let loaded = contender.load(&shapes)?;
    drop(model);
    let after = held("VmRSS:");
    drop(loaded);
    Ok(before.zip(after).map(|(a, b)| b.saturating_sub(a)))
}

/// `8x32;8x32`.
fn written(shapes: &[Vec<usize>]) -> String {
    let shape = |shape: &Vec<usize>| crate::settings::join(shape, "x");
    shapes.iter().map(shape).collect::<Vec<_>>().join(";")
}

fn read(text: &str) -> Result<Vec<Vec<usize>>, CliError> {
    let size = |s: &str| {
        s.parse().map_err(|_| {
            CliError::Usage(format!(
                "--memory-for: expected shapes such as 8x32;8x32, found {text:?}"
            ))
        })
    };
    let shape = |shape: &str| match shape {
        "" => Ok(Vec::new()),
        sizes => sizes.split('x').map(size).collect(),
    };
    text.split(';').map(shape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_written() {
        let shapes = vec![vec![8, 32], vec![1], vec![]];
        assert_eq!(written(&shapes), "8x32;1;");
        assert_eq!(read("8x32;1;").unwrap(), shapes);
        assert_eq!(read("8xa").unwrap_err().exit_code(), 2);
    }
}
