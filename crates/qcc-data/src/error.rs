//! Why samples cannot be used, as a message for the user.

use qcc_diag::{Code, Diagnostic, codes};
use qcc_pass::SampleError;

/// An error with its code, place and ways out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", .0.message)]
pub struct DataError(pub Box<Diagnostic>);

impl DataError {
    /// QCC0401: `source` is no file that samples can be read from.
    pub fn unreadable(source: &str, what: impl std::fmt::Display) -> Self {
        Self::new(codes::QCC0401, source, format!("'{source}' cannot be read: {what}"))
    }

    /// QCC0402: what `source` holds is not what the model takes.
    pub fn mismatch(source: &str, what: impl std::fmt::Display) -> Self {
        Self::new(codes::QCC0402, source, format!("the samples do not fit the model: {what}"))
    }

    /// QCC0404: the outputs are not such that they can be scored.
    pub fn not_scored(what: impl std::fmt::Display) -> Self {
        let text = format!("the model cannot be evaluated: {what}");
        Self(Box::new(Diagnostic::error(codes::QCC0404, text)))
    }

    fn new(code: Code, source: &str, text: String) -> Self {
        Self(Box::new(Diagnostic::error(code, text).at(source)))
    }

    /// Adds a way out.
    #[must_use]
    pub fn help(self, text: impl Into<String>) -> Self {
        Self(Box::new(self.0.with_help(text)))
    }

    /// Adds the way out that always leads somewhere, where no better one is known.
    pub(crate) fn or_help(self) -> Self {
        let text = match self.0.code {
            _ if !self.0.help.is_empty() => return self,
            it if it == codes::QCC0401 => "check the file, or write it again",
            it if it == codes::QCC0402 => "qcc inspect MODEL lists what the inputs take",
            _ => return self,
        };
        self.help(text)
    }

    /// Adds what else is known.
    #[must_use]
    pub fn note(self, text: impl Into<String>) -> Self {
        Self(Box::new(self.0.with_note(text)))
    }
}

impl From<DataError> for SampleError {
    fn from(error: DataError) -> Self {
        Self::Diagnostic(error.0)
    }
}

impl From<DataError> for Box<Diagnostic> {
    fn from(error: DataError) -> Self {
        error.0
    }
}
