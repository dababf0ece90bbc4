//! `qcc compare`: two models on the same inputs.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use qcc::{
    CompareOptions, Compared, Comparison, Error, FirstDifference, Gate, Inner, Model, OpenOptions,
    Samples, Verdict, compare,
};
use qcc_diag::{Diagnostic, codes};
use qcc_pass::SampleSource as _;
use qcc_report::{Note, columns, line};
use serde_json::json;

use super::command::Progress;
use super::exit::{Ended, say, show};
use super::words::positive;
use super::{stop, streams, tokenizer, watch};

/// Options of `compare`.
#[derive(Args, Debug)]
#[command(
    after_help = "Figures, over all elements of all samples, a of the first model and b of the second:
  max |a-b|   largest difference of one element
  relative    |a - b| / |a| in the Euclidean norm
  cosine      of the angle between a and b
  SNR         -20 log10 relative, in dB: 20 dB is a tenth, 40 dB a hundredth; 'exact' when equal
The exit code is 4 when a gate of --fail-above fails.

Examples:
  qcc compare model.onnx model.q4.onnx --data tokens.npy
  qcc compare model.onnx model.q4.onnx --data tokens.npy -n 8 --fail-above snr:15dB,cosine:0.98
  qcc compare model.onnx model.q4.onnx --all         every value, on random tokens"
)]
pub(super) struct CompareArgs {
    /// The model to compare with, the float one say
    #[arg(value_name = "A")]
    pub(super) reference: PathBuf,

    /// The model that is compared
    #[arg(value_name = "B")]
    pub(super) model: PathBuf,

    /// Samples: .npy or .npz of token ids or named inputs, a folder of ONNX test data, .txt, .jsonl
    /// [default: random tokens]
    #[arg(short, long, value_name = "PATH")]
    pub(super) data: Option<PathBuf>,

    /// Compare every value of floats that both models have, not only results of blocks
    #[arg(long)]
    pub(super) all: bool,

    /// Exit with 4 when an output is farther off: snr:15dB, cosine:0.99 (at least), max:0.5,
    /// relative:10%, unequal:1% (at most); repeatable
    #[arg(long, value_name = "FIGURE:LIMIT", value_delimiter = ',', value_parser = Gate::of_comparison)]
    pub(super) fail_above: Vec<Gate>,

    /// tokenizer.json, for text [default: that beside the model]
    #[arg(long, value_name = "FILE", requires = "data")]
    pub(super) tokenizer: Option<PathBuf>,

    /// Samples that are used at most
    #[arg(short = 'n', long, alias = "nsamples", value_name = "N", value_parser = positive)]
    pub(super) samples: Option<usize>,

    /// Tokens of a sample
    #[arg(long, alias = "seqlen", value_name = "N", value_parser = positive)]
    pub(super) seq_len: Option<usize>,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,

    /// How progress is told; auto is a bar on a terminal and lines elsewhere
    #[arg(long, value_enum, default_value_t = Progress::Auto, value_name = "KIND")]
    pub(super) progress: Progress,
}

/// Runs the command.
pub(super) fn run(args: &CompareArgs) -> Result<Ended, Error> {
    tokenizer::check(args.tokenizer.as_deref(), &[args.data.as_deref()])?;
    let a = streams::open(&args.reference)?;
    let b = streams::open(&args.model)?;
    args.fail_above.iter().try_for_each(|it| it.check_outputs(a.graph(), b.graph()))?;
    let mut notes = [a.warnings(), b.warnings()].concat();
    let samples = samples(args, &a, &mut notes)?;
    notes.extend_from_slice(samples.warnings());
    notes.iter().for_each(say);
    let progress = watch::progress(args.progress, false);
    let options = CompareOptions { all: args.all };
    let result = compare(&a, &b, &samples, &options, &progress, &stop::cancel())?;
    result.notes.iter().for_each(say);
    notes.extend_from_slice(&result.notes);
    let verdicts = args.fail_above.iter().map(|it| it.check(&result));
    let verdicts = verdicts.collect::<Result<Vec<Verdict>, Error>>()?;
    let on = samples.describe();
    if args.json {
        show(&format!("{:#}\n", to_json(args, &on, &result, &verdicts, &notes)))?;
    } else {
        show(&to_text(args, &on, &result, &verdicts))?;
    }
    let failed: Vec<&Verdict> = verdicts.iter().filter(|it| !it.passed).collect();
    failed.iter().for_each(|it| say(&failure(it, &result)));
    Ok(if failed.is_empty() { Ended::Well } else { Ended::Apart })
}

