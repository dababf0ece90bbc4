//! The pass manager: runs a pipeline over a graph.
//!
//! A pass reads the graph and returns patches; here they are applied, and the graph is verified.
//! A panic in a pass is an error with a code. Whatever fails, the graph is left as it was before
//! the pass that failed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch, Violation, verify};

use crate::describe::describe;
use crate::{
    After, Before, Ctx, Failed, Flow, Instrument, PassError, PassRecord, Pipeline, Record, Session,
    Step,
};

/// How a run ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every pass ran.
    Finished,
    /// An instrument ended the run after the step at this position.
    Stopped {
        /// Position in the pipeline.
        position: usize,
    },
}

/// Runs a pipeline over a graph. The graph is verified after each pass that changed it.
///
/// # Errors
/// What a pass or an instrument fails with; QCC0509 when the session is cancelled; QCC0801 when a
/// pass breaks an invariant; QCC0901 when it panics. The graph is then the one before that pass.
pub fn run(
    graph: &mut Graph,
    pipeline: &Pipeline,
    session: &Session,
    record: &mut Record,
    instruments: &mut [Box<dyn Instrument + '_>],
) -> Result<Outcome, Box<Diagnostic>> {
    for it in instruments.iter_mut() {
        it.begin(pipeline)?;
    }
    let mut outcome = Outcome::Finished;
    for (position, step) in pipeline.steps().iter().enumerate() {
        let flow = run_step(graph, position, step, session, record, instruments);
        let flow = flow.map_err(|mut message| {
            let rest = pipeline.from_step(position);
            for it in instruments.iter_mut() {
                it.failed(&Failed { pipeline: &rest, graph }, &mut message);
            }
            message
        })?;
        if flow == Flow::Stop {
            outcome = Outcome::Stopped { position };
            break;
        }
    }
    for it in instruments {
        it.end(record)?;
    }
    Ok(outcome)
}

fn run_step(
    graph: &mut Graph,
    position: usize,
    step: &Step,
    session: &Session,
    record: &mut Record,
    instruments: &mut [Box<dyn Instrument + '_>],
) -> Result<Flow, Box<Diagnostic>> {
    let name = step.pass.name;
    let of_pass = |it: PassError| it.into_diagnostic(name);
    if session.cancel.is_set() {
        return Err(of_pass(PassError::Cancelled));
    }
    let at = Before { position, step, graph };
    for it in instruments.iter_mut() {
        it.before_pass(&at)?;
    }
    let (began, n_notes) = (Instant::now(), record.notes.len());
    let mut ctx = Ctx { options: step.options.clone(), session, record };
    let patches = caught(|| (step.pass.run)(graph, &mut ctx));
    let mut patches = patches.and_then(|it| it).map_err(of_pass)?;
    for it in instruments.iter_mut() {
        it.select(&at, &mut patches);
    }

    let before = graph.clone();
    if !patches.is_empty() {
        let applied = caught(|| {
            graph.apply(patches.clone())?;
            verified(name, &before, &patches, graph)
        });
        let applied = applied.and_then(|it| it).map_err(of_pass);
        if let Err(message) = applied {
            *graph = before;
            return Err(message);
        }
    }
    let elapsed = began.elapsed();
    let notes = record.notes.len() - n_notes;
    record.passes.push(PassRecord { name, patches: patches.len(), notes, elapsed });

    let mut flow = Flow::Continue;
    let at = After { position, step, before: &before, patches: &patches, graph, elapsed };
    for it in instruments.iter_mut() {
        match it.after_pass(&at) {
            Ok(Flow::Continue) => {}
            Ok(Flow::Stop) => flow = Flow::Stop,
            Err(message) => {
                *graph = before;
                return Err(message);
            }
        }
    }
    Ok(flow)
}

/// What `work` gives, or what it panicked with as an error.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, PassError> {
    // What the closures borrow is thrown away or set back by the caller after a panic, but for
    // the record, whose rows stand each for itself.
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = panic_text(&*payload).unwrap_or("without a message");
        PassError::Internal(format!("the pass panicked: {text}"))
    })
}

fn panic_text(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or(payload.downcast_ref().map(String::as_str))
}

/// # Errors
/// QCC0801 when the graph breaks an invariant, with the first patch that does it.
fn verified(pass: &str, before: &Graph, patches: &[Patch], graph: &Graph) -> Result<(), PassError> {
    let violations = verify(graph);
    if violations.is_empty() {
        return Ok(());
    }
    let first = first_broken(before, patches).map(|it| it.0);
    Err(broken_by(pass, &violations, first).into())
}

/// The first patch after which the graph breaks an invariant, in words, and the invariants.
pub(crate) fn first_broken(before: &Graph, patches: &[Patch]) -> Option<(String, Vec<Violation>)> {
    let mut graph = before.clone();
    for (idx, patch) in patches.iter().enumerate() {
        graph.apply(vec![patch.clone()]).ok()?;
        let violations = verify(&graph);
        if !violations.is_empty() {
            let mut last = before.clone();
            last.apply(patches[..idx].to_vec()).ok()?;
            let (number, count) = (idx + 1, patches.len());
            let text = format!("first by patch {number} of {count}: {}", describe(&last, patch));
            return Some((text, violations));
        }
    }
    None
}

