//! `qcc quantize`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qcc::{
    Compiler, Error, External, Model, OpenOptions, Output, OwnTextSize, ReadOptions, SaveOptions,
};
use qcc_diag::{Diagnostic, Severity, codes};
use qcc_pass::Cancel;
use qcc_report::{Note, RunRecord, bytes};

use super::budget;
use super::command::{QuantizeArgs, When};
use super::detail::Detail;
use super::emit::Plan;
use super::exit::{self, Ended, Json, say, show};
use super::record::record;
use super::took::Begin;
use super::verify::{Choices, Verify};
use super::work::Work;
use super::{report, took, watch, words};

/// Runs the command. `options` are those that may change the output, for the record.
pub(super) fn run(
    args: &QuantizeArgs,
    options: BTreeMap<String, String>,
    json: Option<&Json>,
) -> Result<Ended, Error> {
    let begin = Begin::now();
    // What was typed wrong is said before a large model is opened.
    let settings = Settings::of(args)?;
    let output = args.output.clone().unwrap_or_else(|| beside(args, &tag(args, &settings)));
    let plan = Plan::of(&args.code, &output)?;
    let output = plan.as_ref().and_then(Plan::model).unwrap_or(output);
    let mut compiler = compiler(args, &settings)?;
    let read = ReadOptions {
        strict: args.strict,
        allow_external_symlinks: args.allow_external_symlinks,
        treat_as_constant: args.treat_as_constant,
        no_mmap: args.no_mmap,
    };
    let model = Model::open_with(&args.input, &read)?;
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
    let mut notes = Notes { args, all: Vec::new() };
    notes.add(model.warnings());
    compiler = budget::add(compiler, args, &output)?;
    check_output(&output, plan.as_ref(), args)?;
    for path in args.record.iter().chain(&args.report).filter(|_| !args.force) {
        report::must_be_new(path)?;
    }

    let made = made(args)?;
    if let Some(size) = made {
        compiler = compiler.own_text(size);
    }
    if let Some(path) = args.calib.as_ref().filter(|_| made.is_none()) {
        let options = OpenOptions {
            samples: args.samples,
            seq_len: args.seq_len,
            tokenizer: args.tokenizer.clone(),
            ..OpenOptions::default()
        };
        let samples = model.samples(path, options)?;
        notes.add(samples.warnings());
        compiler = compiler.calibration(Arc::new(samples));
    }
    let pipeline = compiler.plan()?;
    if args.verbose || args.dry_run {
        tell("pipeline", &pipeline.to_string());
    }
    for it in args.look.instruments(&output) {
        compiler = compiler.instrument(it);
    }
    let choices = Choices::default();
    if args.verify == Some(Verify::Full) {
        compiler = compiler.instrument(Box::new(choices.clone()));
    }
    let detail = Detail::default();
    if args.record.is_some() || args.report.is_some() {
        compiler = compiler.instrument(Box::new(detail.clone()));
    }
    let progress = watch::progress(args.progress, args.quiet);
    let work = Work::of(args, &output);
    if let Some(folder) = work.folder().filter(|_| !args.dry_run) {
        compiler = compiler.work_dir(folder);
    }
    let compiled = compiler
        .cancel(cancel())
        .dry(args.dry_run)
        .progress(progress)
        .run(&model)
        .map_err(|error| work.explain(error))?;
    notes.add(&compiled.record().notes);
    let mut record = record(&compiled, args.seed);
    record.input = args.input.display().to_string();
    record.options = settings.resolve(options);
    if budget::is_asked(args) {
        record.options.remove("bits");
    } else {
        record.options.entry("group-size".to_owned()).or_insert_with(|| GROUP.to_owned());
    }
    record.bytes_before = before;
    if args.look.bisect_limit.is_some() && compiled.is_finished() {
        leave_rest(&mut record);
    }
    if let Some(pass) = args.look.stop_after.as_ref().filter(|_| !compiled.is_finished()) {
        tell("stop", &format!("after {pass}, no model written"));
        record.notes = notes.rows();
        if let Some(json) = json {
            json.write(&record)?;
        }
        return match json {
            Some(Json::Stream) => Ok(Ended::Well),
            _ => show(&qcc_ir::text::print(compiled.graph())),
        };
    }
    // A model with nothing to quantize is copied as it is, so that a script over many models goes
    // on; the warning and the summary say so.
    let is_whole = pipeline.steps().iter().any(|it| it.pass.name == "select")
        && record.weights.iter().all(|it| it.bits.is_none());
    if is_whole {
        let message = nothing(&record);
        if args.strict {
            return Err(Diagnostic { severity: Severity::Error, ..message }.into());
        }
        notes.add(&[message]);
    }
    if let Some(line) = budget::line(args, &record) {
        tell("bits", &line);
    }
    for line in qcc_report::left(&record) {
        tell("left", &line);
    }
    if let Some(line) = qcc_report::apart(&record) {
        tell("layer", &line);
    }
    if args.dry_run {
        for (label, text) in took::expected(&record, args.max_mem) {
            tell(label, &text);
        }
        tell("", "nothing written");
        record.notes = notes.rows();
        json.map_or(Ok(Ended::Well), |it| it.write(&record))?;
        let told = tell_more(args, &compiled, &mut record, &detail, &begin)?;
        return if json == Some(&Json::Stream) { Ok(Ended::Well) } else { show(&told) };
    }
    let mut save = save_options(args);
    save.no_provenance |= is_whole;
    let code = plan.map(|it| it.make(compiled.graph(), args.strict, &mut |it| notes.add(it)));
    let code = code.transpose()?;
    let written = args.code.has_model().then(|| compiled.save(&output, &save)).transpose()?;
    let mut files = Vec::new();
    if let Some(code) = code {
        tell("code", code.line());
        files = code.finish()?;
    }
    if let Some(written) = &written {
        files.insert(0, (output.clone(), written.size_bytes));
    }
    work.remove();
    if let Some((from, to)) = written.as_ref().and_then(|it| it.raised) {
        let text = format!("the opset was raised from {from} to {to}, which the format needs");
        notes.add(&[Diagnostic::warning(codes::QCC0203, text)]);
    }
    if args.verify == Some(Verify::Full) {
        let (same, open) = choices.compare(&record, &output)?;
        let open = match open {
            0 => String::new(),
            count => format!(", {count} have no codes to compare"),
        };
        tell("verify", &format!("{same} weights read back as they were chosen{open}"));
    }
    record.output = files.first().map(|it| it.0.display().to_string());
    record.bytes_after = written.map(|it| it.size_bytes);
    record.notes = notes.rows();
    if let Some(json) = json {
        json.write(&record)?;
    }
    let told = tell_more(args, &compiled, &mut record, &detail, &begin)?;
    if args.quiet || json == Some(&Json::Stream) {
        return Ok(Ended::Well);
    }
    let table = match pipeline.steps() {
        [] => String::new(),
        _ => qcc_report::summary(&record),
    };
    let took = took::line(&record, &begin);
    let mut names = files.iter().map(|it| it.0.display().to_string());
    let first = names.next().unwrap_or_default();
    let others: String = names.map(|it| format!("  {it}\n")).collect();
    show(&format!("{table}  {first} {took}\n{others}{told}"))
}

