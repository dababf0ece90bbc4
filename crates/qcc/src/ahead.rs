//! What is looked at before long work.

use qcc_pass::{PassInfo, Pipeline};

use crate::error::Error;

/// A pipeline that tells what training of scales takes before blocks are tuned, and not after hours
/// of that. It gives what the other gives.
///
/// # Errors
/// When there is no pass that tells among `passes`.
pub(crate) fn pipeline(
    pipeline: &Pipeline,
    passes: &[&'static PassInfo],
) -> Result<Pipeline, Error> {
    let mut steps = pipeline.steps().to_vec();
    let tuning = steps.iter().position(|it| it.pass.name == "signround");
    let training = steps.iter().position(|it| it.pass.name == "tune-scales");
    if let (Some(tuning), Some(training)) = (tuning, training)
        && tuning < training
        && steps[training].options.int("iters") > 0
    {
        let probe = steps[training].to_string().replacen("tune-scales", "probe-scales", 1);
        let probe = Pipeline::parse(&probe, passes, &[])?;
        steps.splice(tuning..tuning, probe.steps().iter().cloned());
    }
    Ok(Pipeline::new(steps))
}
