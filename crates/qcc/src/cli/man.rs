//! `qcc man` and `qcc completions`: made from the types that parse the arguments.

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use qcc::Error;
use qcc_diag::{Diagnostic, codes};
use qcc_pass::nearest;

use super::command::Cli;
use super::exit::{Ended, show_bytes};
use super::words::meant;

/// Options of `man`.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// The command that the page is about; qcc itself without it
    pub(super) command: Option<String>,
}

/// Options of `completions`.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell
    pub(super) shell: Shell,
}

/// Runs `man`.
pub(super) fn man(args: &ManArgs) -> Result<Ended, Error> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    if let Some(name) = &args.command {
        let Some(found) = command.find_subcommand(name) else {
            let error = Diagnostic::error(codes::QCC0304, format!("there is no command '{name}'"));
            let near = nearest(name, command.get_subcommands().map(Command::get_name));
            return Err(meant(error, near).with_help("qcc --help lists all of them").into());
        };
        command = found.clone();
    }
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(command).render(&mut page);
    show_bytes(&page)
}

/// Runs `completions`.
pub(super) fn completions(args: &CompletionsArgs) -> Result<Ended, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "qcc", &mut script);
    show_bytes(&script)
}
