//! Graphs from text and passes over them, for the tests of this crate.

use qcc_ir::{Graph, text, verify};
use qcc_pass::{Pipeline, Record, Session, run};

/// The only graph of a text.
pub(crate) fn graph(text: &str) -> Graph {
    let make = |domain: &str, name: &str, opset, attrs| {
        qcc_ops::parse(domain, name, opset, attrs).map_err(|it| it.to_string())
    };
    let mut graphs = text::parse(text, &make, &text::no_bytes).unwrap();
    assert_eq!(graphs.len(), 1);
    let graph = graphs.remove(0);
    assert_eq!(verify(&graph), []);
    graph
}

/// The graph after a pipeline, and what the run told.
pub(crate) fn run_on(graph: &Graph, pipeline: &str, opset: i64) -> (Graph, Record) {
    let mut graph = graph.clone();
    let pipeline = Pipeline::parse(pipeline, crate::PASSES, &[]).unwrap();
    let session = Session { opset, ..Session::default() };
    let mut record = Record::default();
    run(&mut graph, &pipeline, &session, &mut record, &mut []).unwrap();
    (graph, record)
}

/// The text after a pipeline over a text, without its first and last line.
pub(crate) fn after(source: &str, pipeline: &str) -> String {
    let (graph, _) = run_on(&graph(source), pipeline, text::DEFAULT_OPSET);
    let text = text::print(&graph);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines[1..lines.len() - 1].join("\n")
}

/// The notes of a pipeline over a text.
pub(crate) fn notes(source: &str, pipeline: &str) -> Vec<String> {
    let (_, record) = run_on(&graph(source), pipeline, text::DEFAULT_OPSET);
    record.notes.iter().map(|it| it.message.clone()).collect()
}
