//! `Reproducer`: the graph and pipeline that show a bug again.

use std::fs;
use std::path::PathBuf;

use qcc_diag::Diagnostic;
use qcc_ir::Graph;

use crate::instruments::bytes;
use crate::{Failed, Instrument};

/// When a pass fails by a bug, writes the graph before it, with what was left of the pipeline in
/// a first line `// pipeline: ...`, and names the file in the message. Constants that the text
/// knows by hash alone are in the folder `bytes` beside it.
///
/// A bug is a code of the family 09, or a graph that breaks an invariant. What the user can mend
/// needs no reproducer.
pub struct Reproducer<'w> {
    path: PathBuf,
    print: Box<dyn Fn(&Graph) -> String + Send + 'w>,
}

impl<'w> Reproducer<'w> {
    /// Writes to `path` what `print` makes of the graph.
    pub fn new(path: impl Into<PathBuf>, print: impl Fn(&Graph) -> String + Send + 'w) -> Self {
        Self { path: path.into(), print: Box::new(print) }
    }
}

impl Instrument for Reproducer<'_> {
    fn failed(&mut self, at: &Failed<'_>, message: &mut Diagnostic) {
        let is_bug = message.code.family() == "09" || message.code == qcc_diag::codes::QCC0801;
        if !is_bug {
            return;
        }
        let text = format!("// pipeline: {}\n{}", at.pipeline, (self.print)(at.graph));
        let path = self.path.display();
        match fs::write(&self.path, text).and_then(|()| bytes::save(&self.path, at.graph)) {
            Ok(()) => message.help.push(format!("report it with the reproducer '{path}'")),
            Err(it) => {
                message.notes.push(format!("the reproducer '{path}' cannot be written: {it}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{chain, ops, run_text};

    /// The message of a run that fails, and what its reproducer holds.
    fn reproduce(text: &str) -> (Diagnostic, Option<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bug.qir");
        let print = |graph: &Graph| format!("{}\n", ops(graph).join(" "));
        let (end, _, _) = run_text(text, &mut [Box::new(Reproducer::new(&path, print))]);
        let mut message = *end.unwrap_err();
        for help in &mut message.help {
            *help = help.replace(&path.display().to_string(), "PATH");
        }
        (message, fs::read_to_string(path).ok())
    }

    #[test]
    fn a_panic_leaves_graph_and_pipeline() {
        let (message, text) = reproduce("swap,panic,nothing");
        assert_eq!(text.as_deref(), Some("// pipeline: panic,nothing\nAbs Abs Abs\n"));
        assert_eq!(message.help, ["report it with the reproducer 'PATH'"]);
    }

    #[test]
    fn so_does_a_broken_invariant() {
        let (_, text) = reproduce("knobs{match=\"a\\nb\"},lie");
        assert_eq!(text.as_deref(), Some("// pipeline: lie\nNeg Neg Neg\n"));
    }

    #[test]
    fn what_the_user_can_mend_leaves_none() {
        assert_eq!(reproduce("refuse").1, None);
    }

    #[test]
    fn the_reproducer_fails_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bug.qir");
        let reproducer = Reproducer::new(&path, qcc_ir::text::print);
        run_text("nothing,panic,swap", &mut [Box::new(reproducer)]).0.unwrap_err();
        let text = fs::read_to_string(path).unwrap();
        let (line, graph) = text.split_once('\n').unwrap();
        assert_eq!(graph, qcc_ir::text::print(&chain()));
        let line = line.strip_prefix("// pipeline: ").unwrap();
        assert_eq!(run_text(line, &mut []).0.unwrap_err().code, qcc_diag::codes::QCC0901);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no/bug.qir");
        let reproducer = Reproducer::new(path, |_| String::new());
        let (end, _, _) = run_text("panic", &mut [Box::new(reproducer)]);
        let message = end.unwrap_err();
        assert_eq!(message.code, qcc_diag::codes::QCC0901);
        assert!(message.notes[0].contains("cannot be written"), "{message}");
    }
}
