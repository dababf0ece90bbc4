//! A graph on kernels, as `qcc run` and `qcc bench` run it, and what did not become one.

use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_engine::{LowerOptions, lower};
use qcc_ir::Graph;
use qcc_kernels::{Alone, Scalar};

/// The graph with kernels in the place of products with low-bit weights. Tells which products stay
/// (`stays`), and which operators behind products do (`apart`), by a line each.
///
/// # Errors
/// When there is no memory for a weight.
pub(crate) fn of(graph: &Graph, tell: &mut dyn FnMut(&str)) -> Result<Graph, Box<Diagnostic>> {
    let mut lowered = graph.clone();
    let options = LowerOptions::new(Arc::new(Scalar), Arc::new(Alone));
    let report = lower(&mut lowered, &options).map_err(|error| {
        Box::new(Diagnostic::error(codes::QCC0502, error.to_string()).at("option --kernels"))
    })?;
    for (what, list) in [("stays", &report.stays), ("apart", &report.apart)] {
        list.iter().for_each(|it| tell(&format!("{what} '{}': {}", it.name, it.why)));
    }
    Ok(lowered)
}
