//! One module per command: what it does with a job, and how it says so.

pub(crate) mod compress;
pub(crate) mod docs;
pub(crate) mod finetune;
pub(crate) mod inspect;
pub(crate) mod planned;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod study;
mod verification;
pub(crate) mod verify;

use std::io::{self, Write};

use serde::Serialize;

use crate::error::CliError;

/// The version of the JSON objects; their keys are part of the interface.
pub(crate) const SCHEMA: u32 = 1;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As asked.
    Done,
    /// The best that was found is written, and misses the goal.
    GoalMissed,
}

/// The sizes of two model files.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Bytes {
    /// The original's.
    pub(crate) before: u64,
    /// The compressed one's.
    pub(crate) after: u64,
}

/// Print a result on stdout. A reader that has gone away is no error.
pub(crate) fn print(text: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Print(error)),
        _ => Ok(()),
    }
}

/// Print a result as one JSON object.
pub(crate) fn print_json(report: &impl Serialize) -> Result<(), CliError> {
    let mut text =
        serde_json::to_vec_pretty(report).map_err(|error| CliError::Print(error.into()))?;
    text.push(b'\n');
    print(&text)
}
