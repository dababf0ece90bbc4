//! A part of a graph that runs alone.

use std::collections::BTreeMap;

use qcc_exec::{Bound, ExecError, Plan, PlanOptions};
use qcc_ir::{Graph, Value};
use qcc_tensor::{Pool, Tensor};

/// What a run is given, by name of the value.
pub(super) type Feed = BTreeMap<String, Tensor>;

/// A part of a graph, from values that are given to some of its values. It is planned anew when the
/// shapes of what is given change.
pub(super) struct Part<'a> {
    graph: &'a Graph,
    options: PlanOptions,
    plan: Option<(Vec<(String, Bound)>, Plan)>,
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
            PlanOptions { outputs: Some(outputs), tapped, pool: pool.clone(), profile: false };
        Self { graph, options, plan: None }
    }

    /// The outputs, in their order. `sink` gets the tapped values.
    pub(super) fn run(
        &mut self,
        feed: &Feed,
        sink: &mut dyn FnMut(Value, &Tensor),
    ) -> Result<Vec<Tensor>, ExecError> {
        let bound: Vec<(String, Bound)> =
            feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
        let plan = match &mut self.plan {
            Some((shapes, plan)) if *shapes == bound => &*plan,
            plan => {
                let new = Plan::new(self.graph, &bound, &self.options)?;
                &plan.insert((bound, new)).1
            }
        };
        let outputs = plan.run(feed, &self.options.tapped, sink)?;
        Ok(outputs.into_iter().map(|it| it.1).collect())
    }
}
