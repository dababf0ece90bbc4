//! Which product is the head of a model.
//!
//! The head is the weight whose product reaches a float output of the outermost graph through
//! nothing but a bias, a cast, a reshape, a slice, a scale or a soft cap. A model of which every
//! product is a head, a single layer say, has none.

use qcc_ir::{Graph, Node, Scope, Value};

use crate::sites::{Role, Site};

/// Gives the heads their role.
pub(crate) fn mark(root: &Graph, sites: &mut [Site]) {
    let heads: Vec<usize> = sites
        .iter()
        .enumerate()
        .filter(|(_, it)| it.role == Role::Product && it.form.is_ok() && it.scope == Scope::root())
        .filter(|(_, it)| reaches_output(root, Value { node: it.node, slot: 0 }))
        .map(|it| it.0)
        .collect();
    let products = sites.iter().filter(|it| it.role == Role::Product && it.form.is_ok()).count();
    if heads.len() == products {
        return;
    }
    for idx in heads {
        sites[idx].role = Role::Head;
    }
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