/// A pass that broke invariants; `first` says which patch did it first.
pub(crate) fn broken_by(pass: &str, violations: &[Violation], first: Option<String>) -> Diagnostic {
    let message = broken(&format!("pass '{pass}' broke"), violations);
    let message = message.at(format!("pass '{pass}'"));
    match first {
        Some(first) => message.with_note(first),
        None => message,
    }
}

/// A graph that breaks invariants; `who` says who broke them. There is at least one.
pub(crate) fn broken(who: &str, violations: &[Violation]) -> Diagnostic {
    /// How many further violations a message names.
    const NAMED: usize = 4;
    let mut violations = violations.iter();
    let first = violations.next().map(ToString::to_string).unwrap_or_default();
    let mut message = Diagnostic::error(codes::QCC0801, format!("{who} {first}"));
    let left = violations.len();
    for it in violations.take(NAMED) {
        message = message.with_note(it.to_string());
    }
    if left > NAMED {
        message = message.with_note(format!("and {} more", left - NAMED));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TABLE, chain, ops, run_text};
    use crate::{StopAfter, VerifyEach};

    #[test]
    fn patches_are_applied_and_counted() {
        let (end, graph, record) = run_text("nothing,swap,swap", &mut []);
        assert_eq!(end, Ok(Outcome::Finished));
        assert_eq!(ops(&graph), ["Abs"; 3]);
        assert_eq!(record.counters["swap.swapped"], 3);
        let rows: Vec<_> = record.passes.iter().map(|it| (it.name, it.patches, it.notes)).collect();
        assert_eq!(rows, [("nothing", 0, 1), ("swap", 3, 0), ("swap", 0, 0)]);
    }

    #[test]
    fn a_broken_invariant_names_pass_and_patch() {
        let (end, graph, _) = run_text("nothing,lie", &mut []);
        let message = end.unwrap_err().to_string();
        let want = "\
            error[QCC0801]: pass 'lie' broke invariant 10: \
            'a' is f32[2, 3], but the rule says f32[2, 7]\n  \
            --> pass 'lie'\n  \
            note: first by patch 4 of 4: lie at 'x'\n  \
            more: qcc explain QCC0801";
        assert_eq!(message, want);
        assert_eq!(ops(&graph), ["Neg"; 3], "the graph is as it was before the pass");
    }

    #[test]
    fn a_patch_that_does_not_fit_changes_nothing() {
        let (end, graph, _) = run_text("swap,clash", &mut []);
        let message = end.unwrap_err();
        assert_eq!(message.code, codes::QCC0801);
        assert_eq!(message.message, "clash: 'y' is f32[2, 3], its replacement is f32[1]",);
        assert_eq!(ops(&graph), ["Abs"; 3]);
    }

    #[test]
    fn a_panic_is_an_error() {
        let (end, graph, record) = run_text("swap,panic,swap", &mut []);
        let message = end.unwrap_err();
        assert_eq!(message.code, codes::QCC0901);
        assert_eq!(message.message, "the pass panicked: at 4 nodes");
        assert_eq!(message.place.as_deref(), Some("pass 'panic'"));
        assert_eq!(ops(&graph), ["Abs"; 3]);
        assert_eq!(record.passes.len(), 1);
    }

    #[test]
    fn an_error_keeps_its_code() {
        let (end, _, _) = run_text("refuse", &mut []);
        assert_eq!(end.unwrap_err().code, codes::QCC0402);
    }

    #[test]
    fn a_cancelled_run_stops_before_the_next_pass() {
        let (mut graph, mut record) = (chain(), Record::default());
        let pipeline = Pipeline::parse("swap", TABLE, &[]).unwrap();
        let session = Session::default();
        session.clone().cancel.set();
        let end = run(&mut graph, &pipeline, &session, &mut record, &mut []);
        assert_eq!(end.unwrap_err().code, codes::QCC0509);
        assert_eq!(ops(&graph), ["Neg"; 3]);
    }

    #[test]
    fn verify_each_sees_what_a_later_patch_mends() {
        assert_eq!(run_text("waver", &mut []).0, Ok(Outcome::Finished));
        let (end, _, _) = run_text("swap,waver", &mut [Box::new(VerifyEach)]);
        let message = end.unwrap_err();
        assert_eq!(message.code, codes::QCC0801);
        assert!(message.notes.contains(&"first by patch 1 of 2: lie at 'x'".to_owned()));
        let (end, graph, _) = run_text("swap", &mut [Box::new(VerifyEach)]);
        assert_eq!(end, Ok(Outcome::Finished));
        assert_eq!(ops(&graph), ["Abs"; 3]);
    }

    #[test]
    fn stop_after_ends_the_run() {
        let (end, graph, _) =
            run_text("nothing,swap,panic", &mut [Box::new(StopAfter::new("swap"))]);
        assert_eq!(end, Ok(Outcome::Stopped { position: 1 }));
        assert_eq!(ops(&graph), ["Abs"; 3]);
        let (end, graph, _) = run_text("swap", &mut [Box::new(StopAfter::new("swab"))]);
        assert_eq!(end.unwrap_err().code, codes::QCC0301);
        assert_eq!(ops(&graph), ["Neg"; 3]);
    }
}
