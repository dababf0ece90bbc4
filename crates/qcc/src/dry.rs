//! What a run without tuning does.

use qcc_pass::{PassInfo, Pipeline};

use crate::error::Error;
use crate::own_text::Need;

/// The pass whose sizes follow from what the samples hold.
const READER: &str = "allocate-bits";

/// What a pipeline without tuning needs of samples: their size alone, unless bits follow from them.
pub(crate) fn need(pipeline: &Pipeline) -> Need {
    let reads = pipeline.steps().iter().any(|it| it.pass.name == READER);
    if reads { Need::Tokens } else { Need::Size }
}

/// A pipeline that probes instead of tuning, and rounds to nearest instead of searching: what it
/// writes has the sizes of the other.
///
/// # Errors
/// When there is no such pass among `passes`.
pub(crate) fn pipeline(
    pipeline: &Pipeline,
    passes: &[&'static PassInfo],
) -> Result<Pipeline, Error> {
    let mut steps = Vec::new();
    for step in pipeline.steps() {
        match step.pass.name {
            "tune-scales" if step.options.int("iters") == 0 => {}
            "tune-scales" => {
                let probe = step.to_string().replacen("tune-scales", "probe-scales", 1);
                steps.extend_from_slice(Pipeline::parse(&probe, passes, &[])?.steps());
            }
            "signround" => {
                let probe = step.to_string().replacen("signround", "probe-blocks", 1);
                let instead = Pipeline::parse(&format!("{probe},rtn"), passes, &[])?;
                steps.extend_from_slice(instead.steps());
            }
            "kl-precalibrate" | "gptq" => {
                steps.extend_from_slice(Pipeline::parse("rtn", passes, &[])?.steps());
            }
            _ => steps.push(step.clone()),
        }
    }
    Ok(Pipeline::new(steps))
}
