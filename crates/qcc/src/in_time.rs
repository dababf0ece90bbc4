//! The pipeline of a run that was given a time, with the steps that it had time for in its place:
//! that makes the same again.

use std::collections::BTreeMap;

use qcc_diag::{Diagnostic, codes};
use qcc_pass::Pipeline;

use crate::Error;

/// Steps in this pipeline are no more than so many: what the longest text has.
const MOST: u16 = 10_000;

/// The pipeline with the steps that were found, by pass. A time that no pass has read stays.
///
/// # Errors
/// When a pass does not take them.
pub(crate) fn pipeline(
    planned: &Pipeline,
    found: &BTreeMap<&'static str, u16>,
) -> Result<Pipeline, Error> {
    with_steps(planned, |pass| found.get(pass).copied())
}

/// A text that is at least as long as that of the pipeline, whatever is found.
///
/// # Errors
/// As [`pipeline`].
pub(crate) fn longest(planned: &Pipeline) -> Result<String, Error> {
    let (plain, within) = (planned.to_string(), with_steps(planned, |_| Some(MOST))?);
    Ok(if within.to_string().len() > plain.len() { within.to_string() } else { plain })
}

fn with_steps(planned: &Pipeline, steps: impl Fn(&str) -> Option<u16>) -> Result<Pipeline, Error> {
    let mut all = planned.steps().to_vec();
    for step in &mut all {
        let is_within = step.options.has("budget") && step.options.opt_float("budget").is_some();
        // Where there are no steps, a time does nothing.
        let none =
            (step.options.has("iters") && step.options.opt_int("iters") == Some(0)).then_some(0);
        if let Some(count) = none.or_else(|| steps(step.pass.name)).filter(|_| is_within) {
            for (name, value) in [("budget", "auto"), ("iters", &count.to_string())] {
                let set = step.options.set(name, value);
                set.map_err(|it| Diagnostic::error(codes::QCC0302, it.to_string()))?;
            }
        }
    }
    Ok(Pipeline::new(all))
}