/// How the output is written.
pub(super) fn save_options(args: &QuantizeArgs) -> SaveOptions {
    SaveOptions {
        external: match args.external_data {
            When::Auto => External::Auto,
            When::Always => External::Always,
            When::Never => External::Never,
        },
        overwrite: args.force,
        annotate: args.annotate,
        // Nor does the pipeline alone make a part of a model again.
        no_provenance: args.no_provenance || args.look.bisect_limit.is_some(),
    }
}

/// Writes what `--record` and `--report` ask for; says where the report is.
fn tell_more(
    args: &QuantizeArgs,
    compiled: &Output,
    record: &mut RunRecord,
    detail: &Detail,
    begin: &Begin,
) -> Result<String, Error> {
    if args.record.is_none() && args.report.is_none() {
        return Ok(String::new());
    }
    detail.add_to(record);
    record.provenance = compiled.metadata().into_iter().filter(|it| is_new(&it.0)).collect();
    record.environment = Some(begin.environment(args.threads));
    if let Some(path) = &args.record {
        Json::File(path.clone()).write(&*record)?;
    }
    let Some(path) = &args.report else { return Ok(String::new()) };
    Ok(format!("  {}\n", report::of_run(record, path)?))
}

/// Whether a key of the metadata says what the record has not.
fn is_new(key: &str) -> bool {
    !matches!(key, "qcc.version" | "qcc.pipeline" | "qcc.seed")
}

