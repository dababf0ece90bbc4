//! What there is to say of a run, besides its results.

use qcc::Written;
use qcc_diag::{Diagnostic, Severity, codes};
use qcc_ir::{Graph, OpRef};
use qcc_report::{Note, RunRecord};

use super::super::command::{QuantizeArgs, When};
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

/// That weights are in a data file which nobody asked for: the input has `inputs` such files.
pub(super) fn moved(asked: When, inputs: usize, written: &Written) -> Option<Diagnostic> {
    let is_news = asked == When::Auto && inputs == 0;
    let data = written.files.get(1).filter(|_| is_news)?.display();
    let text = format!("the weights are in '{data}', since the model is above 1.5 GiB");
    let warning = Diagnostic::warning(codes::QCC0111, text).at(data.to_string());
    Some(warning.with_help("keep both files together"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_file_that_nobody_asked_for_is_told() {
        let files = ["m.onnx", "m.onnx.data"].map(Into::into).to_vec();
        let written = Written { files, size_bytes: 2 << 30, raised: None };
        let note = moved(When::Auto, 0, &written).unwrap();
        assert!(note.message.contains("'m.onnx.data'"), "{note}");
        assert_eq!(moved(When::Always, 0, &written), None);
        assert_eq!(moved(When::Auto, 1, &written), None);
        let files = written.files[..1].to_vec();
        assert_eq!(moved(When::Auto, 0, &Written { files, ..written }), None);
    }
}
