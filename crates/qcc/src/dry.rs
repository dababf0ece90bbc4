//! What a run without tuning does.

use qcc_pass::{PassInfo, Pipeline};

use crate::error::Error;
use crate::own_text::Need;

/// Passes whose choices follow from what the samples hold.
const READERS: &[&str] = &["allocate-bits", "kl-precalibrate", "adpq", "gptq"];

/// What a pipeline without tuning needs of samples: their size alone, unless a pass reads them.
pub(crate) fn need(pipeline: &Pipeline) -> Need {
    let reads = |name: &str| READERS.contains(&name);
    if pipeline.steps().iter().any(|it| reads(it.pass.name)) { Need::Tokens } else { Need::Size }
}

/// A pipeline that probes instead of tuning, and rounds to nearest: what it writes has the sizes of
/// the other.
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
            "tune-scales" => {
                let probe = step.to_string().replacen("tune-scales", "probe-scales", 1);
                steps.extend_from_slice(Pipeline::parse(&probe, passes, &[])?.steps());
            }
            "signround" => {
                let probe = step.to_string().replacen("signround", "probe-blocks", 1);
                let instead = Pipeline::parse(&format!("{probe},rtn"), passes, &[])?;
                steps.extend_from_slice(instead.steps());
            }
            _ => steps.push(step.clone()),
        }
    }
    Ok(Pipeline::new(steps))
}
