//! Words of pipeline text: names, values and quotes.
//!
//! A value is bare, a list in brackets, or quoted. In quotes `\"`, `\\`, `\n`, `\r`, `\t` and
//! `\u{hex}` stand for characters, so that any text fits on one line.

use std::fmt::Write;

/// Whether a character needs no quotes: all but those that mean something and blanks.
pub(crate) fn is_bare(c: char) -> bool {
    !(c.is_whitespace() || c.is_control() || matches!(c, ',' | '{' | '}' | '[' | ']' | '=' | '"'))
}

/// Text as a value: as it is where that reads back, else in quotes.
pub(crate) fn quoted(text: &str) -> String {
    let is_word = |it: &str| !it.is_empty() && it.chars().all(is_bare);
    let list = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    if is_word(text) || list.is_some_and(|it| it.is_empty() || it.split(',').all(is_word)) {
        return text.to_owned();
    }
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
