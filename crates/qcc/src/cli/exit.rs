//! The one place where errors become messages and exit codes.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Subcommand as _;
use qcc::Error;
use qcc_diag::{Diagnostic, codes};
use qcc_onnx::WriteError;
use qcc_report::{ErrorRecord, Note};

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Done.
    Well,
    /// Done, and two models differ by more than was allowed.
    Apart,
    /// Done, and a gate failed.
    Failed,
    /// Nothing was asked for, and help was shown.
    Helpless,
}

/// Prints a message to the error stream.
pub(super) fn say(message: &Diagnostic) {
    tell(&super::color::text(message));
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

/// Where JSON goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// To the output stream.
    Stream,
    /// Into a file.
    File(PathBuf),
}

impl Json {
    /// What `--json` asks for. Read off the plain arguments, so that an error in another one of them
    /// is JSON too. Only `quantize` writes a file; for other commands that is an error.
    pub(super) fn asked(args: &[OsString]) -> Option<Self> {
        let others = super::Command::augment_subcommands(clap::Command::new("qcc"));
        let others = others.get_subcommands().filter(|it| it.get_name() != "quantize");
        let others: Vec<&str> = others.map(clap::Command::get_name).collect();
        let is_other = |it: &OsString| it.to_str().is_some_and(|it| others.contains(&it));
        let has_file = !args.get(1).is_some_and(is_other);
        let args = args.iter().skip(1).take_while(|it| *it != "--");
        let mut found = None;
        for arg in args.filter_map(|it| it.to_str()) {
            found = match arg.strip_prefix("--json") {
                Some("" | "=-") => Some(Self::Stream),
                Some(path) if has_file && path.starts_with('=') => {
                    Some(Self::File(path[1..].into()))
                }
                _ => found,
            };
        }
        found
    }

    /// Writes a document.
    ///
    /// # Errors
    /// When the file or the output stream cannot be written.
    pub(super) fn write(&self, document: &impl serde::Serialize) -> Result<Ended, Error> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|it| Diagnostic::error(codes::QCC0901, it.to_string()))?;
        let text = format!("{text}\n");
        match self {
            Self::Stream => show(&text),
            Self::File(path) => write_file(path, &text).map(|()| Ended::Well),
        }
    }
}

/// Writes a text. A file appears whole or not at all; pipes and devices are written to.
///
/// # Errors
/// QCC0105 when it cannot be written.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    let found = fs::metadata(path);
    let straight = || fs::write(path, text).map_err(|it| unwritten(path, &it));
    if found.as_ref().is_ok_and(|it| !it.is_file()) {
        return straight();
    }
    // What a link leads to is written, and the link stays.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match qcc_onnx::write_file(&place, |to| to.write_all(text.as_bytes())) {
        Ok(()) => Ok(()),
        // A file may be written where its folder takes no other.
        Err(WriteError::Io { source, .. }) if found.is_ok() && is_locked(&source) => straight(),
        Err(WriteError::Io { source, .. }) => Err(unwritten(path, &source)),
        Err(other) => Err(unwritten(path, &io::Error::other(other))),
    }
}

fn is_locked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// A file that cannot be written.
pub(super) fn unwritten(path: &Path, error: &io::Error) -> Error {
    let text = format!("'{}' cannot be written: {error}", path.display());
    let help = "choose another folder";
    Diagnostic::error(codes::QCC0105, text).at(path.display().to_string()).with_help(help).into()
}

/// Whether a file can be written, which is tried: what is there stays as it is. Pipes and devices
/// are not opened.
///
/// # Errors
/// QCC0105 when it cannot.
pub(super) fn try_file(path: &Path) -> Result<(), Error> {
    let tried = match fs::metadata(path) {
        Ok(it) if it.is_dir() => Err(io::Error::other("it is not a file")),
        Ok(it) if it.is_file() => fs::OpenOptions::new().append(true).open(path).map(drop),
        Ok(_) => Ok(()),
        Err(_) => fs::File::create_new(path).and_then(|_| fs::remove_file(path)),
    };
    tried.map_err(|it| unwritten(path, &it))
}

