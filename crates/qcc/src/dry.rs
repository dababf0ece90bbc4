//! What a run without tuning does.

use qcc_pass::{PassInfo, Pipeline};

use crate::error::Error;

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