fn samples(args: &CompareArgs, a: &Model, notes: &mut Vec<Diagnostic>) -> Result<Samples, Error> {
    let options = OpenOptions {
        samples: args.samples,
        seq_len: args.seq_len,
        tokenizer: args.tokenizer.clone(),
        ..OpenOptions::default()
    };
    if let Some(data) = &args.data {
        return a.samples(data, options);
    }
    match a.random_samples(&options)? {
        Some(made) => {
            let text = format!("there are no samples, so both models run on {}", made.describe());
            let note = Diagnostic::note(codes::QCC0605, text).with_note(
                "what models do with random tokens says little about what they do with text",
            );
            notes.push(note.with_help("--data FILE gives samples"));
            Ok(made)
        }
        None => {
            let text = "there are no samples, and none can be made: the model takes no token ids";
            Err(Diagnostic::error(codes::QCC0405, text)
                .with_help("--data inputs.npz gives arrays that are named after the inputs")
                .with_help("qcc inspect MODEL prints the inputs")
                .into())
        }
    }
}

fn failure(it: &Verdict, result: &Comparison) -> Diagnostic {
    let (gate, figure) = (it.gate, it.gate.text(it.figure));
    let least = if gate.metric.is_least() { "least" } else { "most" };
    let text = format!(
        "{} of output '{}' is {figure}, and at {least} {} is asked for",
        gate.metric.name(),
        line(&it.output),
        gate.text(gate.limit)
    );
    let mut error = Diagnostic::error(codes::QCC0802, text).at("option --fail-above");
    if let Some(first) = &result.first {
        error = error.with_note(format!("the models part at '{}'", line(&first.value)));
    }
    error.with_help(if it.figure.is_nan() {
        "no element is finite in both models: qcc inspect MODEL --weights names bad weights"
    } else {
        "more bits, smaller groups or another recipe bring them nearer"
    })
}

fn to_text(args: &CompareArgs, on: &str, it: &Comparison, verdicts: &[Verdict]) -> String {
    let head = ["value", "max |a-b|", "relative", "cosine", "SNR", ""];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(it.values.iter().map(|value| row(value, it.first.as_ref())));
    let table = columns(&cells, &[1, 2, 3, 4]);
    let n_outputs = it.values.iter().filter(|it| it.is_output).count();
    let mut text = format!(
        "  a is {}, b is {}\n  on {on}\n\n",
        args.reference.display(),
        args.model.display()
    );
    for (at, row) in table.lines().enumerate() {
        if at == n_outputs + 1 {
            let _ = writeln!(text, "  {}", inner(it, args.all));
        }
        let _ = writeln!(text, "{row}");
    }
    let [only_a, only_b] = &it.outputs_of_one;
    for (names, side) in [(only_a, "a"), (only_b, "b")] {
        if let Some(name) = names.first() {
            let count = plural(names.len(), "output is", "outputs are");
            let _ = writeln!(text, "  {count} in {side} only, '{}' first: skipped", line(name));
        }
    }
    let [only_a, only_b] = it.inner_of_one;
    for (count, side) in [(only_a, "a"), (only_b, "b")] {
        if count > 0 {
            let count = plural(count, "inner value is", "inner values are");
            let _ = writeln!(text, "  {count} in {side} only: skipped");
        }
    }
    if it.first.is_none() {
        let _ = writeln!(text, "  no difference");
    }
    for verdict in verdicts {
        let (gate, figure) = (verdict.gate, verdict.gate.text(verdict.figure));
        let word = if verdict.passed { "passed" } else { "failed" };
        let _ = writeln!(text, "  gate {gate}: {word} ({figure} in {})", line(&verdict.output));
    }
    text
}

