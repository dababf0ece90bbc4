//! `qcc quantize`.

mod measure;
mod notes;
mod places;
mod settings;
mod summary;
mod tuning;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use qcc::{Error, External, OpenOptions, Output, ReadOptions, SaveOptions};
use qcc_diag::{Diagnostic, Severity, codes};
use qcc_report::{RunRecord, bytes};

use super::budget;
use super::command::{QuantizeArgs, When};
use super::detail::Detail;
use super::emit::Plan;
use super::exit::{self, Ended, Json, show};
use super::record::record;
use super::took::Begin;
use super::verify::{Choices, Verify};
use super::work::Work;
use super::{report, stop, streams, tokenizer, took, watch};
use notes::{Notes, moved, nothing};
use settings::{Settings, compiler, made};

/// Runs the command. `options` are those that may change the output, for the record.
pub(super) fn run(
    args: &QuantizeArgs,
    options: BTreeMap<String, String>,
    json: Option<&Json>,
) -> Result<Ended, Error> {
    let begin = Begin::now();
    // What was typed wrong is said before a large model is opened.
    let settings = Settings::of(args)?;
    let output = args.output.clone().unwrap_or_else(|| places::beside(args, settings.bits));
    let is_stream = streams::is_stream(&output);
    if is_stream {
        places::check_stream(args, json)?;
    }
    let plan = Plan::of(&args.code, &output)?;
    let output = plan.as_ref().and_then(Plan::model).unwrap_or(output);
    let mut compiler = compiler(args, &settings)?;
    let read = ReadOptions {
        strict: args.strict,
        allow_external_symlinks: args.allow_external_symlinks,
        treat_as_constant: args.treat_as_constant,
        no_mmap: args.no_mmap,
    };
    let data = [args.calib.as_deref(), args.eval.as_deref()];
    tokenizer::check(args.tokenizer.as_deref(), &data)?;
    let model = streams::open_with(&args.input, &read)?;
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
    let mut notes = Notes::new(args);
    notes.add(model.warnings());
    compiler = budget::add(compiler, args, &output)?;
    places::check(&model, &output, plan.as_ref(), args, json)?;
    let evaluated = measure::samples(args, &model)?;
    if let Some(samples) = &evaluated {
        notes.add(samples.warnings());
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
    tuning::check(args, &pipeline)?;
    if args.verbose || args.dry_run {
        tell("pipeline", &pipeline.to_string());
    }
    for it in args.look.instruments(if is_stream { Path::new("qcc") } else { &output }) {
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
    if args.fresh {
        work.drop_earlier();
    }
    if let Some(dir) = work.dir() {
        compiler = compiler.work_dir(dir.clone());
    }
    let cancel = stop::cancel();
    let compiled = compiler
        .cancel(cancel.clone())
        .dry(args.dry_run)
        .progress(progress)
        .run(&model)
        .map_err(|error| work.explain(error))?;
    notes.add(&compiled.record().notes);
    let mut record = record(&compiled, args.seed);
    record.input = args.input.display().to_string();
    record.options = settings.resolve(options, args, &pipeline, &compiled.record().steps);
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
        let message = nothing(&record, compiled.graph());
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
    let mut save = save_options(args);
    save.no_provenance |= is_whole;
    if let Some(line) = qcc_report::apart(&record) {
        tell("layer", &line);
    }
    if args.dry_run {
        if args.code.has_model() {
            let after = compiled.size(&output, &save)?;
            tell("size", &format!("{} -> {}", bytes(before), bytes(after)));
            record.bytes_after = Some(after);
        }
        for (label, text) in took::expected(&record, args.max_mem) {
            tell(label, &text);
        }
        if args.eval.is_some() {
            tell("eval", "not measured in a dry run");
        }
        tell("", "nothing written");
        record.notes = notes.rows();
        json.map_or(Ok(Ended::Well), |it| it.write(&record))?;
        let told = tell_more(args, &compiled, &mut record, &detail, &begin)?;
        return if json == Some(&Json::Stream) { Ok(Ended::Well) } else { show(&told) };
    }
    let code = plan.map(|it| it.make(compiled.graph(), args.strict, &mut |it| notes.add(it)));
    let code = code.transpose()?;
    let written =
        args.code.has_model().then(|| streams::save(&compiled, &output, &save)).transpose();
    let written = written.map_err(|error| work.explain(error))?;
    let mut files = Vec::new();
    if let Some(code) = code {
        tell("code", code.line());
        files = code.finish()?;
    }
    if let Some(written) = &written {
        files.insert(0, (output.clone(), written.size_bytes));
        let inputs = model.source().data_files().len();
        notes.add(moved(args.external_data, inputs, written).as_slice());
    }
    notes.add(work.finish().as_slice());
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
    let took = took::line(&record, &begin);
    let written_to = record.output.clone();
    let behind = |error: Error| match &written_to {
        Some(it) => error.diagnostic().clone().with_note(format!("'{it}' is written")).into(),
        None => error,
    };
    let found = evaluated
        .as_ref()
        .map(|it| measure::output(args, (&model, &output), &read, it, &cancel))
        .transpose()
        .map_err(behind)?;
    if let Some((measured, _)) = &found {
        (record.quality, record.gates) = (Some(measured.quality()), measured.gates());
    }
    let ended = || found.as_ref().map_or(Ended::Well, |it| it.0.ended());
    if let Some(json) = json {
        json.write(&record).map_err(behind)?;
    }
    let told = tell_more(args, &compiled, &mut record, &detail, &begin).map_err(behind)?;
    if args.quiet || json == Some(&Json::Stream) {
        return Ok(ended());
    }
    let table = match pipeline.steps() {
        [] => String::new(),
        _ => qcc_report::summary(&record),
    };
    let mut names = files.iter().map(|it| it.0.display().to_string());
    let first = names.next().unwrap_or_default();
    let others: String = names.map(|it| format!("  {it}\n")).collect();
    let figures = found.as_ref().map_or("", |it| &it.1);
    let below = summary::below(args, &compiled, &pipeline, &record);
    let text = format!("{table}  {first} {took}\n{others}{told}{figures}{below}");
    if is_stream {
        exit::tell(text.trim_end()); // the output stream has the model
    } else {
        show(&text)?;
    }
    Ok(ended())
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
