//! What is asked for, beside what a model takes and the system has memory for. All of it is known
//! before anything of that size is made.

use qcc_data::{Role, role, token_input};
use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Bound, Plan, PlanOptions};
use qcc_ir::Graph;
use qcc_tensor::{TensorError, checked_len};

use super::{BenchOptions, feed};
use crate::runner::diagnosed;
use crate::{Error, Model, generate};

/// Tokens from which on the results of a run may not fit into memory. Finding that out takes the
/// time of a plan, which short runs would notice.
const LONG: usize = 2048;

/// The way out where memory does not suffice.
const LESS: &str = "give the model fewer tokens or rows at a time: -m, --past";

/// Tokens of a run, where nothing is asked for.
const USUAL: [usize; 4] = [1, 4, 16, 128];

/// Those of [`USUAL`] that all models have positions for, behind so many; at least the first.
pub(super) fn usual<'a>(models: impl Iterator<Item = &'a Model>, past: usize) -> Vec<usize> {
    let most = models.filter_map(positions).min().map_or(usize::MAX, |it| it.saturating_sub(past));
    USUAL.into_iter().filter(|it| *it == USUAL[0] || *it <= most).collect()
}

/// How many tokens a model of token ids takes, if it says so.
fn positions(model: &Model) -> Option<usize> {
    token_input(&model.inputs()).and_then(|_| generate::context(model))
}

/// Whether a model takes so many tokens, and the system has memory for its inputs.
///
/// # Errors
/// QCC0304 when it does not take them, QCC0503 when there is no memory.
pub(super) fn check(model: &Model, options: &BenchOptions) -> Result<(), Error> {
    check_past(model, options.past)?;
    let rows = options.rows.iter().copied().max().unwrap_or(0);
    if let Some(context) = positions(model) {
        check_context(model, context, rows, options.past)?;
    }
    let shapes = feed::shapes(model.graph(), rows, options.past);
    has_room(shapes.iter().map(|it| bytes(&it.1)).fold(0, usize::saturating_add))
}

/// Tokens that were seen before are in a cache.
fn check_past(model: &Model, past: usize) -> Result<(), Error> {
    let has_cache = || model.inputs().iter().any(|it| role(it) == Some(Role::Past));
    if past == 0 || has_cache() || feed::has_past(model.graph()) {
        return Ok(());
    }
    let path = model.source().path().display();
    let text = format!("'{path}' has no cache that could hold {past} tokens");
    let error = Diagnostic::error(codes::QCC0304, text).at("option --past");
    Err(error.with_help("leave out --past, or export the model with its cache").into())
}

/// Behind its last position a model has no numbers, or wrong ones.
fn check_context(model: &Model, context: usize, rows: usize, past: usize) -> Result<(), Error> {
    let path = model.source().path().display();
    let (what, option, help) = match context.checked_sub(rows) {
        Some(most) if past <= most => return Ok(()),
        Some(most) => {
            let help = format!("--past {most} is the most for -m {rows}");
            (format!("{rows} behind {past} others"), "option --past", help)
        }
        None => (rows.to_string(), "option --rows", format!("-m {context} is the most")),
    };
    let text = format!("'{path}' takes at most {context} tokens, not {what}");
    Err(Diagnostic::error(codes::QCC0304, text).at(option).with_help(help).into())
}

/// Whether the results of a run fit into memory, as far as shapes tell. The run asks that too, but
/// has its inputs then.
///
/// # Errors
/// QCC0503.
pub(super) fn fits(graph: &Graph, rows: usize, past: usize) -> Result<(), Error> {
    if rows.saturating_add(past) <= LONG {
        return Ok(());
    }
    // What cannot be planned by these shapes is told by the run.
    match Plan::new(graph, &feed::shapes(graph, rows, past), &PlanOptions::default()) {
        Ok(plan) => plan.fits().map_err(|it| diagnosed(it).into()),
        Err(_) => Ok(()),
    }
}

/// Whether there is memory for inputs of so many bytes.
///
/// # Errors
/// QCC0503.
pub(super) fn has_room(needs: usize) -> Result<(), Error> {
    qcc_exec::has_room(needs).map_err(|error| {
        let error = Diagnostic::error(codes::QCC0503, error.to_string());
        error.with_note("that is what inputs hold at one time").with_help(LESS).into()
    })
}

/// Inputs that could not be made, though there seemed to be memory for them.
pub(super) fn full(error: &TensorError) -> Error {
    Diagnostic::error(codes::QCC0503, format!("inputs cannot be made: {error}"))
        .with_help(LESS)
        .into()
}

/// Bytes of a value of a known shape; the most that there are for one that is larger.
pub(super) fn bytes(bound: &Bound) -> usize {
    let Bound::Shape(dtype, dims) = bound else { return 0 };
    let len = checked_len(dims).unwrap_or(usize::MAX);
    len.saturating_mul(dtype.bits().div_ceil(8))
}
