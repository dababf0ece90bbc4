//! `qcc eval`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use qcc::{Error, Evaluation, Gate, OpenOptions, Verdict, evaluate};
use qcc_diag::{Diagnostic, codes};
use qcc_pass::{Cancel, SampleSource as _};
use qcc_report::Note;

use super::command::Progress;
use super::exit::{Ended, say, show};
use super::words::positive;
use super::{streams, watch};

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

    /// tokenizer.json, for text
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
    let model = streams::open(&args.input)?;
    let reference = args.reference.as_ref().map(streams::open).transpose()?;
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
    let result = evaluate(&model, reference.as_ref(), &samples, &progress, &Cancel::default())?;
    let verdicts = args.fail_above.iter().map(|it| it.check_evaluation(&result));
    let verdicts = verdicts.collect::<Result<Vec<Verdict>, Error>>()?;
    if args.json {
        let notes = [model.warnings(), samples.warnings()].concat();
        show(&format!("{:#}\n", json(&result, &verdicts, &notes)))?;
        return Ok(ended(&verdicts));
    }
    let mut text = String::new();
    let _ = writeln!(text, "  {} on {}", args.input.display(), samples.describe());
    if let Some(value) = result.perplexity {
        let beside =
            result.reference_perplexity.map_or(String::new(), |it| format!("   reference {it:.4}"));
        let tokens = result.tokens;
        let _ = writeln!(text, "  perplexity   {value:.4} over {tokens} tokens{beside}");
    }
    if let (Some(kl), Some(top1)) = (result.kl_nats, result.top1) {
        let _ = writeln!(text, "  KL           {kl:.5} nats for each token");
        let _ = writeln!(text, "  same first   {:.2} %", 100.0 * top1);
    }
    for (name, snr, cosine, largest) in &result.outputs {
        let _ = writeln!(
            text,
            "  {name}   SNR {snr:.1} dB, cosine {cosine:.5}, largest difference {largest:.5}"
        );
    }
    for it in &verdicts {
        let word = if it.passed { "passed" } else { "failed" };
        let _ = writeln!(text, "  gate {}: {word} ({})", it.gate, it.gate.text(it.figure));
    }
    show(&text)?;
    Ok(ended(&verdicts))
}

/// Says which gates failed.
fn ended(verdicts: &[Verdict]) -> Ended {
    let mut ended = Ended::Well;
    for it in verdicts.iter().filter(|it| !it.passed) {
        let text =
            format!("{} of {} is {}", it.gate.metric.name(), it.output, it.gate.text(it.figure));
        let error = Diagnostic::error(codes::QCC0802, text).at("option --fail-above");
        say(&error
            .with_note(format!("asked for is {}", it.gate))
            .with_help("more bits, smaller groups or another recipe lose less"));
        ended = Ended::Failed;
    }
    ended
}

fn json(it: &Evaluation, verdicts: &[Verdict], notes: &[Diagnostic]) -> serde_json::Value {
    let gates = verdicts.iter().map(|it| {
        let found = it.gate.text(it.figure);
        serde_json::json!({"gate": it.gate.to_string(), "found": found, "passed": it.passed})
    });
    let outputs: Vec<_> = it
        .outputs
        .iter()
        .map(|(name, snr, cosine, largest)| {
            serde_json::json!({"name": name, "snr_db": snr, "cosine": cosine, "max_abs": largest})
        })
        .collect();
    serde_json::json!({
        "samples": it.samples,
        "tokens": it.tokens,
        "perplexity": it.perplexity,
        "reference_perplexity": it.reference_perplexity,
        "kl_nats": it.kl_nats,
        "top1": it.top1,
        "outputs": outputs,
        "gates": gates.collect::<Vec<_>>(),
        "notes": notes.iter().map(Note::from).collect::<Vec<_>>(),
    })
}