/// Weights that were chosen, but are beyond the limit of a bisection, are in float.
fn leave_rest(record: &mut RunRecord) {
    for row in record.weights.iter_mut().filter(|it| it.bits.is_some() && it.layout.is_empty()) {
        row.bits = None;
        row.bytes_after = row.bytes_before;
        row.bpw = 8.0 * row.bytes_before as f64 / (row.n as f64 * row.k as f64).max(1.0);
        row.reason_left_float = Some("it is beyond --bisect-limit".to_owned());
    }
}

/// A flag that the first interrupt sets. The second one ends the process at once.
fn cancel() -> Cancel {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    // Without a handler the first one would end it.
    let _ = ctrlc::set_handler(move || {
        if flag.is_set() {
            std::process::exit(130);
        }
        flag.set();
    });
    cancel
}

/// The part of `--budget` that is for blocks where scales of the whole model are trained as well.
const FOR_BLOCKS: f64 = 0.75;

/// Weights that share a scale where nobody says otherwise.
const GROUP: &str = "32";

/// What several options say together.
struct Settings {
    bits: u8,
    accuracy_level: u8,
}

impl Settings {
    fn of(args: &QuantizeArgs) -> Result<Self, Error> {
        let asked = args.accuracy_level;
        let Some(scheme) = args.scheme else {
            return Ok(Self { bits: args.bits, accuracy_level: asked.unwrap_or(4) });
        };
        if let Some(level) = asked.filter(|&it| scheme.is_int8 && it != 4) {
            let text = format!("--scheme with A8 is accuracy level 4, not {level}");
            return Err(Diagnostic::error(codes::QCC0304, text)
                .at("option --accuracy-level")
                .with_help("leave out one of the two options")
                .into());
        }
        Ok(Self { bits: scheme.bits, accuracy_level: asked.unwrap_or(4) })
    }

    /// The options of the record, with what a shorthand stands for in its place.
    fn resolve(&self, mut options: BTreeMap<String, String>) -> BTreeMap<String, String> {
        options.remove("scheme");
        options.insert("bits".to_owned(), self.bits.to_string());
        options.insert("accuracy-level".to_owned(), self.accuracy_level.to_string());
        options
    }
}

fn compiler(args: &QuantizeArgs, settings: &Settings) -> Result<Compiler, Error> {
    let mut compiler = Compiler::new().seed(args.seed);
    if let Some(text) = &args.passes {
        compiler = compiler.pipeline(text);
    } else {
        compiler = compiler.format(words::format(&args.format))?;
        if let Some(recipe) = &args.recipe {
            compiler = compiler.recipe(recipe)?;
        }
        if args.inline_functions {
            compiler = compiler.prepare("inline-functions,infer-types,dce")?;
        }
        if args.requantize {
            compiler = compiler.prepare("dequantize-weights,dce")?;
            let has_tables = args.embeddings.is_some() || !args.set.is_empty();
            compiler = compiler.setting("dequantize-weights", "tables", &has_tables.to_string())?;
        }
        if args.merge_equal {
            compiler = compiler.prepare("cse{merge-equal=true},dce")?;
        }
        let op_types: Vec<&str> = args.op_types.iter().map(|it| it.name()).collect();
        compiler = compiler
            .bits(settings.bits.into())?
            .group_size(args.group_size.as_deref().unwrap_or(GROUP))?
            .setting("select", "sym", if args.sym { "true" } else { "false" })?
            .setting("select", "scale", args.scale_type.name())?
            .setting("select", "embeddings", &args.embeddings.unwrap_or(0).to_string())?
            .setting("select", "head", &args.lm_head.unwrap_or(0).to_string())?
            .setting("select", "op-types", &op_types.join(","))?
            .setting("select", "include", &args.include.join("\n"))?
            .setting("select", "exclude", &args.exclude.join("\n"))?
            .setting("select", "set", &args.set.join("\n"))?
            .setting("select", "strict", if args.strict { "true" } else { "false" })?
            .setting("to-nbits", "accuracy-level", &settings.accuracy_level.to_string())?;
    }
    if let Some(preset) = &args.preset {
        compiler = compiler.setting("signround", "preset", preset)?;
    }
    let trained = match args.preset.as_deref() {
        Some("best") => Some(150),
        Some("std") => Some(50),
        _ => args.tune_norms.then_some(50),
    };
    if args.tune_norms {
        compiler = compiler.setting("tune-scales", "norms", "true")?;
    }
    let trained = args.tune_scales.or(trained);
    if let Some(steps) = trained {
        compiler = compiler.setting("tune-scales", "iters", &steps.to_string())?;
    }
    if let Some(time) = args.budget {
        // What blocks do not need is for the scales of the whole model as well.
        let part = if trained.is_some_and(|it| it > 0) { FOR_BLOCKS } else { 1.0 };
        let seconds = time.as_secs_f64();
        compiler = compiler
            .setting("signround", "budget", &(seconds * part).to_string())?
            .setting("tune-scales", "budget", &seconds.to_string())?;
    }
    if let Some(threads) = args.threads {
        compiler = compiler.threads(threads);
    }
    if let Some(cap) = args.max_mem {
        compiler = compiler.max_memory(cap);
    }
    Ok(compiler)
}

