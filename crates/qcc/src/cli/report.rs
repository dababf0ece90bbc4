//! `qcc report`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use qcc::{Error, Model};
use qcc_diag::{Diagnostic, codes};
use qcc_report::{Document, Quality, Report, Run, RunRecord};

use super::exit::{self, Ended, say, show, unwritten, write_file};
use super::{overwrites, streams};

/// Options of `report`.
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// Records of `--record` or `--json`, each with the output of `eval --json`, `compare --json` and
    /// `bench --json` behind it if there is one; or models that qcc wrote
    #[arg(required = true, value_name = "RECORD")]
    pub(super) inputs: Vec<PathBuf>,

    /// Where to write the page; - is the output stream [default: <first RECORD without
    /// extension>.html]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Write each chart as a file of its own as well
    #[arg(long, value_name = "DIR")]
    pub(super) svg: Option<PathBuf>,

    /// Replace an output that exists
    #[arg(short, long)]
    pub(super) force: bool,
}

/// Runs the command.
pub(super) fn run(args: &ReportArgs) -> Result<Ended, Error> {
    let output = match (&args.output, args.inputs.first()) {
        (Some(path), _) => path.clone(),
        (None, Some(first)) => first.with_extension("html"),
        (None, None) => PathBuf::from("report.html"),
    };
    let is_stream = streams::is_stream(&output);
    if !args.force && !is_stream {
        overwrites::must_be_new(&output)?;
    }
    let reads: Vec<_> = args.inputs.iter().map(|it| ("the command", it.clone())).collect();
    overwrites::check(&[("-o", output.clone())], &reads)?;
    let mut runs: Vec<Run> = Vec::new();
    for path in &args.inputs {
        match document(path)? {
            Document::Run(record) => runs.push(named(*record, path)),
            Document::Quality(quality) => {
                let run = last(&mut runs, path, "'qcc eval --json' or 'qcc compare --json'")?;
                other_model(&run.record, &quality, path).iter().for_each(say);
                run.record.gates.extend(quality.gates.iter().cloned());
                run.record.quality = Some(match run.record.quality.take() {
                    Some(it) => it.then(quality),
                    None => quality,
                });
            }
            Document::Speed(speed) => {
                last(&mut runs, path, "'qcc bench --json'")?.speed = Some(*speed);
            }
        }
    }
    let report = qcc_report::report(&runs, args.svg.is_some());
    if !is_stream {
        write_file(&output, &report.html)?;
    }
    if let Some(dir) = &args.svg {
        fs::create_dir_all(dir).map_err(|it| unwritten(dir, &it))?;
        for (name, text) in &report.files {
            write_file(&dir.join(name), text)?;
        }
    }
    let told = told(&output, &report, &runs);
    if is_stream {
        exit::tell(&format!("  {told}"));
        return show(&report.html);
    }
    show(&format!("  {told}\n"))
}

/// Warns that what was measured is of another model than the record in front of it.
fn other_model(record: &RunRecord, quality: &Quality, path: &Path) -> Option<Diagnostic> {
    let (own, other) = (record.output.as_deref()?, quality.model.as_deref()?);
    let name = |it: &'_ str| Path::new(it).file_name().map(ToOwned::to_owned);
    (name(own) != name(other)).then(|| {
        let text =
            format!("'{}' is of '{other}', and the run before it wrote '{own}'", path.display());
        Diagnostic::warning(codes::QCC0110, text)
            .at(path.display().to_string())
            .with_help("put it behind the record of its own run")
    })
}

/// The run that the output of another command belongs to.
fn last<'a>(runs: &'a mut [Run], path: &Path, command: &str) -> Result<&'a mut Run, Error> {
    runs.last_mut().ok_or_else(|| {
        let text = format!("'{}' tells of no run", path.display());
        Diagnostic::error(codes::QCC0110, text)
            .at(path.display().to_string())
            .with_note(format!("it is what {command} found"))
            .with_help("put the record of the run before it")
            .into()
    })
}

/// What there is to say of a report that is written.
pub(super) fn told(output: &Path, report: &Report, runs: &[Run]) -> String {
    let count = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let weights = runs.iter().map(|it| it.record.weights.len()).sum();
    let weights = match weights {
        0 => String::new(),
        _ => format!("{}, ", count(weights, "weight")),
    };
    let figures = count(report.figures.len(), "figure");
    format!("{} written: {figures}, {weights}one file, no network needed", output.display())
}

/// Writes the report of a run.
pub(super) fn of_run(record: &RunRecord, output: &Path) -> Result<String, Error> {
    let runs = [named(record.clone(), Path::new(&record.input))];
    let report = qcc_report::report(&runs, false);
    write_file(output, &report.html)?;
    Ok(told(output, &report, &runs))
}

/// A run with the name of its output, or of the file that tells of it.
fn named(record: RunRecord, path: &Path) -> Run {
    let name = |it: &Path| it.file_name().map(|it| it.to_string_lossy().into_owned());
    let label = record.output.as_deref().and_then(|it| name(Path::new(it)));
    let label = label.or_else(|| name(path)).unwrap_or_else(|| path.display().to_string());
    Run { label, record, speed: None }
}

fn document(path: &Path) -> Result<Document, Error> {
    let place = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| {
        Diagnostic::error(codes::QCC0101, format!("'{place}' cannot be read: {error}")).at(&place)
    })?;
    // A model begins with the tag of a field, a record with a brace.
    let is_json = bytes.iter().find(|it| !it.is_ascii_whitespace()).is_none_or(|it| *it == b'{');
    if !is_json && path.extension().is_some_and(|it| it.eq_ignore_ascii_case("onnx")) {
        drop(bytes);
        return Ok(Document::Run(Box::new(of_model(path)?)));
    }
    qcc_report::read(&bytes).map_err(|error| {
        Diagnostic::error(codes::QCC0110, format!("'{place}' is not a record: {error}"))
            .at(&place)
            .with_help("'qcc MODEL --record FILE' writes one; a model is a file named .onnx")
            .into()
    })
}

/// What a model says of how it was made.
fn of_model(path: &Path) -> Result<RunRecord, Error> {
    let model = Model::open(path)?;
    let source = model.source();
    let own = source.metadata().iter().filter(|it| it.0.starts_with("qcc."));
    let mut record = RunRecord {
        schema: qcc_report::SCHEMA,
        bytes_after: Some(source.size_bytes()),
        output: Some(path.display().to_string()),
        provenance: own.cloned().collect(),
        ..RunRecord::default()
    };
    if record.provenance.is_empty() {
        let text = format!("'{}' does not say how it was made", path.display());
        return Err(Diagnostic::error(codes::QCC0110, text)
            .at(path.display().to_string())
            .with_note("its metadata have no key that begins with 'qcc.'")
            .with_help("give the record that --record wrote when the model was made")
            .into());
    }
    let mut take = |key: &str| record.provenance.remove(key).unwrap_or_default();
    let (version, pipeline, seed) = (take("qcc.version"), take("qcc.pipeline"), take("qcc.seed"));
    record.version = version;
    record.pipeline = pipeline;
    record.seed = seed.parse().unwrap_or_default();
    Ok(record)
}
