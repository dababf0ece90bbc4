//! Where a run writes, looked at before long work and not after it.

use std::io;
use std::path::{Path, PathBuf};

use qcc::{Error, External, Model, SaveOptions};
use qcc_diag::{Diagnostic, codes};

use super::super::command::{QuantizeArgs, When};
use super::super::emit::Plan;
use super::super::exit::{Json, try_file, unwritten};
use super::super::{overwrites, streams};
use super::save_options;

/// `model.onnx` to `model.q4.onnx`, or to `model.q4.o` and the like if no model is written; code
/// of a model as it is has its name. What is read from the input stream goes to the output stream.
pub(super) fn beside(args: &QuantizeArgs, bits: u8) -> PathBuf {
    if streams::is_stream(&args.input) {
        return PathBuf::from(streams::STREAM);
    }
    let stem = args.input.file_stem().unwrap_or_default().to_string_lossy();
    let extension = args.code.extension();
    let tag = match (args.bpw, args.target_size) {
        _ if is_copy(args) && !args.code.has_model() => String::new(),
        (Some(bpw), _) => format!(".q{bpw}"),
        (None, Some(_)) => ".q".to_owned(),
        (None, None) => format!(".q{bits}"),
    };
    args.input.with_file_name(format!("{stem}{tag}.{extension}"))
}

/// Whether the output stream may have the model, and nothing else wants it.
///
/// # Errors
/// QCC0304 with the option that does not go with it.
pub(super) fn check_stream(args: &QuantizeArgs, json: Option<&Json>) -> Result<(), Error> {
    let wrong = |option: &str, text: &str, help: &str| {
        let error = Diagnostic::error(codes::QCC0304, text).at(format!("option {option}"));
        Err(error.with_help(help).into())
    };
    if !args.code.is_model_alone() {
        return wrong("--emit", "files of code have no place in a stream", "name a file with -o");
    }
    if args.verify.is_some() {
        let text = "--verify reads the output back, which is no file";
        return wrong("--verify", text, "name a file with -o, or leave out --verify");
    }
    if args.eval.is_some() {
        let text = "--eval runs the output, which is no file";
        return wrong("--eval", text, "name a file with -o, or run qcc eval - behind it");
    }
    if args.dry_run || args.look.stop_after.is_some() {
        return Ok(());
    }
    if json == Some(&Json::Stream) {
        let text = "the output stream has the model, and cannot have JSON as well";
        return wrong("--json", text, "write --json=FILE, or name a file for the model with -o");
    }
    streams::must_be_no_terminal()
}

/// Whether every file that is asked for has a place.
///
/// # Errors
/// When one exists, is the input, or cannot be written.
pub(super) fn check(
    model: &Model,
    output: &Path,
    plan: Option<&Plan>,
    args: &QuantizeArgs,
    json: Option<&Json>,
) -> Result<(), Error> {
    let has_model = args.code.has_model();
    let readers = [("--verify", args.verify.is_some()), ("--eval", args.eval.is_some())];
    if let Some((option, _)) = readers.iter().find(|it| it.1 && !has_model) {
        let text = format!("{option} reads the model back, and --emit asks for none");
        return Err(Diagnostic::error(codes::QCC0304, text)
            .at(format!("option {option}"))
            .with_help(format!("write --emit onnx as well, or leave out {option}"))
            .into());
    }
    let writes_model = args.look.stop_after.is_none() && !args.dry_run;
    if has_model && writes_model {
        let save = save_options(args);
        let external = match args.external_data {
            // What does not change keeps its data files.
            When::Auto if is_copy(args) => External::Never,
            _ => save.external,
        };
        let save = SaveOptions { external, ..save };
        if streams::is_stream(output) {
            model.check_stream(&save)?;
        } else {
            model.check_places(output, &save)?;
        }
    }
    let code = plan.map_or_else(Vec::new, Plan::paths);
    for path in &code {
        check_code(path, args)?;
        if writes_model {
            // A rename would put a file in the place of a device.
            if path.metadata().is_ok_and(|it| !it.is_file()) {
                return Err(unwritten(path, &io::Error::other("it is not a file")));
            }
            try_file(path)?;
        }
    }
    let mut writes: Vec<(&str, PathBuf)> = Vec::new();
    if has_model && writes_model && !streams::is_stream(output) {
        writes.push(("-o", output.to_owned()));
        writes.push(("the data file", qcc_onnx::data_beside(output)));
    }
    writes.extend(code.into_iter().map(|it| ("--emit", it)));
    let json = match json {
        Some(Json::File(path)) => Some(path),
        _ => None,
    };
    let asked =
        [("--json", json), ("--record", args.record.as_ref()), ("--report", args.report.as_ref())];
    let asked = asked.into_iter().filter_map(|(option, path)| Some((option, path?)));
    writes.extend(asked.clone().map(|it| (it.0, it.1.clone())));
    overwrites::check(&writes, &reads(args, model))?;
    for (_, path) in asked {
        if !args.force {
            overwrites::must_be_new(path)?;
        }
        try_file(path)?;
    }
    Ok(())
}

/// Files and folders that the run reads, each with the option that names it.
fn reads(args: &QuantizeArgs, model: &Model) -> Vec<(&'static str, PathBuf)> {
    let mut reads = Vec::new();
    if !streams::is_stream(&args.input) {
        reads.push(("the input", args.input.clone()));
        let paths = model.source().data_paths();
        reads.extend(paths.into_iter().map(|it| ("the input", it)));
    }
    let options = [
        ("--calib", &args.calib),
        ("--tokenizer", &args.tokenizer),
        ("--config", &args.config),
        ("--eval", &args.eval),
    ];
    reads.extend(options.into_iter().filter_map(|(name, it)| Some((name, it.clone()?))));
    reads
}

/// Whether the model is written as it is.
fn is_copy(args: &QuantizeArgs) -> bool {
    args.recipe.as_deref() == Some("none")
}

fn check_code(path: &Path, args: &QuantizeArgs) -> Result<(), Error> {
    if !args.force && !args.dry_run && path.symlink_metadata().is_ok() {
        return Err(Diagnostic::error(codes::QCC0106, format!("'{}' exists", path.display()))
            .at(path.display().to_string())
            .with_help("add -f to replace it, or choose another name with -o")
            .into());
    }
    let input = args.input.canonicalize();
    if input.is_ok_and(|input| path.canonicalize().is_ok_and(|it| it == input)) {
        let text = format!("'{}' is the input model", path.display());
        return Err(Diagnostic::error(codes::QCC0107, text)
            .at(path.display().to_string())
            .with_help("choose another name with -o")
            .into());
    }
    Ok(())
}
