//! What a pass is, and what it is given.

use qcc_diag::Diagnostic;
use qcc_ir::{Graph, Patch};

use crate::{OptionInfo, Options, PassError, Record, Session};

/// A pass: one row of the table of a crate of passes.
///
/// `run` reads the graph and says what to change; it changes nothing itself. What it declines it
/// puts down as a note in the record.
///
/// All patches of one run are about the graph that was given, and are applied in order. None may
/// name a value that one before it replaced: a pass that rewrites neighbors puts them into one
/// patch, or goes from the outputs to the inputs.
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
