//! `StopAfter`: the graph after one pass is the result.

use qcc_diag::Diagnostic;

use crate::{After, Flow, Instrument, Pipeline};

/// Ends the run after the first pass of this name.
#[derive(Clone, Debug)]
pub struct StopAfter {
    pass: String,
}

impl StopAfter {
    /// Ends the run after `pass`.
    pub fn new(pass: impl Into<String>) -> Self {
        Self { pass: pass.into() }
    }
}

impl Instrument for StopAfter {
    fn begin(&mut self, pipeline: &Pipeline) -> Result<(), Box<Diagnostic>> {
        pipeline.find(&self.pass, "--stop-after").map(|_| ())
    }

    fn after_pass(&mut self, at: &After<'_>) -> Result<Flow, Box<Diagnostic>> {
        Ok(if at.step.pass.name == self.pass { Flow::Stop } else { Flow::Continue })
    }
}
