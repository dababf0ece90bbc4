//! `com.microsoft::Attention` whose weights have codes: what stands behind the product with them.
//!
//! `Attention(x, W, bias, mask, _, added)` is `MatMul(x, W)`, the bias added to it, three `Slice` of
//! the columns, and `MultiHeadAttention(q, k, v, _, mask, added)`, which keeps the name of the node.
//! Both are the same function; ONNX Runtime adds up in another order where K is large, and without a
//! mask.

use std::sync::Arc;

use qcc_ir::{Graph, NodeId, Output, Patch, Type, Value};
use qcc_ops::contrib_attention::{ContribAttention, Parted};
use qcc_tensor::{Dim, Tensor};

use crate::product::plain;

/// The parts of an `Attention`; `None` for another node, the inner error says what stands against
/// them.
pub(crate) fn parted(graph: &Graph, id: NodeId) -> Option<Result<Parted, &'static str>> {
    let node = graph.node(id)?;
    let attention = node.op()?.is::<ContribAttention>()?;
    let types: Vec<_> = node.inputs.iter().map(|it| it.map(|it| graph.ty(it))).collect();
    Some(attention.parted(&types, graph.n_uses(Value { node: id, slot: 1 }) > 0))
}

/// Adds what follows `qkv`, the biased product of the weights of an `Attention`. New nodes are named
/// behind `name`.
pub(crate) fn behind(
    patch: &mut Patch,
    (graph, id): (&Graph, NodeId),
    name: &str,
    parted: &Parted,
    (qkv, ty): (Value, &Type),
) -> Value {
    let node = graph.node(id);
    let input = |index: usize| node.and_then(|it| it.inputs.get(index).copied().flatten());
    let mut number =
        |what: &str, it: i64| patch.constant(&format!("{name}_{what}"), Tensor::vector(vec![it]));
    let [q, k, v] = parted.widths;
    let bounds = [0, q, q + k, q + k + v].map(|it| number("column", it as i64));
    let axis = number("axis", -1);
    let mut inputs = Vec::new();
    for (idx, what) in ["query", "key", "value"].into_iter().enumerate() {
        let rows = ty.shape().and_then(<[Dim]>::split_last).map(|it| it.1);
        let width = Dim::Known(parted.widths[idx]);
        let shape = rows.map(|it| it.iter().cloned().chain([width]).collect());
        let slice = vec![Some(qkv), Some(bounds[idx]), Some(bounds[idx + 1]), Some(axis)];
        let name = format!("{name}_{what}");
        inputs.push(Some(patch.op1(&name, plain("Slice"), slice, ty.with_shape(shape))));
    }
    inputs.extend([None, input(3), input(5)]);
    let trailing = inputs.iter().rev().take_while(|it| it.is_none()).count();
    inputs.truncate(inputs.len() - trailing);
    let old = Value { node: id, slot: 0 };
    let out = Output::new(graph.value_name(old), graph.ty(old).clone());
    let own = node.map_or("", |it| it.name.as_str());
    let heads = patch.op(own, Arc::new(parted.heads.clone()), inputs, vec![out]);
    Value { node: heads, slot: 0 }
}
