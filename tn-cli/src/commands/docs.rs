//! `tnq completions` and `tnq man`: made from the arguments, so they are never out of date.

use clap::CommandFactory;
use clap_complete::Shell;

use super::print;
use crate::args::Cli;
use crate::error::CliError;

/// Print the completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tnq", &mut text);
    print(&text)
}

/// Print the manual page: the command, then one page per subcommand.
pub(crate) fn man() -> Result<(), CliError> {
    let mut command = Cli::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .map_err(CliError::Print)?;
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        clap_mangen::Man::new(sub.clone())
            .render(&mut text)
            .map_err(CliError::Print)?;
    }
    print(&text)
}
