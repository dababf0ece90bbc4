//! What a pass is, and what it is given.

use qcc_diag::Diagnostic;
use qcc_ir::{Graph, Patch};

use crate::{OptionInfo, Options, PassError, Record, Session};

/// A pass: one row of the table of a crate of passes.
///
/// `run` reads the graph and says what to change; it changes nothing itself. What it declines it
/// puts down as a note in the record.
///
/// All patches of one run are about the graph that was given, and are applied in order; one may
/// name a value that one before it replaced, and gets its replacement.
#[derive(Clone, Copy, Debug)]
pub struct PassInfo {
    /// Name in pipeline text, in `kebab-case`.
    pub name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The options it takes.
    pub options: &'static [OptionInfo],
    /// The pass itself.
    pub run: fn(&Graph, &mut Ctx<'_>) -> Result<Vec<Patch>, PassError>,
}

impl PassInfo {
    /// What is wrong with this row of a table, for the tests of those who write tables: a name
    /// that is not in `kebab-case` or is there twice, a default that the option does not take, a
    /// text that is not one line without a full stop.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !is_kebab(self.name) {
            faults.push(format!("'{}' is not in kebab-case", self.name));
        }
        if !is_line(self.summary) {
            faults.push(format!("{}: summary {:?}", self.name, self.summary));
        }
        for (idx, option) in self.options.iter().enumerate() {
            let name = format!("{}{{{}}}", self.name, option.name);
            if !is_kebab(option.name) {
                faults.push(format!("{name} is not in kebab-case"));
            }
            if self.options[..idx].iter().any(|it| it.name == option.name) {
                faults.push(format!("{name} is there twice"));
            }
            if !option.has_default() {
                faults.push(format!("{name} takes {}, not {:?}", option.kind, option.default));
            }
            if !is_line(option.help) {
                faults.push(format!("{name}: help {:?}", option.help));
            }
        }
        faults
    }
}

fn is_kebab(name: &str) -> bool {
    let is_word = |it: &str| {
        !it.is_empty() && it.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    name.starts_with(|it: char| it.is_ascii_lowercase()) && name.split('-').all(is_word)
}

fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('.') && !text.contains('\n')
}

/// What a pass may use besides the graph.
pub struct Ctx<'a> {
    /// The options of this pass, all of them set.
    pub options: Options,
    /// What the run brings along.
    pub session: &'a Session,
    /// What the run tells.
    pub record: &'a mut Record,
}

impl Ctx<'_> {
    /// Puts down a note or a warning.
    pub fn note(&mut self, note: Diagnostic) {
        self.record.notes.push(note);
    }

    /// Puts down a warning that is worth knowing while the run goes on, and says it at once.
    pub fn warn(&mut self, warning: Diagnostic) {
        self.session.progress.say("warning", &warning.message);
        self.record.notes.push(warning);
    }

    /// Adds to a counter, named `pass.what`.
    pub fn count(&mut self, name: &str, by: u64) {
        self.record.count(name, by);
    }

    /// To be called now and then in long work.
    ///
    /// # Errors
    /// [`PassError::Cancelled`] once somebody asked the run to stop.
    pub fn check_cancelled(&self) -> Result<(), PassError> {
        if self.session.cancel.is_set() { Err(PassError::Cancelled) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OptionKind;

    const fn row(name: &'static str, options: &'static [OptionInfo]) -> PassInfo {
        PassInfo { name, summary: "do a thing", options, run: |_, _| Ok(Vec::new()) }
    }

    #[test]
    fn right_rows_have_no_faults() {
        let options = &[
            OptionInfo {
                name: "lr",
                kind: OptionKind::Float { min: 0.0, max: 1.0 },
                default: "1/iters",
                help: "step size",
            },
            OptionInfo { name: "fast", kind: OptionKind::Bool, default: "true", help: "hurry" },
        ];
        assert_eq!(row("to-nbits", options).faults(), Vec::<String>::new());
    }

    #[test]
    fn wrong_rows_are_told() {
        let bits = OptionKind::Int { min: 2, max: 8 };
        let option = |name, kind, default| OptionInfo { name, kind, default, help: "what" };
        let options = Box::leak(Box::new([
            option("bits", bits, "9"),
            option("bits", bits, "auto"),
            option("aBit", OptionKind::Bool, "auto"),
            option("mode", OptionKind::Choice(&["a", "b"]), "c"),
            OptionInfo { name: "x", kind: bits, default: "4", help: "Stops." },
        ]));
        let want = [
            "'To_nbits' is not in kebab-case",
            "To_nbits{bits} takes an integer from 2 to 8, not \"9\"",
            "To_nbits{bits} is there twice",
            "To_nbits{aBit} is not in kebab-case",
            "To_nbits{aBit} takes true or false, not \"auto\"",
            "To_nbits{mode} takes one of a, b, not \"c\"",
            "To_nbits{x}: help \"Stops.\"",
        ];
        assert_eq!(row("To_nbits", options).faults(), want);
    }
}
