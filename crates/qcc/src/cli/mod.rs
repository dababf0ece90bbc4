//! The command line: what was typed becomes calls of the library, and errors become exit codes.

mod argv;
mod bench;
mod budget;
mod color;
mod command;
mod compare;
mod config;
mod detail;
mod emit;
mod eval;
mod exit;
mod explain;
mod inspect;
mod look;
mod man;
mod measured;
mod memory;
mod overwrites;
mod passes;
mod quantize;
mod record;
mod report;
mod run;
mod stays;
mod stop;
mod streams;
mod tokenizer;
mod took;
mod verify;
mod version;
mod watch;
mod words;
mod work;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use color::Color;
use command::{Cli, Command};
use exit::{Ended, Json};
use qcc::Error;

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let json = Json::asked(&args);
    Color::asked(&args).apply();
    match overwrites::check_json(&args, json.as_ref()) {
        // Nothing is written there then, nor is this error.
        Err(error) => exit::end(None, || Err(error)),
        Ok(()) => exit::end(json.as_ref(), || dispatch(args, json.as_ref())),
    }
}

fn dispatch(args: Vec<OsString>, json: Option<&Json>) -> Result<Ended, Error> {
    let command = argv::with_negations(Cli::command());
    let args = config::expand(argv::normalize(args, &command), &command)?;
    // A file of options may have asked for colors.
    let color = Color::asked(&args);
    color.apply();
    let command = command.color(color.of_help());
    let json = Json::asked(&args).or(json.cloned());
    let matches = match command.clone().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return exit::usage(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    if matches!(cli.command, Command::Eval(_) | Command::Compare(_) | Command::Inspect(_)) {
        words::limit_threads()?;
    }
    match cli.command {
        Command::Quantize(args) => {
            let typed = matches.subcommand_matches("quantize");
            let known = command.find_subcommand("quantize");
            let options = known.zip(typed).map(|(known, it)| argv::effective(known, it));
            quantize::run(&args, options.unwrap_or_default(), json.as_ref())
        }
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Passes(args) => passes::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Completions(args) => man::completions(&args),
        Command::Man(args) => man::man(&args),
        Command::Version(args) => version::run(&args),
    }
}
