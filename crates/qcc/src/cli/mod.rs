//! The command line: what was typed becomes calls of the library, and errors become exit codes.

mod argv;
mod command;
mod eval;
mod exit;
mod explain;
mod inspect;
mod look;
mod man;
mod passes;
mod quantize;
mod record;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use command::{Cli, Command};

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    exit::catch(|| {
        let command = Cli::command();
        let args = argv::normalize(std::env::args_os().collect(), &command);
        let cli = match command.try_get_matches_from(args).and_then(|it| Cli::from_arg_matches(&it))
        {
            Ok(cli) => cli,
            Err(error) => return exit::usage(&error),
        };
        exit::finish(match cli.command {
            Command::Quantize(args) => quantize::run(&args),
            Command::Eval(args) => eval::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Passes(args) => passes::run(&args),
            Command::Explain(args) => explain::run(&args),
            Command::Completions(args) => man::completions(&args),
            Command::Man(args) => man::man(&args),
        })
    })
}
