//! Readers of a transposed constant, as of the weight of a tied head: `x * Transpose(w)` and a few
//! rows of `Transpose(w)` are read where `w` lies, so that no turned copy of it is kept.

use std::sync::Arc;

use qcc_ir::{Graph, Node, OpRef, Value};
use qcc_ops::fused_matmul::{FusedMatMul, Turn};
use qcc_ops::gather::Gather;
use qcc_ops::gather_turned::GatherTurned;
use qcc_ops::matmul::MatMul;
use qcc_ops::transpose::Transpose;
use qcc_tensor::DType;

use crate::facts::{Facts, Hold};

/// Rows of a table by rows that are read in one run, from which on a turned copy is worth it: a
/// row of the copy lies together, and one of the original is spread over all of it.
const FEW: usize = 64;

/// The operator and operands to run instead of a node that reads a constant of two axes that
/// change places: a `MatMul` whose second operand it is, or a `Gather` of some of its rows. `None`
/// for other nodes.
pub(crate) fn turned(
    graph: &Graph,
    facts: &Facts,
    node: &Node,
) -> Option<(OpRef, Vec<Option<Value>>)> {
    product(graph, facts, node).or_else(|| rows(graph, facts, node))
}

/// It does not depend on the number of rows, which may be open.
fn product(graph: &Graph, facts: &Facts, node: &Node) -> Option<(OpRef, Vec<Option<Value>>)> {
    node.op()?.is::<MatMul>()?;
    let [Some(x), Some(operand)] = *node.inputs.as_slice() else { return None };
    let weight = original(graph, facts, operand)?;
    let types = [x, weight].map(|it| facts.get(it).map(|it| &it.ty));
    if types.iter().any(|it| it.is_none_or(|it| it.dtype() != Some(DType::F32))) {
        return None;
    }
    if types[0]?.rank()? < 2 {
        return None;
    }
    let turn = Turn { matrix: true, batch: false };
    let op = FusedMatMul { a: Turn::default(), b: turn, alpha: 1.0 };
    Some((Arc::new(op), vec![Some(x), Some(weight)]))
}

fn rows(graph: &Graph, facts: &Facts, node: &Node) -> Option<(OpRef, Vec<Option<Value>>)> {
    let gather = node.op()?.is::<Gather>()?;
    let [Some(operand), Some(indices)] = *node.inputs.as_slice() else { return None };
    if !matches!(gather.axis, 0 | -2) {
        return None;
    }
    let table = original(graph, facts, operand)?;
    let rows = *facts.get(table)?.ty.known_dims()?.last()?;
    // An open number is that of tokens of a text, as it is written.
    let count: Option<usize> = facts.get(indices)?.ty.known_dims().map(|it| it.iter().product());
    let is_few = count.is_none_or(|it| it.checked_mul(FEW).is_some_and(|it| it <= rows));
    is_few.then(|| (Arc::new(GatherTurned) as OpRef, vec![Some(table), Some(indices)]))
}

/// The matrix whose axes have changed places in a value that is computed once, from constants.
fn original(graph: &Graph, facts: &Facts, value: Value) -> Option<Value> {
    if !matches!(facts.get(value)?.hold, Hold::Lazy) {
        return None;
    }
    let step = graph.node(value.node)?;
    let transpose = step.op()?.is::<Transpose>()?;
    let matrix = (*step.inputs.first()?)?;
    let is_matrix = facts.get(matrix)?.ty.rank() == Some(2);
    (is_matrix && transpose.order(2).ok()? == [1, 0]).then_some(matrix)
}
