//! The gradient of a graph, by names of values.

use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Seed, differentiate};
use qcc_ir::{Graph, Value};
use qcc_tensor::DType;

/// A graph with what computes its gradient.
///
/// # Errors
/// QCC0304 for a name that the graph does not have; else why it has no gradient.
pub(crate) fn of(
    graph: &Graph,
    seeds: &[String],
    wrt: &[String],
) -> Result<Graph, Box<Diagnostic>> {
    let inputs = graph.inputs().iter().map(|&node| Value { node, slot: 0 });
    let seeds = named(graph, seeds, graph.outputs().iter().copied())?;
    let wrt = named(graph, wrt, inputs)?;
    let seeds: Vec<Seed> = seeds.into_iter().map(Seed::fed).collect();
    match differentiate(graph, &seeds, &wrt) {
        Ok(it) => Ok(it.graph),
        Err(error) => Err(Box::new(error.into())),
    }
}

/// The values of these names; without names those of `all` that hold floats.
fn named(
    graph: &Graph,
    names: &[String],
    all: impl Iterator<Item = Value>,
) -> Result<Vec<Value>, Box<Diagnostic>> {
    if names.is_empty() {
        let is_float = |it: &Value| graph.ty(*it).dtype().is_some_and(DType::is_float);
        return Ok(all.filter(is_float).collect());
    }
    let find = |name: &String| {
        let mut values = graph.nodes().flat_map(|(id, _)| graph.values_of(id));
        values.find(|&it| graph.value_name(it) == name).ok_or_else(|| {
            let text = format!("graph '{}' has no value '{name}'", graph.name());
            Box::new(Diagnostic::error(codes::QCC0304, text))
        })
    };
    names.iter().map(find).collect()
}
