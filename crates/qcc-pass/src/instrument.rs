//! Who looks on while a pipeline runs.

use std::time::Duration;

use qcc_diag::Diagnostic;
use qcc_ir::{Graph, Patch};

use crate::{Pipeline, Record, Step};

/// Looks on while a pipeline runs. Every method does nothing unless it is written.
///
/// An error of any of them stops the run as one of a pass does.
pub trait Instrument: Send {
    /// The run begins.
    ///
    /// # Errors
    /// When it was told something that does not fit the pipeline.
    fn begin(&mut self, pipeline: &Pipeline) -> Result<(), Box<Diagnostic>> {
        let _ = pipeline;
        Ok(())
    }

    /// A pass is about to run.
    ///
    /// # Errors
    /// When it cannot write, or finds something wrong.
    fn before_pass(&mut self, at: &Before<'_>) -> Result<(), Box<Diagnostic>> {
        let _ = at;
        Ok(())
    }

    /// A pass has returned patches; what is taken out is not applied.
    fn select(&mut self, at: &Before<'_>, patches: &mut Vec<Patch>) {
        let _ = (at, patches);
    }

    /// The patches of a pass are applied, and the graph is verified.
    ///
    /// # Errors
    /// When it cannot write, or finds something wrong.
    fn after_pass(&mut self, at: &After<'_>) -> Result<Flow, Box<Diagnostic>> {
        let _ = at;
        Ok(Flow::Continue)
    }

    /// A pass failed; the message may be added to.
    fn failed(&mut self, at: &Failed<'_>, message: &mut Diagnostic) {
        let _ = (at, message);
    }

    /// All passes ran, or the run was stopped after one.
    ///
    /// # Errors
    /// When it cannot write.
    fn end(&mut self, record: &Record) -> Result<(), Box<Diagnostic>> {
        let _ = record;
        Ok(())
    }
}

/// Whether the run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It ends here, and its graph is the result.
    Stop,
}

/// A pass that is about to run.
pub struct Before<'a> {
    /// Position in the pipeline.
    pub position: usize,
    /// The pass and its options.
    pub step: &'a Step,
    /// The graph.
    pub graph: &'a Graph,
}

/// A pass that ran.
pub struct After<'a> {
    /// Position in the pipeline.
    pub position: usize,
    /// The pass and its options.
    pub step: &'a Step,
    /// The graph before it.
    pub before: &'a Graph,
    /// What was applied.
    pub patches: &'a [Patch],
    /// The graph.
    pub graph: &'a Graph,
    /// How long it took; for display only.
    pub elapsed: Duration,
}

/// A pass that failed.
pub struct Failed<'a> {
    /// What was left to run, that pass first.
    pub pipeline: &'a Pipeline,
    /// The graph before it.
    pub graph: &'a Graph,
}
