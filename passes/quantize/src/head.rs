//! Which product is the head of a model.
//!
//! The head is the weight whose product reaches a float output of the outermost graph through
//! nothing but a bias, a cast, a reshape, a slice, a scale or a soft cap. A model of which every
//! product is a head, a single layer say, has none; products by codes and by weights that cannot
//! be quantized count like all others.

use std::collections::BTreeSet;

use qcc_ir::{Graph, Node, NodeId, Scope, Value};
use qcc_ops::contrib_attention::ContribAttention;

use crate::products::{is_matrix, matrices, varies};
use crate::sites::{Role, Site};

/// Gives the heads their role.
pub(crate) fn mark(root: &Graph, sites: &mut [Site]) {
    let products = products(root, sites);
    // What an Attention gives is no product.
    let attends =
        |it: NodeId| root.node(it).and_then(|it| it.op()?.is::<ContribAttention>()).is_some();
    let is_head = |it: &NodeId| !attends(*it) && reaches_output(root, Value { node: *it, slot: 0 });
    let heads: BTreeSet<NodeId> = products.iter().copied().filter(is_head).collect();
    let is_outermost = |it: &Site| it.scope == Scope::root();
    let has_inner = sites
        .iter()
        .any(|it| it.role == Role::Product && !is_outermost(it) && is_matrix(&it.weight.dims));
    if heads.len() == products.len() && !has_inner {
        return;
    }
    for site in sites.iter_mut().filter(|it| is_outermost(it) && it.role == Role::Product) {
        if site.form.is_ok() && heads.contains(&site.node) {
            site.role = Role::Head;
        }
    }
}

/// Operators whose codes are a list of bytes, not a matrix.
const LISTS: &[&str] = &["MatMulBnb4", "MatMulFpQ4"];

/// Every node of the outermost graph that multiplies what varies by a weight.
fn products(root: &Graph, sites: &[Site]) -> BTreeSet<NodeId> {
    let order = root.topo();
    let varies = varies(root, &order);
    let multiplies = |id: &NodeId| {
        let Some(node) = root.node(*id).filter(|_| varies.get(*id)) else { return false };
        let has_list = node.op().is_some_and(|it| LISTS.contains(&it.name()));
        has_list || !matrices(root, node, &varies).is_empty()
    };
    let mut products: BTreeSet<NodeId> = order.into_iter().filter(multiplies).collect();
    let sites = sites.iter().filter(|it| it.role == Role::Product && it.form.is_ok());
    products.extend(sites.filter(|it| it.scope == Scope::root()).map(|it| it.node));
    products
}

fn reaches_output(graph: &Graph, product: Value) -> bool {
    let mut open = vec![product];
    while let Some(value) = open.pop() {
        if graph.is_output(value) {
            return true;
        }
        for user in graph.users(value) {
            let Some(node) = graph.node(user) else { continue };
            if is_transparent(graph, node, value) {
                open.push(Value { node: user, slot: 0 });
            }
        }
    }
    false
}

/// Whether a node only shifts, scales, caps or reshapes `value`.
fn is_transparent(graph: &Graph, node: &Node, value: Value) -> bool {
    let Some(op) = node.op().filter(|it| it.domain().is_empty()) else { return false };
    let is_first = node.inputs.first() == Some(&Some(value));
    match op.name() {
        "Cast" | "CastLike" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten"
        | "Slice" | "Transpose" | "Tanh" | "Gather" => is_first,
        "Add" | "Sub" | "Mul" | "Div" => {
            node.inputs.iter().flatten().all(|&it| it == value || graph.constant(it).is_some())
        }
        _ => false,
    }
}
