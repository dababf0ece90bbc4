//! `qcc quantize`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use qcc::{Compiler, Error, External, Model, OpenOptions, Output, ReadOptions, SaveOptions};
use qcc_diag::{Diagnostic, Severity, codes};
use qcc_pass::Cancel;

use super::command::{QuantizeArgs, When};
use super::exit::{Ended, say};
use super::size::bytes;
use super::{eval, screen, watch};

/// Runs the command.
pub(super) fn run(args: &QuantizeArgs) -> Result<Ended, Error> {
    let start = Instant::now();
    let options =
        ReadOptions { strict: args.strict, allow_external_symlinks: args.allow_external_symlinks };
    let model = Model::open_with(&args.input, &options)?;
    let before = model.source().size_bytes();
    let tell = |label: &str, text: &str| {
        if !args.quiet {
            eprintln!("  {label:<9} {text}");
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
    let compiled = compiler.cancel(cancel).progress(watch::progress(args.quiet)).run(&model)?;
    notes(&compiled, args);
    if !pipeline.steps().is_empty() && compiled.record().weights.iter().all(|it| it.bits.is_none())
    {
        return Err(nothing(&compiled).into());
    }
    for line in screen::left(compiled.record()) {
        tell("left", &line);
    }
    if args.dry_run {
        tell("", "nothing written");
        return Ok(Ended::Well);
    }
    let save = SaveOptions {
        external: match args.external_data {
            When::Auto => External::Auto,
            When::Always => External::Always,
            When::Never => External::Never,
        },
        overwrite: args.force,
        no_provenance: args.no_provenance,
    };
    let written = compiled.save(&output, &save)?;
    if let Some((from, to)) = written.raised {
        let text = format!("the opset was raised from {from} to {to}, which the format needs");
        say(&Diagnostic::warning(codes::QCC0203, text));
    }
    if !args.quiet {
        if !pipeline.steps().is_empty() {
            println!("{}", screen::summary(compiled.record(), before, written.size_bytes));
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("  {} written in {seconds:.1} s", output.display());
    }
    Ok(Ended::Well)
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

fn nothing(compiled: &Output) -> Diagnostic {
    let mut message =
        Diagnostic::error(codes::QCC0601, "no weight was chosen, so nothing was quantized");
    for line in screen::left(compiled.record()) {
        message = message.with_note(line);
    }
    if compiled.record().weights.is_empty() {
        message = message.with_note("the model multiplies by no constant");
    }
    message.with_help("-O none copies the model as it is")
}
