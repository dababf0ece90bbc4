//! `probe-scales`: says how long `tune-scales` would train, and what memory that takes.
//!
//! Changes nothing. Before numbers are chosen it tells the memory alone; behind a pass that chose
//! them one sample runs forward and back as well, and the time follows from that.
//! Needs: `select`, and samples. Keeps: everything.

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, Estimate, PassError, PassInfo};

use super::pace::{Times, Work};
use super::{Trained, batch, has_room, norms::Norm, scaled::Scaled, source, steps};
use crate::activations;
use crate::choose;
use crate::held::Samples;
use crate::whole::Whole;

/// The pass. It takes the options of `tune-scales`.
pub const INFO: PassInfo = PassInfo {
    name: "probe-scales",
    summary: "say how long tune-scales would train the scales, and what memory that takes",
    options: super::INFO.options,
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    match probe(graph, ctx) {
        // The pass itself will say what is wrong.
        Err(PassError::Diagnostic(error)) => {
            let note =
                Diagnostic::note(codes::QCC0606, "what training of scales takes is not known");
            ctx.note(note.with_note(error.message));
        }
        other => other?,
    }
    Ok(Vec::new())
}

fn probe(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<(), PassError> {
    let (steps, weights) = (steps(ctx), choose::weights(graph));
    let mut taps: Vec<_> = weights.iter().filter_map(|it| source(graph, it)).collect();
    let Some((samples, _)) = activations::source(ctx) else { return Ok(()) };
    if steps == 0 || taps.is_empty() || taps.len() < weights.len() || samples.is_empty() {
        return Ok(());
    }
    let trains_norms = ctx.options.flag("norms");
    let mut norms = if trains_norms { Norm::all(graph, taps.len())? } else { Vec::new() };
    taps.extend(norms.iter().map(Norm::tap));
    let session = ctx.session;
    let mut whole = Whole::new(graph, session, samples.as_ref(), &taps)?;
    if !has_room(&whole, ctx, &weights)? {
        return Ok(());
    }
    let mut scaled: Vec<Scaled> =
        weights.iter().enumerate().filter_map(|(idx, it)| Scaled::new(idx, it)).collect();
    if scaled.is_empty() {
        return Ok(());
    }
    let of_weights = scaled.iter_mut().map(|it| it as &mut dyn Trained);
    let of_norms = norms.iter_mut().map(|it| it as &mut dyn Trained);
    let trained: Vec<&mut dyn Trained> = of_weights.chain(of_norms).collect();
    let work = Work::new(&Samples::new(samples.len(), session.rng("")), batch(ctx));
    let seconds = Times::measure(&mut whole, &trained)?.seconds(work, steps);
    // With a time for all of it, what blocks leave is the most.
    let blocks = ctx.record.estimate.and_then(|it| it.seconds).unwrap_or(0.0);
    let left = ctx.options.opt_float("budget").map_or(f64::MAX, |it| (it - blocks).max(0.0));
    ctx.record.expect(Estimate { seconds: Some(seconds.min(left)), memory_bytes: 0 });
    Ok(())
}
