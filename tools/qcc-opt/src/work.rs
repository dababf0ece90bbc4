//! Running the pipeline over each graph.

use std::io::{self, Write};

use qcc_diag::{Diagnostic, codes};
use qcc_ir::text::{PrintOptions, print_with};
use qcc_ir::{Graph, verify};
use qcc_pass::{
    BisectLimit, Dump, Instrument, Passes, Pipeline, Print, Record, Reproducer, Session,
    Statistics, StopAfter, Timing, VerifyEach, When,
};

use crate::args::Args;
use crate::gradient;
use crate::input::{self, Input};
use crate::kernels;

/// Does what the command line asks.
///
/// # Errors
/// The first thing that stops the run.
pub(crate) fn run(args: &Args) -> Result<(), Box<Diagnostic>> {
    let pipeline = Pipeline::parse(&args.passes, &qcc::passes(), &[])?;
    let later = Pipeline::parse(&args.gradient_passes, &qcc::passes(), &[])?;
    let Input { graphs, opset, warnings } =
        input::read(args.file.as_deref(), args.files.as_deref())?;
    warnings.iter().for_each(|it| eprintln!("{it}"));
    let mut session =
        Session { seed: args.seed, opset: args.opset.unwrap_or(opset), ..Session::default() };
    if let Some(limit) = args.fold_limit {
        session.fold_limit = limit;
    }
    for (idx, graph) in graphs.iter().enumerate() {
        let mut after = one(args, &pipeline, &session, graph)?;
        if args.differentiate {
            after = one(args, &later, &session, &gradient::of(&after, &args.seeds, &args.wrt)?)?;
        }
        if args.kernels {
            let lowered = kernels::of(&after, &mut |line| eprintln!("{line}"))?;
            check_equal(args, &after, &lowered, "option --kernels")?;
            after = lowered;
        }
        if !args.no_output {
            let break_line = if idx > 0 { "\n" } else { "" };
            show(&format!("{break_line}{}", print_with(&after, &print_options(args))))?;
        }
    }
    Ok(())
}

/// The graph after the pipeline; what passes note goes to stderr.
fn one(
    args: &Args,
    pipeline: &Pipeline,
    session: &Session,
    before: &Graph,
) -> Result<Graph, Box<Diagnostic>> {
    refuse_broken(before)?;
    let (mut after, mut record) = (before.clone(), Record::default());
    let end = qcc_pass::run(&mut after, pipeline, session, &mut record, &mut instruments(args));
    record.notes.iter().for_each(|it| eprintln!("{it}"));
    end?;
    check_equal(args, before, &after, &format!("'{pipeline}'"))?;
    Ok(after)
}

/// Runs both graphs, if that is asked for.
///
/// # Errors
/// QCC0802 when `by` made another graph of it.
fn check_equal(
    args: &Args,
    before: &Graph,
    after: &Graph,
    by: &str,
) -> Result<(), Box<Diagnostic>> {
    let Some(tolerance) = args.check_equal else { return Ok(()) };
    qcc_exec::equal::check_equal(before, after, args.seed, tolerance).map_err(|what| {
        let text = format!("graph '{}' computes something else: {what}", after.name());
        let it = Diagnostic::error(codes::QCC0802, text).at("option --check-equal");
        Box::new(it.with_note(format!("after {by}")))
    })
}

/// # Errors
/// QCC0103 when the graph breaks an invariant before any pass.
fn refuse_broken(graph: &Graph) -> Result<(), Box<Diagnostic>> {
    let mut violations = verify(graph).into_iter();
    let Some(first) = violations.next() else { return Ok(()) };
    let text = format!("graph '{}' breaks {first}", graph.name());
    let error = Diagnostic::error(codes::QCC0103, text);
    Err(Box::new(violations.fold(error, |it, violation| it.with_note(violation.to_string()))))
}

fn print_options(args: &Args) -> PrintOptions {
    PrintOptions { inline_all: args.all_bytes }
}

fn instruments(args: &Args) -> Vec<Box<dyn Instrument>> {
    let mut all: Vec<Box<dyn Instrument>> = Vec::new();
    let options = print_options(args);
    let print = move |graph: &Graph| print_with(graph, &options);
    let named = |names: &[String]| Passes::named(names.iter().cloned());
    let prints = [
        (!args.print_before.is_empty(), named(&args.print_before), When::Before),
        (args.print_before_all, Passes::All, When::Before),
        (!args.print_after.is_empty(), named(&args.print_after), When::After),
        (args.print_after_all, Passes::All, When::After),
        (args.print_changed, Passes::All, When::Changed),
    ];
    for (_, passes, when) in prints.into_iter().filter(|it| it.0) {
        all.push(Box::new(Print::new(passes, when, print, io::stderr())));
    }
    if let Some(limit) = args.bisect_limit {
        all.push(Box::new(BisectLimit::new(limit, io::stderr())));
    }
    if args.verify_each {
        all.push(Box::new(VerifyEach));
    }
    if let Some(dir) = &args.dump_ir {
        all.push(Box::new(Dump::new(dir, print)));
    }
    if let Some(path) = &args.reproducer {
        all.push(Box::new(Reproducer::new(path, print)));
    }
    if let Some(pass) = &args.stop_after {
        all.push(Box::new(StopAfter::new(pass)));
    }
    if args.time_passes {
        all.push(Box::new(Timing::new(io::stderr())));
    }
    if args.statistics {
        all.push(Box::new(Statistics::new(io::stderr())));
    }
    all
}

/// Writes to stdout. A reader that has seen enough is no error.
fn show(text: &str) -> Result<(), Box<Diagnostic>> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(it) if it.kind() != io::ErrorKind::BrokenPipe => {
            let text = format!("the result cannot be written: {it}");
            Err(Box::new(Diagnostic::error(codes::QCC0105, text)))
        }
        _ => Ok(()),
    }
}
