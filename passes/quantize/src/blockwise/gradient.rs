//! The gradients of the weights of a block, as a graph.

use std::collections::BTreeSet;
use std::sync::Arc;

use qcc_exec::{Label, Seed, differentiate};
use qcc_ir::{Emitter, Graph, NodeId, Value};
use qcc_ops::arith::Arith;
use qcc_tensor::DType;

/// A graph of gradients of `sum share (out - wanted)^2 / 2` over the outputs of a block.
pub(super) struct Gradients {
    pub(super) graph: Graph,
    /// For each output, the name under which it is given what the output should be.
    pub(super) wanted: Vec<String>,
    /// For each output, the name under which it is given the share of each token.
    pub(super) shares: Vec<String>,
    /// The gradient of each weight.
    pub(super) weights: Vec<Value>,
}

impl Gradients {
    /// Of `weights`, constants of the graph, for `outputs`.
    ///
    /// # Errors
    /// Says what has no derivative.
    pub(super) fn new(graph: &Graph, outputs: &[Value], weights: &[Value]) -> Result<Self, String> {
        let mut b = Emitter::on(graph.clone());
        let (mut seeds, mut wanted, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for &output in outputs {
            let name = format!("{}.wanted", graph.value_name(output));
            let goal = b.input(&name, graph.ty(output).clone());
            let error = b.op(Arc::new(Arith::Sub), &[output, goal]);
            let name = format!("{}.shares", graph.value_name(output));
            let share = b.input(&name, graph.ty(output).with_shape(None));
            let adjoint = b.op(Arc::new(Arith::Mul), &[error, share]);
            shares.push(share);
            seeds.push(Seed { value: output, adjoint: Some(adjoint) });
            wanted.push(goal);
        }
        let graph = b.finish(graph.outputs().into());
        let found = differentiate(&graph, &seeds, weights).map_err(|it| it.to_string())?;
        let each = weights.iter().zip(found.wrt);
        let weights =
            each.map(|(weight, found)| found.ok_or_else(|| none(&graph, &seeds, *weight)));
        let weights = weights.collect::<Result<Vec<Value>, String>>()?;
        let names = |values: Vec<Value>| {
            values.iter().map(|it| graph.value_name(*it).to_owned()).collect::<Vec<_>>()
        };
        let (wanted, shares) = (names(wanted), names(shares));
        Ok(Self { graph: found.graph, wanted, shares, weights })
    }
}

/// Why a weight has no gradient though every operator between it and the seeds has a derivative.
fn none(graph: &Graph, seeds: &[Seed], weight: Value) -> String {
    let stops = stop(graph, seeds, weight).map(|it| format!("{it} passes no gradient on"));
    stops.unwrap_or_else(|| "nothing that the block gives depends on a weight of it".to_owned())
}

/// The last operator behind a value whose result has a gradient and whose operands have none.
fn stop(graph: &Graph, seeds: &[Seed], value: Value) -> Option<Label> {
    let mut behind = BTreeSet::from([value]);
    let order = graph.topo();
    for &id in &order {
        if graph.node(id)?.uses().any(|it| behind.contains(&it)) {
            behind.extend(graph.values_of(id));
        }
    }
    behind.retain(|it| graph.ty(*it).dtype().is_some_and(DType::is_float));
    let behind: Vec<Value> = behind.into_iter().collect();
    let found = differentiate(graph, seeds, &behind).ok()?;
    let each = behind.iter().zip(&found.wrt);
    let pulled: BTreeSet<Value> = each.filter(|it| it.1.is_some()).map(|it| *it.0).collect();
    let stops = |id: &&NodeId| {
        let gives = graph.values_of(**id).any(|it| pulled.contains(&it));
        let reads = |it: Value| behind.contains(&it);
        let node = graph.node(**id);
        gives
            && node
                .is_some_and(|it| it.uses().any(reads) && !it.uses().any(|it| pulled.contains(&it)))
    };
    order.iter().rfind(stops).and_then(|id| Some(Label::of(graph.node(*id)?)))
}
