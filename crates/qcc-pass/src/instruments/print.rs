//! `Print` and `Dump`: the graph as text, before or after passes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::Graph;

use crate::instruments::{bytes, unwritten, write};
use crate::{After, Before, Flow, Instrument, Pipeline};

/// Which passes are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passes {
    /// All of them.
    All,
    /// Those of these names.
    Named(BTreeSet<String>),
}

impl Passes {
    /// Those of these names.
    pub fn named<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Self {
        Self::Named(names.into_iter().map(Into::into).collect())
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// When a graph is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the pass.
    Before,
    /// After the pass.
    After,
    /// After the pass, if it changed anything.
    Changed,
}

/// Prints the graph under a heading, `// before rtn` say.
pub struct Print<'w> {
    passes: Passes,
    when: When,
    print: Box<dyn Fn(&Graph) -> String + Send + 'w>,
    out: Box<dyn Write + Send + 'w>,
}

impl<'w> Print<'w> {
    /// Prints to `out` what `print` makes of the graph.
    pub fn new(
        passes: Passes,
        when: When,
        print: impl Fn(&Graph) -> String + Send + 'w,
        out: impl Write + Send + 'w,
    ) -> Self {
        Self { passes, when, print: Box::new(print), out: Box::new(out) }
    }

    fn show(&mut self, heading: &str, graph: &Graph) -> Result<(), Box<Diagnostic>> {
        let text = (self.print)(graph);
        write(&mut *self.out, &format!("// {heading}\n{}\n\n", text.trim_end()))
    }
}

impl Instrument for Print<'_> {
    fn begin(&mut self, pipeline: &Pipeline) -> Result<(), Box<Diagnostic>> {
        let Passes::Named(names) = &self.passes else { return Ok(()) };
        let option = match self.when {
            When::Before => "--print-before",
            When::After | When::Changed => "--print-after",
        };
        names.iter().try_for_each(|name| pipeline.find(name, option).map(|_| ()))
    }

    fn before_pass(&mut self, at: &Before<'_>) -> Result<(), Box<Diagnostic>> {
        let name = at.step.pass.name;
        if self.when == When::Before && self.passes.has(name) {
            self.show(&format!("before {name}"), at.graph)?;
        }
        Ok(())
    }

    fn after_pass(&mut self, at: &After<'_>) -> Result<Flow, Box<Diagnostic>> {
        let name = at.step.pass.name;
        let is_due = match self.when {
            When::Before => false,
            When::After => true,
            When::Changed => !at.patches.is_empty(),
        };
        if is_due && self.passes.has(name) {
            let heading = match at.patches.len() {
                0 => format!("after {name}: no change"),
                1 => format!("after {name}: 1 patch"),
                count => format!("after {name}: {count} patches"),
            };
            self.show(&heading, at.graph)?;
        }
        Ok(Flow::Continue)
    }
}

/// Writes the graph after each pass to a file of a directory, `02-rtn.qir` say; `00-source.qir`
/// is the graph that the run began with. Constants that a text knows by hash alone are in the
/// folder `bytes` beside it, so that it reads back.
pub struct Dump<'w> {
    dir: PathBuf,
    print: Box<dyn Fn(&Graph) -> String + Send + 'w>,
}

impl<'w> Dump<'w> {
    /// Writes to `dir`, which is made if need be, what `print` makes of the graph.
    pub fn new(dir: impl Into<PathBuf>, print: impl Fn(&Graph) -> String + Send + 'w) -> Self {
        Self { dir: dir.into(), print: Box::new(print) }
    }

    fn save(&self, number: usize, name: &str, graph: &Graph) -> Result<(), Box<Diagnostic>> {
        let path = self.dir.join(format!("{number:02}-{name}.qir"));
        fs::write(&path, (self.print)(graph))
            .and_then(|()| bytes::save(&path, graph))
            .map_err(|it| Box::new(unwritten(&it).at(path.display().to_string())))
    }
}

impl Instrument for Dump<'_> {
    fn begin(&mut self, _: &Pipeline) -> Result<(), Box<Diagnostic>> {
        fs::create_dir_all(&self.dir).map_err(|it| {
            let text = format!("directory '{}' cannot be made: {it}", self.dir.display());
            Box::new(Diagnostic::error(codes::QCC0105, text).at("option --dump-ir"))
        })
    }

    fn before_pass(&mut self, at: &Before<'_>) -> Result<(), Box<Diagnostic>> {
        if at.position == 0 { self.save(0, "source", at.graph) } else { Ok(()) }
    }

    fn after_pass(&mut self, at: &After<'_>) -> Result<Flow, Box<Diagnostic>> {
        self.save(at.position + 1, at.step.pass.name, at.graph)?;
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ops, run_text};
    use crate::{Outcome, StopAfter};

    fn text_of(graph: &Graph) -> String {
        ops(graph).join(" ")
    }

    fn printed(passes: Passes, when: When) -> String {
        let mut out = Vec::new();
        let print = Print::new(passes, when, text_of, &mut out);
        let (end, _, _) = run_text("nothing,swap", &mut [Box::new(print)]);
        assert_eq!(end, Ok(Outcome::Finished));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn graphs_are_printed_when_asked_for() {
        let after = "// after swap: 3 patches\nAbs Abs Abs\n\n";
        assert_eq!(printed(Passes::named(["swap"]), When::After), after);
        assert_eq!(printed(Passes::All, When::Changed), after);
        assert_eq!(
            printed(Passes::All, When::After),
            format!("// after nothing: no change\nNeg Neg Neg\n\n{after}")
        );
        let before = "// before swap\nNeg Neg Neg\n\n";
        assert_eq!(printed(Passes::named(["swap"]), When::Before), before);
    }

    #[test]
    fn the_name_must_be_in_the_pipeline() {
        let print = Print::new(Passes::named(["swop"]), When::Before, text_of, Vec::new());
        let (end, _, _) = run_text("nothing,swap", &mut [Box::new(print)]);
        let message = end.unwrap_err();
        assert_eq!(message.code, codes::QCC0301);
        assert_eq!(message.help, ["--print-before swap"]);
    }

    #[test]
    fn dump_writes_a_file_a_pass() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ir/here");
        let mut all: [Box<dyn Instrument>; 2] =
            [Box::new(Dump::new(&path, text_of)), Box::new(StopAfter::new("swap"))];
        run_text("nothing,swap,panic", &mut all).0.unwrap();
        let mut files: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort_unstable();
        assert_eq!(files, ["00-source.qir", "01-nothing.qir", "02-swap.qir"]);
        assert_eq!(fs::read_to_string(path.join("01-nothing.qir")).unwrap(), "Neg Neg Neg");
        assert_eq!(fs::read_to_string(path.join("02-swap.qir")).unwrap(), "Abs Abs Abs");
    }
}
