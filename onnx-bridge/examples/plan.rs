//! Plans and compresses a model to a size: `plan MODEL.onnx CALIB.npz OUT.onnx BYTES [FORMAT]`.
//!
//! FORMAT (dense, low-rank, corrected) allows only that one, to compare it with the mixture.
#![allow(clippy::print_stderr, reason = "an example prints")]

use std::error::Error;
use std::fs;
use std::io::Cursor;
use std::time::Instant;

use onnx_bridge::plan::{Candidate, Goal, MemoryStore, Session, compress_planned};
use onnx_bridge::{Dataset, Model, RunsOn};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, calib, out, bytes, rest @ ..] = arguments.as_slice() else {
        return Err("expected MODEL.onnx CALIB.npz OUT.onnx BYTES [FORMAT]".into());
    };
    let start = Instant::now();
    let model = Model::decode(fs::read(model)?)?;
    let data = Dataset::from_npz(Cursor::new(fs::read(calib)?))?;
    let only = rest.first().cloned();
    let (goal, store) = match bytes.strip_suffix('%') {
        Some(percent) => (
            Goal {
                loss: Some(percent.parse::<f64>()? / 100.0),
                ..Goal::default()
            },
            MemoryStore::default(),
        ),
        None => (
            Goal {
                bytes: Some(bytes.parse()?),
                ..Goal::default()
            },
            MemoryStore::default(),
        ),
    };
    let session = Session {
        data: &data,
        goal,
        runs_on: RunsOn::Portable,
        allow: &|_, c: &Candidate| {
            only.as_ref()
                .is_none_or(|f| c.format_name() == f || *c == Candidate::Keep)
        },
        store: &store,
        progress: &|stage, done, total| {
            let line = format!(
                "{:7.1} s  {stage} {done}/{total}\n",
                start.elapsed().as_secs_f64()
            );
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        },
    };
    let planned = compress_planned(&model, &session)?;
    fs::write(out, planned.model.encode()?)?;
    let mut log = String::new();
    for w in &planned.plan.weights {
        log += &format!(
            "{:45} {:?} {:9} -> {:8}  {:.3e}\n",
            w.name, w.choice, w.bytes_before, w.bytes, w.predicted_loss
        );
    }
    log += &format!(
        "{} bytes, predicted loss {:.4}, verified {:.4}, blocking {:?}, {:.1} s",
        planned.plan.bytes,
        planned.plan.predicted_loss.sqrt(),
        planned.verification.relative_l2,
        planned.blocking,
        start.elapsed().as_secs_f64()
    );
    std::io::Write::write_all(&mut std::io::stdout(), format!("{log}\n").as_bytes())?;
    Ok(())
}
