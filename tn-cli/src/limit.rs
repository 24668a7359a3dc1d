//! `--memory`: how much a command may take.

use std::io::Write;
use std::str::FromStr;
use std::time::Duration;
use std::{fs, io, process, thread};

use crate::error::CliError;
use crate::goals::size;

/// The most bytes that a command may hold, beside the files that it maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory(u64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        size(text, "a size like 2GB, 512MiB or 3000000").map(Self)
    }
}

/// How often the memory is looked at: writing to fresh memory for as long fills some tens of megabytes.
const PAUSE: Duration = Duration::from_millis(10);

impl Memory {
    /// End this process, with a message and the exit code of a failure, once it holds more. Output files are whole or absent then,
    /// as after any other end.
    ///
    /// # Errors
    ///
    /// [`CliError::Memory`] if it holds more already, [`CliError::Usage`] where the system does not say what it holds.
    pub(crate) fn hold(self) -> Result<(), CliError> {
        self.check()?;
        let watch = move || {
            loop {
                if let Err(error) = self.check() {
                    let _ = writeln!(io::stderr().lock(), "error: {}", error.one_line());
                    process::exit(error.exit_code().into());
                }
                thread::sleep(PAUSE);
            }
        };
        let started = thread::Builder::new().name("memory".into()).spawn(watch);
        started.map(drop).map_err(|error| CliError::Threads {
            threads: 1,
            problem: error.to_string(),
        })
    }

    fn check(self) -> Result<(), CliError> {
        let found = held("RssAnon:").ok_or_else(|| {
            CliError::Usage("--memory: this system does not say what a process holds".into())
        })?;
        if found > self.0 {
            return Err(CliError::Memory {
                most: self.0,
                found,
            });
        }
        Ok(())
    }
}

/// Bytes of this process that are in memory, by a name that Linux has for them.
pub(crate) fn held(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_goals() {
        assert_eq!("2GB".parse(), Ok(Memory(2_000_000_000)));
        assert_eq!("1GiB".parse(), Ok(Memory(1 << 30)));
        for text in ["8x", "25%", "", "-1MB"] {
            let error = text.parse::<Memory>().unwrap_err();
            assert!(error.contains("2GB"), "{error}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_in_memory() {
        assert!(held("VmRSS:").is_some_and(|bytes| bytes > 1 << 16));
        assert!(Memory(1).check().is_err());
        assert!(Memory(u64::MAX).check().is_ok());
    }
}
