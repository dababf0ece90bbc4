//! Products with a transposed constant, as those of a tied head: `x * Transpose(w)` reads `w` where
//! it lies, so that no turned copy of it is kept.

use std::sync::Arc;

use qcc_ir::{Graph, Node, OpRef, Value};
use qcc_ops::fused_matmul::{FusedMatMul, Turn};
use qcc_ops::matmul::MatMul;
use qcc_ops::transpose::Transpose;
use qcc_tensor::DType;

use crate::facts::{Facts, Hold};

/// The operator and operands to run instead of a `MatMul` whose second operand is a constant of two
/// axes that change places. `None` for other nodes. It does not depend on the number of rows, which
/// may be open.
pub(crate) fn turned(
    graph: &Graph,
    facts: &Facts,
    node: &Node,
) -> Option<(OpRef, Vec<Option<Value>>)> {
    node.op()?.is::<MatMul>()?;
    let [Some(x), Some(operand)] = *node.inputs.as_slice() else { return None };
    if !matches!(facts.get(operand)?.hold, Hold::Lazy) {
        return None;
    }
    let step = graph.node(operand.node)?;
    let transpose = step.op()?.is::<Transpose>()?;
    let weight = (*step.inputs.first()?)?;
    let (x_fact, w_fact) = (facts.get(x)?, facts.get(weight)?);
    if [x_fact, w_fact].iter().any(|it| it.ty.dtype() != Some(DType::F32)) {
        return None;
    }
    let is_turned = w_fact.ty.rank() == Some(2) && transpose.order(2).ok()? == [1, 0];
    if !is_turned || x_fact.ty.rank()? < 2 {
        return None;
    }
    let turn = Turn { matrix: true, batch: false };
    let op = FusedMatMul { a: Turn::default(), b: turn, alpha: 1.0 };
    Some((Arc::new(op), vec![Some(x), Some(weight)]))
}
