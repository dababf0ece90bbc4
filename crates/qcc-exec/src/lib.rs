//! Plans and runs a graph on the CPU.
//!
//! A [`Plan`] is made for one graph and one binding of its input shapes. Making it infers every
//! type at these shapes, computes what follows from shapes and constants alone, and finds the last
//! reader of each value, so that a run gives the memory of a result to a later one. A plan runs as
//! often as there are samples of its shape; results are the same bytes for any number of threads.
//!
//! A shape may have open dimensions ([`Bound::Open`]): then one plan serves every size of them, and
//! what depends on them is computed by each run.
//!
//! [`differentiate`] adds to a graph the nodes that compute its derivative.
//!
//! `If`, `Loop` and `Scan` are run here; every other operator runs itself.

#![warn(clippy::indexing_slicing, clippy::panic)]

mod bind;
mod compile;
mod control;
mod differentiate;
pub mod equal;
mod error;
mod facts;
mod lazy;
mod memory;
mod partly;
mod plan;
mod profile;
mod room;
mod run;
mod slices;
mod turned;

use std::collections::BTreeMap;

use qcc_ir::Graph;
use qcc_tensor::Tensor;

pub use bind::Bound;
pub use differentiate::{Gradient, GradientError, Seed, differentiate};
pub use error::{ExecError, Label, Unsupported, unsupported};
pub use plan::{Plan, PlanOptions};
pub use profile::{Profile, ProfileRow};
pub use room::{has_room, room};

/// Plans a graph for these inputs and runs it once: its outputs by name.
///
/// # Errors
/// When an input is missing or does not fit, or a node cannot be run.
pub fn run_once(
    graph: &Graph,
    inputs: &BTreeMap<String, Tensor>,
) -> Result<Vec<(String, Tensor)>, ExecError> {
    let bound: Vec<_> = inputs.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
    Plan::new(graph, &bound, &PlanOptions::default())?.run(inputs, &[], &mut |_, _| {})
}
