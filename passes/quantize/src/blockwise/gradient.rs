//! The gradients of the weights of a block, as a graph.

use std::sync::Arc;

use qcc_exec::{Seed, differentiate};
use qcc_ir::{Emitter, Graph, Value};
use qcc_ops::arith::Arith;

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
        let weights = found.wrt.into_iter().collect::<Option<Vec<Value>>>();
        let weights = weights.ok_or("nothing that the block gives depends on a weight of it")?;
        let names = |values: Vec<Value>| {
            values.iter().map(|it| graph.value_name(*it).to_owned()).collect::<Vec<_>>()
        };
        let (wanted, shares) = (names(wanted), names(shares));
        Ok(Self { graph: found.graph, wanted, shares, weights })
    }
}
