//! The `tnq` command: arguments, a validated job, the crates that do the work, a report.

mod args;
mod array_job;
mod commands;
mod encoded;
mod error;
mod goals;
mod job;
mod model;
mod output;
mod progress;
mod rules;
mod settings;
mod study;
mod table;
mod timing;
mod tuning;

use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::commands::Ended;
use crate::error::CliError;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // A panic that a library catches is told as its error; one that nobody catches is told below.
    panic::set_hook(Box::new(|_| {}));
    match panic::catch_unwind(|| run(command)) {
        Ok(Ok(Ended::Done)) => ExitCode::SUCCESS,
        Ok(Ok(Ended::GoalMissed)) => ExitCode::from(3),
        Ok(Err(error)) => fail(&error.one_line(), error.exit_code()),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            fail(
                &format!(
                    "a defect of tnq {}, please report it: {text}",
                    env!("CARGO_PKG_VERSION")
                ),
                1,
            )
        }
    }
}

fn run(command: Command) -> Result<Ended, CliError> {
    let done = match command {
        Command::Compress(args) if args.goals.any() || args.plan.is_some() => {
            return commands::planned::compress(&args);
        }
        Command::Plan(args) => return commands::planned::plan(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Compress(args) => commands::compress::run(*args),
        Command::Finetune(args) => commands::finetune::run(*args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
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
