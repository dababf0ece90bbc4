//! `--color`: whether messages and help have colors. Results never have.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Style};
use qcc_diag::{Diagnostic, Severity};

/// When there are colors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless the environment has `NO_COLOR`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Whether messages have colors.
static IN_MESSAGES: AtomicBool = AtomicBool::new(false);

impl Color {
    /// What `--color` asks for. Read off the plain arguments, so that an error in another one of
    /// them has it too.
    pub(super) fn asked(args: &[OsString]) -> Self {
        let args: Vec<&str> = args
            .iter()
            .take_while(|it| *it != "--")
            .map(|it| it.to_str().unwrap_or_default())
            .collect();
        let mut found = Self::default();
        for (at, arg) in args.iter().enumerate() {
            let value = match arg.strip_prefix("--color") {
                Some("") => args.get(at + 1).copied(),
                Some(value) => value.strip_prefix('='),
                None => None,
            };
            found = value.and_then(|it| Self::from_str(it, true).ok()).unwrap_or(found);
        }
        found
    }

    /// Holds for all messages from here on.
    pub(super) fn apply(self) {
        let env = |name| std::env::var_os(name);
        let is_terminal = io::stderr().is_terminal();
        let (no_color, term) = (env("NO_COLOR"), env("TERM"));
        let is_on = self.is_on(is_terminal, no_color.as_deref(), term.as_deref());
        IN_MESSAGES.store(is_on, Ordering::Relaxed);
    }

    fn is_on(self, is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let is_refused = no_color.is_some_and(|it| !it.is_empty());
                is_terminal && !is_refused && term != Some(OsStr::new("dumb"))
            }
        }
    }

    /// The same for the parser of arguments, which prints help.
    pub(super) fn of_help(self) -> clap::ColorChoice {
        match self {
            Self::Auto => clap::ColorChoice::Auto,
            Self::Always => clap::ColorChoice::Always,
            Self::Never => clap::ColorChoice::Never,
        }
    }
}

/// A message as text, in colors where there are any.
pub(super) fn text(message: &Diagnostic) -> String {
    let plain = message.to_string();
    if IN_MESSAGES.load(Ordering::Relaxed) { painted(&plain, message.severity) } else { plain }
}

/// Severity and code in the color of the severity, what is wrong in bold, labels of other lines in
/// cyan. The words are the same.
fn painted(plain: &str, severity: Severity) -> String {
    let color = match severity {
        Severity::Error => AnsiColor::BrightRed,
        Severity::Warning => AnsiColor::BrightYellow,
        Severity::Note => AnsiColor::BrightBlue,
    };
    let (head, bold) = (color.on_default().bold(), Style::new().bold());
    let label = AnsiColor::Cyan.on_default();
    let mut out = String::new();
    for (at, line) in plain.lines().enumerate() {
        let (begin, mark, rest) = match line.split_once(": ") {
            Some((begin, rest)) => (begin, ": ", rest),
            None => ("", "", line),
        };
        let known = ["  note", "  help", "  more"];
        let _ = match (at, begin) {
            (0, _) => write!(out, "{head}{begin}{head:#}{bold}{mark}{rest}{bold:#}"),
            _ if known.contains(&begin) => write!(out, "\n{label}{begin}{label:#}{mark}{rest}"),
            _ => write!(out, "\n{line}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use qcc_diag::codes;

    use super::*;

    #[test]
    fn color_is_asked_for_before_anything_is_parsed() {
        let asked = |line: &str| Color::asked(&line.split(' ').map(Into::into).collect::<Vec<_>>());
        assert_eq!(asked("qcc m.onnx --color always -b9"), Color::Always);
        assert_eq!(asked("qcc m.onnx --color=never"), Color::Never);
        assert_eq!(asked("qcc m.onnx --color=none"), Color::Auto);
        assert_eq!(asked("qcc m.onnx -- --color=never"), Color::Auto);
        assert_eq!(asked("qcc m.onnx --color"), Color::Auto);
    }

    #[test]
    fn only_terminals_have_colors_by_themselves() {
        let is_on = |is_terminal, no_color: Option<&str>, term: Option<&str>| {
            Color::Auto.is_on(is_terminal, no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(is_on(true, None, Some("xterm")));
        assert!(is_on(true, Some(""), None));
        assert!(!is_on(true, Some("1"), None));
        assert!(!is_on(true, None, Some("dumb")));
        assert!(!is_on(false, None, None));
        assert!(Color::Always.is_on(false, Some(OsStr::new("1")), None));
    }

    #[test]
    fn colors_change_no_word() {
        let message = Diagnostic::warning(codes::QCC0607, "'a: b' holds NaN")
            .at("weight: w")
            .with_note("one: two")
            .with_help("look");
        let plain = message.to_string();
        let painted = painted(&plain, message.severity);
        assert!(painted.starts_with("\u{1b}[1m\u{1b}[93mwarning[QCC0607]\u{1b}[0m"));
        let mut words = String::new();
        for part in painted.split('\u{1b}') {
            words.push_str(
                part.split_once('m').filter(|it| it.0.starts_with('[')).map_or(part, |it| it.1),
            );
        }
        assert_eq!(words, plain);
    }
}
