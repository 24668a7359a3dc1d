//! The `tnq` command: arguments, a validated job, the crates that do the work, a report.

mod args;
mod array_job;
mod commands;
mod encoded;
mod error;
mod examples;
mod goals;
mod job;
mod limit;
mod memory;
mod model;
mod nearest;
mod output;
mod pool;
mod progress;
mod report;
mod rules;
mod settings;
mod study;
mod table;
mod temporary;
mod timing;
mod tuning;

use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;

use crate::args::{Cli, Command};
use crate::commands::Ended;
use crate::error::CliError;

fn main() -> ExitCode {
    pool::only_one();
    memory::give_back();
    let Cli { memory, command } = Cli::parse();
    if let Some(Err(error)) = memory.map(limit::Memory::hold) {
        return fail(&error.one_line(), error.exit_code());
    }
    // A panic that a library catches is told as its error; one that nobody catches is told below, with its place.
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
    match panic::catch_unwind(|| run(command)) {
        Ok(Ok(Ended::Done)) => ExitCode::SUCCESS,
        Ok(Ok(Ended::GoalMissed)) => ExitCode::from(3),
        Ok(Err(error)) => fail(&error.one_line(), error.exit_code()),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            let place = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
            fail(&defect(text, place.as_deref()), 1)
        }
    }
}

/// Where the last panic was.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// The last resort: what is told of a panic, and what to report.
fn defect(text: &str, place: Option<&str>) -> String {
    let text: Vec<&str> = text.split_whitespace().collect();
    format!(
        "a defect of tnq {} at {}: {}; what it wrote is whole or absent. Please report this line, the command ({}), the \
         platform ({} {}) and, if you may share it, the model or what `tnq inspect --json` says of it",
        env!("CARGO_PKG_VERSION"),
        place.unwrap_or("an unknown place"),
        text.join(" "),
        report::command_line(),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

fn run(command: Command) -> Result<Ended, CliError> {
    let done = match command {
        Command::Compress(args) if args.is_planned() => {
            return commands::planned::compress(&args);
        }
        Command::Plan(args) => return commands::planned::plan(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Compress(args) => commands::compress::run(*args),
        Command::Finetune(args) => commands::finetune::run(*args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Decompose(args) => commands::decompose::run(&args),
        Command::Reconstruct(args) => commands::reconstruct::run(&args),
        Command::Study { study } => commands::study::run(&study),
        Command::Completions { shell } => commands::docs::completions(shell),
        Command::Man => commands::docs::man(),
    };
    done.map(|()| Ended::Done)
}

/// One line on stderr; a closed stderr cannot be told about.
fn fail(line: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "error: {line}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_line_that_says_what_to_report() {
        let line = defect("index out\n of bounds", Some("src/x.rs:3:9"));
        for part in [
            "at src/x.rs:3:9: index out of bounds;",
            "report this line",
            std::env::consts::ARCH,
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!line.contains('\n'));
    }
}
