//! A part of a graph that runs alone.

use qcc_exec::{ExecError, PlanOptions};
use qcc_ir::{Graph, Value};
use qcc_tensor::{Pool, Tensor};

pub(super) use crate::planned::Feed;
use crate::planned::{Planned, Products};

/// A part of a graph, from values that are given to some of its values.
pub(super) struct Part<'a> {
    graph: &'a Graph,
    options: PlanOptions,
    plan: Planned,
}

impl<'a> Part<'a> {
    /// The part that computes `outputs`, and `tapped` to be seen.
    pub(super) fn new(
        graph: &'a Graph,
        outputs: Vec<Value>,
        tapped: Vec<Value>,
        pool: &Pool,
    ) -> Self {
        let options =
            PlanOptions { outputs: Some(outputs), tapped, pool: pool.clone(), profile: true };
        Self { graph, options, plan: Planned::default() }
    }

    /// The outputs, in their order. `sink` gets the tapped values.
    pub(super) fn run(
        &mut self,
        feed: &Feed,
        sink: &mut dyn FnMut(Value, &Tensor),
    ) -> Result<Vec<Tensor>, ExecError> {
        self.plan.run(self.graph, &self.options, feed, sink)
    }

    /// Products of matrices of all runs.
    pub(super) fn products(&self) -> Products {
        self.plan.products()
    }
}
