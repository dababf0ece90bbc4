//! A plan that is made anew when the shapes of what it is given change.

use std::collections::BTreeMap;

use qcc_exec::{Bound, Plan, PlanOptions};
use qcc_ir::{Graph, Value};
use qcc_pass::PassError;
use qcc_tensor::{Pool, Tensor};

use crate::activations;

/// What a run is given, by name of the value.
pub(super) type Feed = BTreeMap<String, Tensor>;

/// The last plan, and what it is for.
#[derive(Debug, Default)]
pub(super) struct Planned(Option<(Vec<(String, Bound)>, Plan)>);

impl Planned {
    /// Runs a graph, always the same one: `outputs` in their order. A name of any value may be in
    /// the feed, which is then given instead of computed.
    pub(super) fn run(
        &mut self,
        graph: &Graph,
        outputs: Vec<Value>,
        feed: &Feed,
        pool: &Pool,
    ) -> Result<Vec<Tensor>, PassError> {
        let bound: Vec<(String, Bound)> =
            feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
        let plan = match &mut self.0 {
            Some((shapes, plan)) if *shapes == bound => &*plan,
            plan => {
                let options = PlanOptions {
                    outputs: Some(outputs),
                    pool: pool.clone(),
                    ..PlanOptions::default()
                };
                let new = Plan::new(graph, &bound, &options).map_err(activations::error)?;
                &plan.insert((bound, new)).1
            }
        };
        let found = plan.run(feed, &[], &mut |_, _| ()).map_err(activations::error)?;
        Ok(found.into_iter().map(|it| it.1).collect())
    }
}
