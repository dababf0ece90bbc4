//! `--eval`: the output beside the input, on samples.

use std::path::Path;

use qcc::{Error, Model, OpenOptions, ReadOptions, Samples, evaluate};
use qcc_diag::{Diagnostic, codes};
use qcc_pass::{Cancel, SampleSource as _};
use rayon::ThreadPoolBuilder;

use super::super::command::QuantizeArgs;
use super::super::measured::Measured;
use super::super::watch;

/// The samples of `--eval`; `None` where it is not given. The input runs on the first of them, so
/// that what cannot be measured is said before long work.
///
/// # Errors
/// When the samples cannot be read, the input cannot be run on them, or a gate asks for a figure
/// that it does not give.
pub(super) fn samples(args: &QuantizeArgs, model: &Model) -> Result<Option<Samples>, Error> {
    let Some(path) = &args.eval else { return Ok(None) };
    let open = |samples| {
        let tokenizer = args.tokenizer.clone();
        model.samples(path, OpenOptions { samples, tokenizer, ..OpenOptions::default() })
    };
    let first = open(Some(1))?;
    let silent = watch::progress(watch::Kind::Off, true);
    let result = evaluate(model, Some(model), &first, &silent, &Cancel::default())?;
    if Measured::new(result, &args.fail_above)?.is_nothing() {
        let text =
            "nothing can be measured: what the input gives on the first sample is not finite";
        let error = Diagnostic::error(codes::QCC0408, text).at("option --eval");
        let help = "qcc inspect MODEL --weights names weights that are not finite";
        return Err(error.with_help(help).with_help("leave --eval out").into());
    }
    open(None).map(Some)
}

/// What the output in a file gives beside the input, and the lines of the summary.
///
/// # Errors
/// When it cannot be read or run, or the run is stopped.
pub(super) fn output(
    args: &QuantizeArgs,
    (model, output): (&Model, &Path),
    read: &ReadOptions,
    samples: &Samples,
    cancel: &Cancel,
) -> Result<(Measured, String), Error> {
    let written = Model::open_with(output, read)?;
    let progress = watch::progress(args.progress, args.quiet);
    let run = || evaluate(&written, Some(model), samples, &progress, cancel);
    let pool = args.threads.map(|it| ThreadPoolBuilder::new().num_threads(it).build());
    let result = match pool {
        Some(Ok(pool)) => pool.install(run),
        _ => run(),
    };
    let measured = Measured::new(result?, &args.fail_above)?;
    let text = format!("  on {}:\n{}", samples.describe(), measured.lines());
    Ok((measured, text))
}
