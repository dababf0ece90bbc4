//! The one place where errors become messages and exit codes.

use std::io::{self, ErrorKind, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use qcc::Error;
use qcc_diag::{Diagnostic, codes};

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Done.
    Well,
}

/// Prints a message to the error stream.
pub(super) fn say(message: &Diagnostic) {
    tell(&message.to_string());
}

/// Prints a line to the error stream. A reader that is gone misses nothing that matters.
pub(super) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints a result to the output stream. A reader that has seen enough and closed the pipe is no
/// error.
///
/// # Errors
/// When it cannot be written for another reason: a full disk, say.
pub(super) fn show(text: &str) -> Result<Ended, Error> {
    show_bytes(text.as_bytes())
}

/// As [`show`], for what a library has written.
pub(super) fn show_bytes(text: &[u8]) -> Result<Ended, Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let text = format!("the output stream cannot be written: {error}");
            Err(Diagnostic::error(codes::QCC0105, text).into())
        }
        _ => Ok(Ended::Well),
    }
}

/// The exit code of a command.
pub(super) fn finish(result: Result<Ended, Error>) -> ExitCode {
    match result {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Err(error) => {
            say(error.diagnostic());
            ExitCode::from(code(error.diagnostic()))
        }
    }
}

fn code(message: &Diagnostic) -> u8 {
    match message.code {
        it if it == codes::QCC0509 => 130,
        it if it == codes::QCC0802 => 4,
        it if it.family() == "03" && it != codes::QCC0305 => 2,
        it if it.family() == "09" => 70,
        _ => 1,
    }
}

/// A mistake in the arguments, or a request for help.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    let is_help = !error.use_stderr();
    let _ = error.print(); // a closed pipe is no error
    if is_help { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

/// Turns a panic into an error with a code.
pub(super) fn catch(run: impl FnOnce() -> ExitCode) -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no message");
        let place =
            info.location().map_or(String::new(), |it| format!("{}:{}", it.file(), it.line()));
        say(&Diagnostic::error(codes::QCC0901, text)
            .at(place)
            .with_note("this is a bug in qcc; nothing was written")
            .with_help("report it with the command and, if you may, the model"));
    }));
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(ExitCode::from(70))
}
