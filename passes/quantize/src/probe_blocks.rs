//! `probe-blocks`: says how long `signround` would tune the blocks, and what memory that takes.
//!
//! Changes nothing: one step for one sample of each kind of block runs, and the estimate is put into
//! the record.
//! Needs: `select`, and samples. Keeps: everything.

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, PassError, PassInfo};

use crate::{activations, blockwise, choose, signround};

/// The pass. It takes the options of `signround`.
pub const INFO: PassInfo = PassInfo {
    name: "probe-blocks",
    summary: "say how long signround would tune the blocks, and what memory that takes",
    options: signround::INFO.options,
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let weights = choose::weights(graph);
    let Some((samples, _)) = activations::source(ctx) else { return Ok(Vec::new()) };
    let is_by_block = signround::is_by_block(ctx, samples.as_ref());
    ctx.check_cancelled()?; // while the samples were made
    if !is_by_block {
        return Ok(Vec::new());
    }
    let options = signround::block_options(ctx);
    match blockwise::probe(graph, ctx, &weights, samples.as_ref(), options) {
        Ok(Some(estimate)) => ctx.record.expect(estimate),
        Ok(None) => {}
        Err(PassError::Diagnostic(error)) if error.code != codes::QCC0501 => {
            let note = Diagnostic::note(codes::QCC0606, "the time of tuning is not known");
            ctx.note(note.with_note(error.message));
        }
        Err(error) => return Err(error),
    }
    Ok(Vec::new())
}
