//! What there is to say of a run, besides its results.

use qcc_diag::{Diagnostic, Severity, codes};
use qcc_ir::{Graph, OpRef};
use qcc_report::{Note, RunRecord};

use super::super::command::QuantizeArgs;
use super::super::exit::say;

/// What there is to say, said and kept for the record.
pub(super) struct Notes<'a> {
    args: &'a QuantizeArgs,
    all: Vec<Diagnostic>,
}

impl<'a> Notes<'a> {
    /// None yet.
    pub(super) fn new(args: &'a QuantizeArgs) -> Self {
        Self { args, all: Vec::new() }
    }

    /// Says those that were asked for, and keeps all.
    pub(super) fn add(&mut self, list: &[Diagnostic]) {
        for note in list {
            if !self.args.quiet && (note.severity > Severity::Note || self.args.verbose) {
                say(note);
            }
            self.all.push(note.clone());
        }
    }

    /// All of them, as the record has them.
    pub(super) fn rows(&self) -> Vec<Note> {
        self.all.iter().map(Note::from).collect()
    }
}

/// That no weight was chosen, and why.
pub(super) fn nothing(record: &RunRecord, graph: &Graph) -> Diagnostic {
    let mut message =
        Diagnostic::warning(codes::QCC0601, "no weight was chosen, so nothing is quantized");
    for line in qcc_report::left(record) {
        message = message.with_note(line);
    }
    if record.weights.is_empty() {
        message = message.with_note("the model multiplies by no float constant");
    }
    let is_call = |op: &&OpRef| graph.functions().get(op.domain(), op.name()).is_some();
    let calls = graph.nodes().filter_map(|it| it.1.op()).filter(is_call).count();
    if calls > 0 {
        let text = format!(
            "weights inside of functions ({calls} calls) stay in float without --inline-functions"
        );
        message = message.with_note(text);
    }
    message
        .with_note("the output is the input")
        .with_help("the reasons above may name an option; with --strict this is an error")
}
