//! The working copy: a graph made ready to be run, beside the one that will be written.
//!
//! What helps to run a graph, functions put where they are called say, must not show in the model
//! that is written. So passes that run the graph run a copy, which the pipeline
//! [`Session::working_copy`] has been over. The values that they want to see, the taps, keep their
//! place: those of the outermost graph are outputs of the copy, which no pass removes; those in
//! branches must still be there. Where one is not, or a pass fails, the graph is run as it is.

use std::collections::BTreeMap;

use qcc_diag::Diagnostic;
use qcc_ir::{Graph, Scope, Value};

use crate::{Outcome, PassError, Pipeline, Record, Session, run};

/// A value that is looked at while a graph runs, and the graph that it belongs to.
pub type Tap = (Scope, Value);

/// A graph to run in place of another one.
#[derive(Clone, Debug)]
pub struct WorkingCopy {
    /// The graph. Its inputs, and the outputs that it began with, have the names of the original.
    pub graph: Graph,
    /// What the passes told: what could not be made ready, and why.
    pub notes: Vec<Diagnostic>,
    taps: BTreeMap<Tap, Tap>,
}

impl WorkingCopy {
    /// The graph as it is.
    pub fn same(graph: Graph, taps: &[Tap]) -> Self {
        let taps = taps.iter().map(|it| (it.clone(), it.clone())).collect();
        Self { graph, notes: Vec::new(), taps }
    }

    /// Copies a graph and runs the pipeline of the session over it.
    ///
    /// # Errors
    /// When the run is cancelled. A pass that fails is no error: the copy is then the graph as it
    /// is.
    pub fn of(graph: &Graph, taps: &[Tap], session: &Session) -> Result<Self, PassError> {
        Self::through(graph, taps, &session.working_copy, session)
    }

    /// As [`WorkingCopy::of`], over another pipeline.
    ///
    /// # Errors
    /// As [`WorkingCopy::of`].
    pub fn through(
        graph: &Graph,
        taps: &[Tap],
        pipeline: &Pipeline,
        session: &Session,
    ) -> Result<Self, PassError> {
        if pipeline.steps().is_empty() {
            return Ok(Self::same(graph.clone(), taps));
        }
        match Self::rewritten(graph, taps, pipeline, session) {
            Some(copy) => Ok(copy),
            None if session.cancel.is_set() => Err(PassError::Cancelled),
            None => Ok(Self::same(graph.clone(), taps)),
        }
    }

    /// `None` when a pass fails or a tap is lost.
    fn rewritten(
        graph: &Graph,
        taps: &[Tap],
        pipeline: &Pipeline,
        session: &Session,
    ) -> Option<Self> {
        let mut outputs = graph.outputs().to_vec();
        let outer: Vec<Value> = taps.iter().filter(|it| it.0.0.is_empty()).map(|it| it.1).collect();
        outputs.extend(&outer);
        let mut copy = graph.with_outputs(outputs)?;
        // Operators have their meaning by themselves, and no file has to know the new ones.
        let opset = qcc_ir::text::DEFAULT_OPSET;
        let inside = Session { working_copy: Pipeline::default(), opset, ..session.clone() };
        let mut record = Record::default();
        let outcome = run(&mut copy, pipeline, &inside, &mut record, &mut []);
        if outcome.ok()? != Outcome::Finished {
            return None;
        }
        let mut moved = BTreeMap::new();
        let begin = graph.outputs().len();
        for (value, new) in outer.iter().zip(copy.outputs().get(begin..)?) {
            moved.insert((Scope::root(), *value), (Scope::root(), *new));
        }
        for tap in taps.iter().filter(|it| !it.0.0.is_empty()) {
            // A node that is still there computes what it did: what replaces one has its own id.
            let node = copy.at(&tap.0)?.node(tap.1.node)?;
            node.outputs.get(tap.1.slot as usize)?;
            moved.insert(tap.clone(), tap.clone());
        }
        let outputs = copy.outputs().get(..begin)?.to_vec();
        let graph = copy.with_outputs(outputs)?;
        Some(Self { graph, notes: record.notes, taps: moved })
    }

    /// Where the value of a tap is found in the copy.
    pub fn tap(&self, tap: &Tap) -> Option<&Tap> {
        self.taps.get(tap)
    }

    /// Taps of the original by the value of the copy that they have become; two may have become
    /// one.
    pub fn by_value(&self) -> BTreeMap<Tap, Vec<Tap>> {
        let mut found: BTreeMap<Tap, Vec<Tap>> = BTreeMap::new();
        for (tap, new) in &self.taps {
            found.entry(new.clone()).or_default().push(tap.clone());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TABLE, chain, ops};

    fn session(pipeline: &str) -> Session {
        let working_copy = Pipeline::parse(pipeline, TABLE, &[]).unwrap();
        Session { working_copy, ..Session::default() }
    }

    fn tap(graph: &Graph, op: usize) -> Tap {
        let ids: Vec<_> = graph.topo().into_iter().filter(|it| graph[*it].op().is_some()).collect();
        (Scope::root(), Value { node: ids[op], slot: 0 })
    }

    #[test]
    fn taps_follow_what_replaces_them() {
        let graph = chain();
        let taps = [tap(&graph, 0), tap(&graph, 1)];
        let copy = WorkingCopy::of(&graph, &taps, &session("swap")).unwrap();
        assert_eq!(ops(&copy.graph), ["Abs"; 3]);
        assert_eq!(ops(&graph), ["Neg"; 3]);
        assert_eq!(copy.graph.outputs().len(), graph.outputs().len());
        for it in &taps {
            let (_, new) = copy.tap(it).unwrap();
            assert_ne!(*new, it.1, "the node was replaced");
            assert_eq!(copy.graph.value_name(*new), graph.value_name(it.1));
        }
    }

    #[test]
    fn a_pass_that_fails_leaves_the_graph_as_it_is() {
        let graph = chain();
        let taps = [tap(&graph, 1)];
        for pipeline in ["swap,refuse", "swap,panic", "swap,lie", ""] {
            let copy = WorkingCopy::of(&graph, &taps, &session(pipeline)).unwrap();
            assert_eq!(ops(&copy.graph), ["Neg"; 3], "{pipeline}");
            assert_eq!(copy.tap(&taps[0]), Some(&taps[0]));
        }
    }

    #[test]
    fn a_tap_that_is_lost_leaves_the_graph_as_it_is() {
        let graph = chain();
        let lost = (Scope::root().inner(tap(&graph, 0).1.node, 0), tap(&graph, 1).1);
        let copy = WorkingCopy::of(&graph, std::slice::from_ref(&lost), &session("swap")).unwrap();
        assert_eq!(ops(&copy.graph), ["Neg"; 3]);
    }

    #[test]
    fn a_cancelled_run_is_an_error() {
        let session = session("swap");
        session.cancel.set();
        assert!(matches!(WorkingCopy::of(&chain(), &[], &session), Err(PassError::Cancelled)));
    }
}
