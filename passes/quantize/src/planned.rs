//! A plan that is made anew when the shapes of what it is given change.

use std::collections::BTreeMap;

use qcc_exec::{Bound, ExecError, Plan, PlanOptions};
use qcc_ir::{Graph, Value};
use qcc_tensor::Tensor;

/// What a run is given, by name of the value.
pub(crate) type Feed = BTreeMap<String, Tensor>;

/// The last plan, and what it is for.
#[derive(Debug, Default)]
pub(crate) struct Planned(Option<(Vec<(String, Bound)>, Plan)>);

impl Planned {
    /// Runs a graph, always the same one with the same options: its outputs in their order. A name
    /// of any value may be in the feed, which is then given instead of computed. `sink` gets the
    /// tapped values.
    pub(crate) fn run(
        &mut self,
        graph: &Graph,
        options: &PlanOptions,
        feed: &Feed,
        sink: &mut dyn FnMut(Value, &Tensor),
    ) -> Result<Vec<Tensor>, ExecError> {
        let bound: Vec<(String, Bound)> =
            feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
        let plan = match &mut self.0 {
            Some((shapes, plan)) if *shapes == bound => &*plan,
            plan => {
                let new = Plan::new(graph, &bound, options)?;
                &plan.insert((bound, new)).1
            }
        };
        let outputs = plan.run(feed, &options.tapped, sink)?;
        Ok(outputs.into_iter().map(|it| it.1).collect())
    }
}
