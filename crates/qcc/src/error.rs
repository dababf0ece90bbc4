//! The error of the library: a diagnostic.

use std::fmt;

use qcc_diag::{Code, Diagnostic};

/// Why a run failed: what the command prints.
#[derive(Clone, Debug, PartialEq)]
pub struct Error(Box<Diagnostic>);

impl Error {
    /// Which of the documented errors it is.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The message with place, notes and help.
    pub fn diagnostic(&self) -> &Diagnostic {
        &self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {}

impl From<Diagnostic> for Error {
    fn from(it: Diagnostic) -> Self {
        Self(Box::new(it))
    }
}

impl From<Box<Diagnostic>> for Error {
    fn from(it: Box<Diagnostic>) -> Self {
        Self(it)
    }
}

impl From<qcc_onnx::ReadError> for Error {
    fn from(it: qcc_onnx::ReadError) -> Self {
        Diagnostic::from(it).into()
    }
}

impl From<qcc_onnx::WriteError> for Error {
    fn from(it: qcc_onnx::WriteError) -> Self {
        Diagnostic::from(it).into()
    }
}
