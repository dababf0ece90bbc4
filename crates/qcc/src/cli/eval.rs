//! `qcc eval`.

use std::path::PathBuf;

use clap::Args;
use qcc::{Error, Gate, OpenOptions, evaluate};
use qcc_diag::Diagnostic;
use qcc_pass::SampleSource as _;
use qcc_report::Note;

use super::command::Progress;
use super::exit::{Ended, say, show};
use super::measured::Measured;
use super::words::positive;
use super::{stop, streams, tokenizer, watch};

/// Options of `eval`.
#[derive(Args, Debug)]
pub(super) struct EvalArgs {
    /// The model; - is the input stream
    pub(super) input: PathBuf,

    /// Samples: .npy or .npz of token ids or named inputs, a folder of ONNX test data, .txt, .jsonl
    #[arg(short, long, value_name = "PATH")]
    pub(super) data: PathBuf,

    /// A model to compare with, the float one say
    #[arg(long = "ref", value_name = "MODEL")]
    pub(super) reference: Option<PathBuf>,

    /// tokenizer.json, for text [default: that beside the model]
    #[arg(long, value_name = "FILE")]
    pub(super) tokenizer: Option<PathBuf>,

    /// Samples that are used at most
    #[arg(short = 'n', long, alias = "nsamples", value_name = "N", value_parser = positive)]
    pub(super) samples: Option<usize>,

    /// Tokens of a sample
    #[arg(long, alias = "seqlen", value_name = "N", value_parser = positive)]
    pub(super) seq_len: Option<usize>,

    /// Limits, and exit code 3 beyond them: kl:0.02, top1:90%, perplexity:20, ppl:+2% (above that of
    /// --ref), snr:15dB, cosine:0.99, max:0.5; repeatable
    #[arg(long, value_name = "FIGURE:LIMIT", value_delimiter = ',', value_parser = Gate::of_evaluation)]
    pub(super) fail_above: Vec<Gate>,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,

    /// How progress is told; auto is a bar on a terminal and lines elsewhere
    #[arg(long, value_enum, default_value_t = Progress::Auto, value_name = "KIND")]
    pub(super) progress: Progress,
}

/// Runs the command.
pub(super) fn run(args: &EvalArgs) -> Result<Ended, Error> {
    tokenizer::check(args.tokenizer.as_deref(), &[Some(args.data.as_path())])?;
    let model = streams::open(&args.input)?;
    let reference = args.reference.as_ref().map(streams::open).transpose()?;
    args.fail_above.iter().try_for_each(|it| it.check_reference(reference.is_some()))?;
    let options = OpenOptions {
        samples: args.samples,
        seq_len: args.seq_len,
        tokenizer: args.tokenizer.clone(),
        ..OpenOptions::default()
    };
    // The vocabulary of a quantized model is that of its reference.
    let known = reference.as_ref().unwrap_or(&model);
    let samples = known.samples(&args.data, options)?;
    model.warnings().iter().chain(samples.warnings()).for_each(say);
    let progress = watch::progress(args.progress, false);
    let result = evaluate(&model, reference.as_ref(), &samples, &progress, &stop::cancel())?;
    let measured = Measured::new(result, &args.fail_above)?;
    if args.json {
        let notes = [model.warnings(), samples.warnings()].concat();
        show(&format!("{:#}\n", json(args, &measured, &notes)))?;
    } else {
        let (model, samples) = (args.input.display(), samples.describe());
        show(&format!("  {model} on {samples}\n{}", measured.lines()))?;
    }
    Ok(measured.ended())
}

fn json(args: &EvalArgs, measured: &Measured, notes: &[Diagnostic]) -> serde_json::Value {
    let it = measured.quality();
    serde_json::json!({
        "model": args.input.display().to_string(),
        "reference": args.reference.as_ref().map(|it| it.display().to_string()),
        "samples": it.samples,
        "tokens": it.tokens,
        "perplexity": it.perplexity,
        "reference_perplexity": it.reference_perplexity,
        "kl_nats": it.kl_nats,
        "top1": it.top1,
        "outputs": it.outputs,
        "gates": measured.gates(),
        "notes": notes.iter().map(Note::from).collect::<Vec<_>>(),
    })
}
