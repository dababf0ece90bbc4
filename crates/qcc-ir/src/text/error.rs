//! What the parser says about text that it cannot read.

use qcc_diag::{Diagnostic, codes};

/// Why a text is no graph, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do, if that is known.
    pub help: Option<String>,
    /// The line, or what stands around the column in a long one.
    pub excerpt: String,
}

/// Characters of a line that are shown on each side of the column.
const MAX_SHOWN: usize = 60;

impl ParseError {
    /// The message for the user. Its place is `line:column`; a caller that knows the file puts its
    /// name before that.
    pub fn diagnostic(&self) -> Diagnostic {
        let place = format!("{}:{}", self.line, self.column);
        let it = Diagnostic::error(codes::QCC0306, &self.message).at(place);
        let it = it.with_note(format!("the line is: {}", self.excerpt));
        match &self.help {
            Some(help) => it.with_help(help),
            None => it,
        }
    }

    pub(super) fn new(text: &str, fault: Fault) -> Self {
        // An offset is always that of a token, so it lies between two characters.
        let (before, after) = text.split_at_checked(fault.at).unwrap_or((text, ""));
        let start = before.rfind('\n').map_or(0, |it| it + 1);
        let head = before.get(start..).unwrap_or_default();
        let tail = after.split(['\n', '\r']).next().unwrap_or_default();
        let n_head = head.chars().count();
        let mut excerpt: String = head.chars().skip(n_head.saturating_sub(MAX_SHOWN)).collect();
        if n_head > MAX_SHOWN {
            excerpt.insert_str(0, "...");
        }
        excerpt.extend(tail.chars().take(MAX_SHOWN));
        if tail.chars().nth(MAX_SHOWN).is_some() {
            excerpt.push_str("...");
        }
        Self {
            line: before.bytes().filter(|&it| it == b'\n').count() + 1,
            column: n_head + 1,
            message: fault.message,
            help: fault.help,
            excerpt: excerpt.trim().to_owned(),
        }
    }
}

/// An error before its line is known.
#[derive(Debug)]
pub(super) struct Fault {
    /// Offset in the text, in bytes.
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Fault {
    pub(super) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), help: None }
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_and_excerpt() {
        let text = "a\r\n  ü = b\r\nc";
        let error = ParseError::new(text, Fault::new(text.find('b').unwrap(), "no"));
        assert_eq!((error.line, error.column, &*error.excerpt), (2, 7, "ü = b"));
        let error = ParseError::new(text, Fault::new(text.len(), "no"));
        assert_eq!((error.line, error.column, &*error.excerpt), (3, 2, "c"));
        let long = "x".repeat(500);
        let error = ParseError::new(&long, Fault::new(300, "no"));
        assert_eq!(error.excerpt, format!("...{}...", "x".repeat(120)));
    }

    #[test]
    fn diagnostic() {
        let fault = Fault::new(0, "'b' is wrong").with_help("write 'a'");
        insta::assert_snapshot!(ParseError::new("b = 1", fault).diagnostic(), @r"
        error[QCC0306]: 'b' is wrong
          --> 1:1
          note: the line is: b = 1
          help: write 'a'
          more: qcc explain QCC0306
        ");
    }
}
