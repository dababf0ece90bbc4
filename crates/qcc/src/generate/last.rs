//! Logits of the last token alone: nobody reads the others of a prompt, and the head is the largest
//! product of a small model.

use std::sync::Arc;

use qcc_ir::{Graph, OpRef, Patch, PatchError, Type, Value};
use qcc_ops::slice::Slice;
use qcc_tensor::{Dim, Tensor};

/// Cuts off what the head reads but for the last token, where the head is a product that gives
/// `logits` from `[batch, length, features]`. Whether it did.
///
/// # Errors
/// A mistake of this function.
pub(super) fn last_only(graph: &mut Graph) -> Result<bool, PatchError> {
    let is_logits = |it: &Value| graph.value_name(*it) == "logits";
    let Some(logits) = graph.outputs().iter().copied().find(is_logits) else { return Ok(false) };
    let found = graph.node(logits.node).and_then(|node| {
        let is_head = node.op().is_some_and(is_product) && node.outputs.len() == 1;
        node.inputs.first().copied().flatten().filter(|_| is_head)
    });
    let Some(x) = found else { return Ok(false) };
    let Some([batch, _, features]) = graph.ty(x).shape() else { return Ok(false) };
    let ty = graph.ty(x).with_shape(Some(vec![batch.clone(), Dim::Known(1), features.clone()]));
    let out = match graph.ty(logits).shape() {
        Some([a, _, b]) => {
            let dims = vec![a.clone(), Dim::Known(1), b.clone()];
            graph.ty(logits).with_shape(Some(dims))
        }
        _ => Type::Unknown,
    };
    let mut patch = Patch::new("last-only");
    let [start, end, axis] = [("first", -1), ("end", i64::MAX), ("axis", 1)]
        .map(|(name, it)| patch.constant(&format!("last-only.{name}"), Tensor::vector(vec![it])));
    let inputs = [x, start, end, axis].map(Some).to_vec();
    let last = patch.op1("last-only", Arc::new(Slice { bounds: None }), inputs, ty);
    patch.rewire(logits.node, 0, last);
    if out != Type::Unknown {
        patch.set_type(logits, out);
    }
    graph.apply(vec![patch])?;
    Ok(true)
}

/// Whether a row of the result depends on that row of the first operand alone.
fn is_product(op: &OpRef) -> bool {
    match op.domain() {
        "" => op.name() == "MatMul",
        "com.microsoft" => op.name() == "MatMulNBits",
        qcc_ops::quant::DOMAIN => op.name() == "KernelProduct",
        _ => false,
    }
}
