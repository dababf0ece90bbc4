//! `-` in the place of a model: the input stream, or the output stream.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use qcc::{Error, Model, Output, ReadOptions, SaveOptions, Written};
use qcc_diag::{Diagnostic, codes};

/// What stands for a stream. A file of this name is `./-`.
pub(super) const STREAM: &str = "-";

/// Whether a path stands for a stream.
pub(super) fn is_stream(path: &Path) -> bool {
    path.as_os_str() == STREAM
}

/// Opens a model, or reads it from the input stream.
///
/// # Errors
/// As [`Model::open`]; when the input stream is a terminal, or has been read already.
pub(super) fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
    open_with(path.as_ref(), &ReadOptions::default())
}

/// As [`open`], with options.
///
/// # Errors
/// As [`open`].
pub(super) fn open_with(path: &Path, options: &ReadOptions) -> Result<Model, Error> {
    static IS_READ: AtomicBool = AtomicBool::new(false);
    if !is_stream(path) {
        return Model::open_with(path, options);
    }
    let input = io::stdin();
    let wrong = if input.is_terminal() {
        "the input stream is a terminal, and - reads a model from it"
    } else if IS_READ.swap(true, Ordering::Relaxed) {
        "only one model can be read from the input stream"
    } else {
        return Model::read(&mut input.lock(), options);
    };
    Err(Diagnostic::error(codes::QCC0304, wrong).with_help("give the path of a model").into())
}

/// Whether the output stream takes bytes of a model.
///
/// # Errors
/// When it is a terminal.
pub(super) fn must_be_no_terminal() -> Result<(), Error> {
    if !io::stdout().is_terminal() {
        return Ok(());
    }
    let text = "the output stream is a terminal, and would get the bytes of a model";
    Err(Diagnostic::error(codes::QCC0304, text)
        .at("option --output -")
        .with_help("name a file with -o, or send the output to one: > model.q4.onnx")
        .into())
}

/// Saves a model, or writes it to the output stream.
///
/// # Errors
/// As [`Output::save`] and [`Output::write_to`].
pub(super) fn save(model: &Output, path: &Path, options: &SaveOptions) -> Result<Written, Error> {
    if is_stream(path) {
        model.write_to(&mut io::stdout().lock(), options)
    } else {
        model.save(path, options)
    }
}
