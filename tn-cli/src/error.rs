//! Everything that ends `tnq` early, and the one place that maps it to an exit code.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::table::bytes;

/// What went wrong, with its place.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// The arguments contradict each other or the files they name.
    #[error("{0}")]
    Usage(String),
    /// The output is there already.
    #[error("{path}: a file of that name exists; --force overwrites it", path = path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{path}: cannot read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{path}: cannot write: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there but its content is wrong, or what was asked of it fails.
    #[error("{path}: {problem}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        problem: String,
    },
    /// The result cannot be printed.
    #[error("cannot print the result: {0}")]
    Print(#[source] io::Error),
    /// The command holds more memory than it may.
    #[error(
        "--memory: expected at most {most}, found {found} in use; output files are whole or absent",
        most = bytes(*most), found = bytes(*found)
    )]
    Memory {
        /// Bytes that it may hold.
        most: u64,
        /// Bytes that it holds.
        found: u64,
    },
    /// Threads cannot be started.
    #[error("cannot start {threads} threads: {problem}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why.
        problem: String,
    },
}

impl CliError {
    /// An error about the content of a file.
    pub(crate) fn content(path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        Self::Content {
            path: path.into(),
            problem: problem.to_string(),
        }
    }

    /// 1 failed, 2 wrong usage. (0 and 3 are no errors.)
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }

    /// The message in one line, whatever a library put into it.
    pub(crate) fn one_line(&self) -> String {
        self.to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_with_its_place() {
        let error = CliError::content("a/b.onnx", "expected x,\n   found y");
        assert_eq!(error.one_line(), "a/b.onnx: expected x, found y");
    }

    #[test]
    fn only_wrong_usage_exits_with_two() {
        assert_eq!(CliError::Usage("x".into()).exit_code(), 2);
        assert_eq!(CliError::Exists { path: "x".into() }.exit_code(), 1);
        assert_eq!(CliError::Print(io::Error::other("x")).exit_code(), 1);
    }
}
