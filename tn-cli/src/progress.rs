//! Progress and warnings on stderr: a bar on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a plain line says how far a stage is.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nowhere.
    Quiet,
    /// To stderr, as lines.
    Lines,
    /// To stderr, as a bar with rate and time left.
    Bar,
}

impl Progress {
    /// Bars on a terminal, lines elsewhere, nothing when `quiet`.
    pub(crate) fn detect(quiet: bool) -> Self {
        match (quiet, io::stderr().is_terminal()) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Bar,
            (false, false) => Self::Lines,
        }
    }

    /// Say something that the user should know, unless quiet.
    pub(crate) fn warn(self, message: &str) {
        if self != Self::Quiet {
            line(&format!("warning: {message}"));
        }
    }

    /// Start a stage of `total` steps; a stage of unknown length has none.
    pub(crate) fn stage(self, name: &str, total: u64) -> Stage {
        let bar = match self {
            Self::Bar => {
                let bar = ProgressBar::new(total);
                let template = match total {
                    0 => "{prefix} {spinner} {elapsed}",
                    _ => "{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} left",
                };
                bar.set_style(
                    ProgressStyle::with_template(template)
                        .unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                bar.set_prefix(name.to_owned());
                bar.enable_steady_tick(Duration::from_millis(100));
                Some(bar)
            }
            _ => None,
        };
        if self == Self::Lines {
            line(name);
        }
        let now = Instant::now();
        let done = AtomicU64::new(0);
        Stage {
            progress: self,
            name: name.to_owned(),
            total,
            done,
            bar,
            start: now,
            last_line: Mutex::new(now),
        }
    }
}

/// A stage under way, told of its steps from any thread.
#[derive(Debug)]
pub(crate) struct Stage {
    progress: Progress,
    name: String,
    total: u64,
    done: AtomicU64,
    bar: Option<ProgressBar>,
    start: Instant,
    last_line: Mutex<Instant>,
}

impl Stage {
    /// One more step is done.
    pub(crate) fn step(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        let Ok(mut last_line) = self.last_line.lock() else {
            return;
        };
        if self.progress == Progress::Lines
            && done < self.total
            && last_line.elapsed() >= LINE_EVERY
        {
            *last_line = Instant::now();
            line(&format!("{}: {done} of {}", self.name, self.total));
        }
    }

    /// Say how the stage is doing.
    pub(crate) fn note(&self, text: &str) {
        match (&self.bar, self.progress) {
            (Some(bar), _) => bar.println(text),
            (None, Progress::Lines) => line(text),
            _ => {}
        }
    }

    /// End the stage and give its seconds.
    pub(crate) fn finish(self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line on stderr; a closed stderr is nobody's error.
fn line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