/// What stands in for samples: `--calib self` is text of the model, `--calib random` is none of it;
/// `None` when samples are named, or nothing is asked for.
fn made(args: &QuantizeArgs) -> Result<Option<Option<OwnTextSize>>, Error> {
    let size = OwnTextSize { samples: args.samples, length: args.seq_len };
    match args.calib.as_ref().and_then(|it| it.to_str()) {
        Some("self") => Ok(Some(Some(size))),
        Some("random") if args.samples.or(args.seq_len).is_some() => {
            let text = "the number and length of random tokens are fixed";
            Err(Diagnostic::error(codes::QCC0304, text)
                .at("option --calib random")
                .with_help("leave out --samples and --seq-len, or write --calib self")
                .into())
        }
        Some("random") => Ok(Some(None)),
        _ => Ok(None),
    }
}

/// What the bits are called in the name of the output.
fn tag(args: &QuantizeArgs, settings: &Settings) -> String {
    match (args.bpw, args.target_size) {
        (Some(bpw), _) => bpw.to_string(),
        (None, Some(_)) => String::new(),
        (None, None) => settings.bits.to_string(),
    }
}

/// `model.onnx` to `model.q4.onnx`, or to `model.q4.o` and the like if no model is written; code
/// of a model as it is has its name.
fn beside(args: &QuantizeArgs, bits: &str) -> PathBuf {
    let stem = args.input.file_stem().unwrap_or_default().to_string_lossy();
    let extension = args.code.extension();
    let is_as_it_is = args.recipe.as_deref() == Some("none") && !args.code.has_model();
    let tag = if is_as_it_is { String::new() } else { format!(".q{bits}") };
    args.input.with_file_name(format!("{stem}{tag}.{extension}"))
}

/// Before long work, not after it.
fn check_output(output: &Path, plan: Option<&Plan>, args: &QuantizeArgs) -> Result<(), Error> {
    let has_model = args.code.has_model();
    if args.verify.is_some() && !has_model {
        let text = "--verify reads the model back, and --emit asks for none";
        return Err(Diagnostic::error(codes::QCC0304, text)
            .at("option --verify")
            .with_help("write --emit onnx as well, or leave out --verify")
            .into());
    }
    let code = plan.map_or_else(Vec::new, Plan::paths);
    let model = has_model.then(|| output.to_owned());
    for path in model.into_iter().chain(code.iter().cloned()) {
        if !args.force && !args.dry_run && path.symlink_metadata().is_ok() {
            return Err(Diagnostic::error(codes::QCC0106, format!("'{}' exists", path.display()))
                .at(path.display().to_string())
                .with_help("add -f to replace it, or choose another name with -o")
                .into());
        }
    }
    // That the model is not its own output is seen where it is written.
    let input = args.input.canonicalize();
    let is_input =
        |it: &&PathBuf| input.as_ref().is_ok_and(|a| it.canonicalize().is_ok_and(|b| *a == b));
    if let Some(path) = code.iter().find(is_input) {
        let text = format!("'{}' is the input model", path.display());
        return Err(Diagnostic::error(codes::QCC0107, text)
            .at(path.display().to_string())
            .with_help("choose another name with -o")
            .into());
    }
    Ok(())
}

/// What there is to say, said and kept for the record.
struct Notes<'a> {
    args: &'a QuantizeArgs,
    all: Vec<Diagnostic>,
}

impl Notes<'_> {
    fn add(&mut self, list: &[Diagnostic]) {
        for note in list {
            if !self.args.quiet && (note.severity > Severity::Note || self.args.verbose) {
                say(note);
            }
            self.all.push(note.clone());
        }
    }

    fn rows(&self) -> Vec<Note> {
        self.all.iter().map(Note::from).collect()
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
