//! `qcc quantize`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use qcc::{Compiler, Error, External, Model, OpenOptions, Output, ReadOptions, SaveOptions};
use qcc_diag::{Diagnostic, Severity, codes};
use qcc_pass::Cancel;
use qcc_report::{RunRecord, bytes};

use super::command::{QuantizeArgs, When};
use super::exit::{self, Ended, say, show};
use super::record::record;
use super::{eval, watch};

/// Runs the command.
pub(super) fn run(args: &QuantizeArgs) -> Result<Ended, Error> {
    let start = Instant::now();
    let options =
        ReadOptions { strict: args.strict, allow_external_symlinks: args.allow_external_symlinks };
    let model = Model::open_with(&args.input, &options)?;
    let before = model.source().size_bytes();
    let tell = |label: &str, text: &str| {
        if !args.quiet {
            exit::tell(&format!("  {label:<9} {text}"));
        }
    };
    let opset = model.source().opset("").unwrap_or(0);
    let nodes = model.graph().nodes().filter(|it| it.1.op().is_some()).count();
    let input = args.input.display();
    tell("read", &format!("{input}  {}, {nodes} nodes, opset {opset}", bytes(before)));
    for warning in model.warnings() {
        if !args.quiet && (warning.severity > Severity::Note || args.verbose) {
            say(warning);
        }
    }
    let output = args.output.clone().unwrap_or_else(|| beside(&args.input, args.bits));
    check_output(&output, args)?;

    let mut compiler = compiler(args)?;
    if let Some(path) = &args.calib {
        let options = OpenOptions {
            samples: args.samples,
            seq_len: args.seq_len,
            tokenizer: args.tokenizer.clone(),
            ..OpenOptions::default()
        };
        compiler = compiler.calibration(eval::calibration(&model, path, options)?);
    }
    let pipeline = compiler.plan()?;
    if args.verbose || args.dry_run {
        tell("pipeline", &pipeline.to_string());
    }
    let cancel = Cancel::default();
    let flag = cancel.clone();
    // A second signal ends the process at once; without a handler the first one would.
    let _ = ctrlc::set_handler(move || {
        if flag.is_set() {
            std::process::exit(130);
        }
        flag.set();
    });
    for it in args.look.instruments(&output) {
        compiler = compiler.instrument(it);
    }
    let compiled = compiler.cancel(cancel).progress(watch::progress(args.quiet)).run(&model)?;
    notes(&compiled, args);
    let mut record = record(&compiled, args.seed);
    record.input = args.input.display().to_string();
    record.bytes_before = before;
    if let Some(pass) = args.look.stop_after.as_ref().filter(|_| !compiled.is_finished()) {
        tell("stop", &format!("after {pass}, no model written"));
        return match args.json {
            true => json(&record),
            false => show(&qcc_ir::text::print(compiled.graph())),
        };
    }
    // A model with nothing to quantize is copied as it is, so that a script over many models goes
    // on; the warning and the summary say so.
    let is_whole =
        !pipeline.steps().is_empty() && record.weights.iter().all(|it| it.bits.is_none());
    if is_whole {
        let message = nothing(&record);
        if args.strict {
            return Err(Diagnostic { severity: Severity::Error, ..message }.into());
        }
        say(&message);
    }
    for line in qcc_report::left(&record) {
        tell("left", &line);
    }
    if args.dry_run {
        tell("", "nothing written");
        return if args.json { json(&record) } else { Ok(Ended::Well) };
    }
    let save = SaveOptions {
        external: match args.external_data {
            When::Auto => External::Auto,
            When::Always => External::Always,
            When::Never => External::Never,
        },
        overwrite: args.force,
        no_provenance: args.no_provenance || is_whole,
    };
    let written = compiled.save(&output, &save)?;
    if let Some((from, to)) = written.raised {
        let text = format!("the opset was raised from {from} to {to}, which the format needs");
        say(&Diagnostic::warning(codes::QCC0203, text));
    }
    record.output = Some(output.display().to_string());
    record.bytes_after = Some(written.size_bytes);
    if args.json {
        return json(&record);
    }
    if args.quiet {
        return Ok(Ended::Well);
    }
    let table = match pipeline.steps() {
        [] => String::new(),
        _ => qcc_report::summary(&record),
    };
    let seconds = start.elapsed().as_secs_f64();
    show(&format!("{table}  {} written in {seconds:.1} s\n", output.display()))
}

fn json(record: &RunRecord) -> Result<Ended, Error> {
    let text = serde_json::to_string_pretty(record)
        .map_err(|it| Diagnostic::error(codes::QCC0901, it.to_string()))?;
    show(&format!("{text}\n"))
}

fn compiler(args: &QuantizeArgs) -> Result<Compiler, Error> {
    let mut compiler = Compiler::new().seed(args.seed);
    if let Some(text) = &args.passes {
        compiler = compiler.pipeline(text);
    } else {
        compiler = compiler.format(&args.format)?;
        if let Some(recipe) = &args.recipe {
            compiler = compiler.recipe(recipe)?;
        }
        compiler = compiler
            .bits(args.bits.into())?
            .group_size(&args.group_size)?
            .setting("select", "sym", if args.sym { "true" } else { "false" })?
            .setting("select", "scale", &args.scale_type)?
            .setting("select", "embeddings", &args.embeddings.unwrap_or(0).to_string())?
            .setting("select", "head", &args.lm_head.unwrap_or(0).to_string())?
            .setting("select", "op-types", &args.op_types)?
            .setting("select", "include", &args.include.join("\n"))?
            .setting("select", "exclude", &args.exclude.join("\n"))?
            .setting("select", "set", &args.set.join("\n"))?
            .setting("select", "strict", if args.strict { "true" } else { "false" })?
            .setting("to-nbits", "accuracy-level", &args.accuracy_level.to_string())?;
    }
    if let Some(threads) = args.threads {
        compiler = compiler.threads(threads);
    }
    Ok(compiler)
}

/// `model.onnx` to `model.q4.onnx`.
fn beside(input: &Path, bits: u8) -> PathBuf {
    let stem = input.file_stem().unwrap_or_default().to_string_lossy();
    input.with_file_name(format!("{stem}.q{bits}.onnx"))
}

/// Before long work, not after it.
fn check_output(output: &Path, args: &QuantizeArgs) -> Result<(), Error> {
    if !args.force && !args.dry_run && output.symlink_metadata().is_ok() {
        return Err(Diagnostic::error(codes::QCC0106, format!("'{}' exists", output.display()))
            .at(output.display().to_string())
            .with_help("add -f to replace it, or choose another name with -o")
            .into());
    }
    Ok(())
}

fn notes(compiled: &Output, args: &QuantizeArgs) {
    if args.quiet {
        return;
    }
    for note in &compiled.record().notes {
        if note.severity > Severity::Note || args.verbose {
            say(note);
        }
    }
}

fn nothing(record: &RunRecord) -> Diagnostic {
    let mut message =
        Diagnostic::warning(codes::QCC0601, "no weight was chosen, so nothing is quantized");
    for line in qcc_report::left(record) {
        message = message.with_note(line);
    }
    if record.weights.is_empty() {
        message = message.with_note("the model multiplies by no constant");
    }
    message
        .with_note("the output is the input")
        .with_help("the reasons above may name an option; with --strict this is an error")
}
