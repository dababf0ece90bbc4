//! One message for the user.

use std::fmt;

use crate::Code;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something the user may want to know: a weight that was left alone, say.
    Note,
    /// The output is written, but the user should look.
    Warning,
    /// The run stops and nothing is written.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A message with its code, place, notes and ways out.
///
/// `message` is one line in lower case without a full stop that names the thing it is about;
/// each `help` is an action that works when it is done as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// Which of the messages of [`crate::codes`] it is.
    pub code: Code,
    /// The line that stands alone.
    pub message: String,
    /// Where: a file, node, tensor, byte or option.
    pub place: Option<String>,
    /// What else is known.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Vec<String>,
}

impl Diagnostic {
    /// An error: the run stops.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    /// A warning: the output is written, but the user should look.
    pub fn warning(code: Code, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    /// A note.
    pub fn note(code: Code, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, message)
    }

    fn new(severity: Severity, code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity, code, message, place: None, notes: Vec::new(), help: Vec::new() }
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Adds what else is known.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}

/// The text form, without colour:
///
/// ```text
/// error[QCC0101]: 'model.onnx' cannot be read: no such file
///   --> model.onnx
///   help: check the path
///   more: qcc explain QCC0101
/// ```
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.severity, self.code, self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n  --> {place}")?;
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        for help in &self.help {
            write!(f, "\n  help: {help}")?;
        }
        if self.severity != Severity::Note {
            write!(f, "\n  more: qcc explain {}", self.code)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes;

    #[test]
    fn text_form() {
        let it = Diagnostic::error(codes::QCC0101, "'m.onnx' cannot be read: no such file")
            .at("m.onnx")
            .with_help("check the path");
        insta::assert_snapshot!(it, @r"
        error[QCC0101]: 'm.onnx' cannot be read: no such file
          --> m.onnx
          help: check the path
          more: qcc explain QCC0101
        ");
    }
}