/// Runs a command and turns what comes of it into an exit code. Errors go to the error stream, and
/// as JSON to where `json` says; a panic is an error with a code.
pub(super) fn end(json: Option<&Json>, run: impl FnOnce() -> Result<Ended, Error>) -> ExitCode {
    let panicked = Arc::new(Mutex::new(None));
    let slot = panicked.clone();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("no message");
        let place =
            info.location().map_or(String::new(), |it| format!("{}:{}", it.file(), it.line()));
        let message = Diagnostic::error(codes::QCC0901, text)
            .at(place)
            .with_note("this is a bug in qcc; nothing was written")
            .with_help("report it with the command and, if you may, the model");
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }));
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let message = panicked.lock().unwrap_or_else(PoisonError::into_inner).take();
        let fallback = || Diagnostic::error(codes::QCC0901, "no message");
        Err(message.unwrap_or_else(fallback).into())
    });
    match result {
        Ok(Ended::Well) => ExitCode::SUCCESS,
        Ok(Ended::Apart) => ExitCode::from(4),
        Ok(Ended::Failed) => ExitCode::from(3),
        Ok(Ended::Helpless) => ExitCode::from(2),
        Err(error) => {
            let message = error.diagnostic();
            say(message);
            let exit_code = code(message);
            let record = ErrorRecord { error: Note::from(message), exit_code };
            // Nor is it written where a file would be lost that the command reads.
            let is_safe = |it: &&Json| **it == Json::Stream || message.code != codes::QCC0107;
            if let Some(Err(error)) = json.filter(is_safe).map(|it| it.write(&record))
                && error.diagnostic() != message
            {
                say(error.diagnostic());
            }
            ExitCode::from(exit_code)
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
///
/// # Errors
/// When it is a mistake.
pub(super) fn usage(error: &clap::Error) -> Result<Ended, Error> {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as Missing;
    if error.use_stderr() && error.kind() != Missing {
        return Err(of_usage(error).into());
    }
    let _ = error.print(); // a closed pipe is no error
    Ok(if error.use_stderr() { Ended::Helpless } else { Ended::Well })
}

/// A mistake in the arguments, in the words of the parser.
pub(super) fn of_usage(error: &clap::Error) -> Diagnostic {
    let text = error.render().to_string();
    let (mut message, mut notes, mut help) = (String::new(), Vec::new(), Vec::new());
    let mut is_first = true;
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            is_first = false;
        } else if let Some(tip) = line.strip_prefix("tip: ") {
            // What begins with a dash is no file or value that anybody has.
            if !tip.starts_with("to pass '") {
                help.push(tip.to_owned());
            }
        } else if let Some(list) = line.strip_prefix("[possible values: ") {
            notes.push(format!("possible values are {}", list.trim_end_matches(']')));
        } else if line.starts_with("Usage: ") {
            notes.push(line.replacen("Usage", "usage", 1));
        } else if is_first {
            let between = if message.is_empty() { "" } else { " " };
            message.push_str(between);
            message.push_str(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    help.push("--help lists the options".to_owned());
    Diagnostic { notes, help, ..Diagnostic::error(codes::QCC0304, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_asked_for_before_anything_is_parsed() {
        let asked = |line: &str| Json::asked(&line.split(' ').map(Into::into).collect::<Vec<_>>());
        assert_eq!(asked("qcc m.onnx --json"), Some(Json::Stream));
        assert_eq!(asked("qcc m.onnx --json=a.json -b9"), Some(Json::File("a.json".into())));
        assert_eq!(asked("qcc m.onnx --json=-"), Some(Json::Stream));
        assert_eq!(asked("qcc m.onnx -- --json"), None);
        assert_eq!(asked("qcc inspect m.onnx --json"), Some(Json::Stream));
        assert_eq!(asked("qcc inspect m.onnx --json=m.onnx"), None);
        assert_eq!(asked("qcc quantize m.onnx --json=a"), Some(Json::File("a".into())));
        assert_eq!(asked("--json m.onnx --jsonl"), None);
    }

    #[test]
    fn a_mistake_is_told_in_parts() {
        let command =
            clap::Command::new("qcc").arg(clap::arg!(--bits <N>).value_parser(["4", "8"]));
        let error = command.clone().try_get_matches_from(["qcc", "--bit=4"]).unwrap_err();
        let message = of_usage(&error);
        assert_eq!(message.message, "unexpected argument '--bit' found");
        assert_eq!(message.help[0], "a similar argument exists: '--bits'");
        let error =
            command.clone().arg(clap::arg!([model])).try_get_matches_from(["qcc", "--values"]);
        let message = of_usage(&error.unwrap_err());
        assert_eq!(message.help, ["--help lists the options"]);
        let error = command.try_get_matches_from(["qcc", "--bits=5"]).unwrap_err();
        let message = of_usage(&error);
        assert_eq!(message.message, "invalid value '5' for '--bits <N>'");
        assert_eq!(message.notes[0], "possible values are 4, 8");
    }

    #[test]
    fn a_panic_has_the_exit_code_of_a_bug() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("error.json");
        let json = Json::File(path.clone());
        let code = end(Some(&json), || {
            let none: Vec<Ended> = Vec::new();
            Ok(none[0])
        });
        let _ = std::panic::take_hook();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(70)));
        let text = fs::read_to_string(path).unwrap();
        let record: ErrorRecord = serde_json::from_str(&text).unwrap();
        assert_eq!((record.error.code.as_str(), record.exit_code), ("QCC0901", 70));
    }
}
