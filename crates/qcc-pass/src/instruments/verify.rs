//! `VerifyEach`: the graph is verified after every single patch.

use qcc_diag::Diagnostic;
use qcc_ir::verify;

use crate::run::{broken, broken_by, first_broken};
use crate::{After, Before, Flow, Instrument};

/// Verifies the graph that a run begins with, and the graph after every single patch.
///
/// Every run verifies the graph once after each pass that changed it; this finds patches that
/// break an invariant which a later patch of the same pass mends. The patches are replayed on a
/// copy, which costs time and memory and changes no result.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyEach;

impl Instrument for VerifyEach {
    fn before_pass(&mut self, at: &Before<'_>) -> Result<(), Box<Diagnostic>> {
        if at.position > 0 {
            return Ok(());
        }
        match verify(at.graph).as_slice() {
            [] => Ok(()),
            found => Err(Box::new(broken("before the first pass the graph breaks", found))),
        }
    }

    fn after_pass(&mut self, at: &After<'_>) -> Result<Flow, Box<Diagnostic>> {
        match first_broken(at.before, at.patches) {
            None => Ok(Flow::Continue),
            Some((first, found)) => {
                Err(Box::new(broken_by(at.step.pass.name, &found, Some(first))))
            }
        }
    }
}
