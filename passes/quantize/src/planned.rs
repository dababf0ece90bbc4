//! A plan that is made anew when the shapes of what it is given change.

use std::collections::BTreeMap;
use std::time::Duration;

use qcc_exec::{Bound, ExecError, Plan, PlanOptions};
use qcc_ir::{Graph, Value};
use qcc_tensor::Tensor;

/// What a run is given, by name of the value.
pub(crate) type Feed = BTreeMap<String, Tensor>;

/// The last plan, and what it is for.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    last: Option<(Vec<(String, Bound)>, Plan)>,
    /// Products of the plans before it.
    before: Products,
}

/// Products of matrices: how long they took, and their additions and multiplications.
pub(crate) type Products = (Duration, u64);

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
        if self.last.as_ref().is_some_and(|(shapes, _)| *shapes != bound) {
            self.before = self.products();
            self.last = None;
        }
        let plan = match &mut self.last {
            Some((_, plan)) => &*plan,
            none => {
                let plan = Plan::new(graph, &bound, options)?;
                &none.insert((bound, plan)).1
            }
        };
        let outputs = plan.run(feed, &options.tapped, sink)?;
        Ok(outputs.into_iter().map(|it| it.1).collect())
    }

    /// Products of all runs; none unless the options ask for a profile.
    pub(crate) fn products(&self) -> Products {
        let (time, flops) =
            self.last.as_ref().map(|(_, plan)| plan.profile().products()).unwrap_or_default();
        (self.before.0 + time, self.before.1.saturating_add(flops))
    }
}