/// What stands between outputs and inner values.
fn inner(it: &Comparison, all: bool) -> String {
    let count = it.values.iter().filter(|it| !it.is_output).count();
    let what = match it.inner {
        Inner::Blocks => plural(count, "result of blocks", "results of blocks"),
        Inner::Norms => plural(count, "output of norms", "outputs of norms"),
        Inner::All => plural(count, "value", "values"),
    };
    let more = if all || it.inner == Inner::All { "" } else { "; --all for every value" };
    format!("inner values in depth order ({what}{more})")
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn row(it: &Compared, first: Option<&FirstDifference>) -> Vec<String> {
    let mut notes = Vec::new();
    if it.is_output {
        notes.push("output".to_owned());
    }
    notes.extend(it.block.clone());
    if it.unequal > 0 {
        notes.push(format!("{:.2} % of the elements differ", 100.0 * it.unequal_share()));
    }
    if it.not_finite != [0, 0] {
        let [a, b] = it.not_finite;
        let differ = it.not_finite_differ;
        notes.push(format!("not finite: {a} in a, {b} in b, {differ} of them differ"));
    }
    if let Some(first) = first.filter(|first| first.value == it.name) {
        let weights = match first.weights.as_slice() {
            [] => String::new(),
            [one] => format!(", {}", line(one)),
            [one, two] => format!(", {} and {}", line(one), line(two)),
            [from, .., to] => {
                format!(", {} .. {} ({} weights)", line(from), line(to), first.weights.len())
            }
        };
        notes.push(format!("<- first difference{weights}"));
    }
    let [max, relative, cosine, snr] = match it {
        _ if it.is_exact() => ["0".into(), "0".into(), "1.00000".into(), "exact".into()],
        _ if !it.is_float || it.not_finite_differ > 0 => ["-"; 4].map(str::to_owned),
        _ => [
            number(it.max_abs),
            number(it.relative),
            format!("{:.5}", it.cosine),
            format!("{:.1} dB", it.snr_db),
        ],
    };
    let mut cells = vec![line(&it.name), max, relative, cosine, snr];
    cells.push(notes.join("   "));
    cells
}

/// Four digits behind the point, unless that hides the number.
fn number(it: f64) -> String {
    match it.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e5).contains(&size) => format!("{it:.4}"),
        _ => format!("{it:.2e}"),
    }
}

fn to_json(
    args: &CompareArgs,
    on: &str,
    it: &Comparison,
    verdicts: &[Verdict],
    notes: &[Diagnostic],
) -> serde_json::Value {
    let value = |it: &Compared| {
        let [in_a, in_b] = it.not_finite;
        let mut all = json!({
            "name": it.name,
            "output": it.is_output,
            "block": it.block,
            "elements": it.elements,
            "exact": it.is_exact(),
        });
        if it.is_float {
            all["max_abs"] = json!(it.max_abs);
            all["relative"] = json!(it.relative);
            all["cosine"] = json!(it.cosine);
            all["snr_db"] = json!(it.snr_db);
            all["not_finite"] = json!({"a": in_a, "b": in_b, "differ": it.not_finite_differ});
        } else {
            all["unequal"] = json!(it.unequal);
        }
        all
    };
    let verdict = |it: &Verdict| {
        json!({
            "gate": it.gate.metric.name(),
            "limit": it.gate.limit,
            "output": it.output,
            "figure": it.figure,
            "passed": it.passed,
        })
    };
    let [outputs_a, outputs_b] = &it.outputs_of_one;
    json!({
        "a": args.reference.display().to_string(),
        "b": args.model.display().to_string(),
        "data": on,
        "samples": it.samples,
        "inner": it.inner.text(),
        "values": it.values.iter().map(value).collect::<Vec<_>>(),
        "first_difference": it.first.as_ref().map(|first| {
            json!({"value": first.value, "weights": first.weights})
        }),
        "outputs_in_a_only": outputs_a,
        "outputs_in_b_only": outputs_b,
        "inner_in_a_only": it.inner_of_one[0],
        "inner_in_b_only": it.inner_of_one[1],
        "gates": verdicts.iter().map(verdict).collect::<Vec<_>>(),
        "notes": notes.iter().map(Note::from).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_numbers_can_be_seen() {
        let texts = [0.0, 0.25, 4934.63671875, 0.000386, 3.4e38].map(number);
        assert_eq!(texts, ["0", "0.2500", "4934.6367", "3.86e-4", "3.40e38"]);
    }
}
