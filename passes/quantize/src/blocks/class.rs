//! The structural class of a part of a graph: equal parts have equal classes.
//!
//! What counts: operators on the main path, attributes, how they read each other, and types of
//! constants. What does not: names, values of constants, the order in which the file has the nodes,
//! and how masks and shapes are made, which exporters share between layers as they see fit.

use std::collections::BTreeMap;

use qcc_ir::{Attr, Graph, Node, NodeId, Value};
use qcc_tensor::Tensor;
use xxhash_rust::xxh3::Xxh3;

use super::flow::Flow;

/// The class of some nodes, which stand in topological order.
pub(super) fn class(flow: &Flow<'_>, nodes: &[NodeId]) -> u64 {
    let mut inside: BTreeMap<NodeId, u64> = BTreeMap::new();
    for &id in nodes.iter().filter(|it| flow.main.get(**it)) {
        if let Some(node) = flow.graph.node(id) {
            let digest = of_node(flow, node, &inside);
            inside.insert(id, digest);
        }
    }
    let mut digests: Vec<u64> = inside.into_values().collect();
    digests.sort_unstable();
    let mut hash = Xxh3::new();
    digests.iter().for_each(|it| hash.update(&it.to_le_bytes()));
    hash.digest()
}

fn of_node(flow: &Flow<'_>, node: &Node, inside: &BTreeMap<NodeId, u64>) -> u64 {
    let mut hash = Xxh3::new();
    operator(&mut hash, node);
    for operand in &node.inputs {
        match operand {
            None => hash.update(b"absent"),
            Some(value) => operand_of(&mut hash, flow, *value, inside),
        }
    }
    for region in &node.regions {
        for value in &region.captures {
            operand_of(&mut hash, flow, *value, inside);
        }
        hash.update(&of_graph(&region.graph).to_le_bytes());
    }
    hash.digest()
}

fn operand_of(hash: &mut Xxh3, flow: &Flow<'_>, value: Value, inside: &BTreeMap<NodeId, u64>) {
    if let Some(digest) = inside.get(&value.node).filter(|_| flow.is_main(value)) {
        hash.update(&digest.to_le_bytes());
        hash.update(&value.slot.to_le_bytes());
    } else if flow.is_main(value) {
        hash.update(b"main");
    } else if flow.varies.get(value.node) {
        hash.update(b"side");
    } else {
        text(hash, &flow.graph.ty(value).to_string());
    }
}

/// The operators of a region, in any order.
fn of_graph(graph: &Graph) -> u64 {
    let mut all = Vec::new();
    let mut stack = vec![graph];
    while let Some(graph) = stack.pop() {
        for (_, node) in graph.nodes() {
            let mut hash = Xxh3::new();
            operator(&mut hash, node);
            all.push(hash.digest());
            stack.extend(node.regions.iter().map(|it| &it.graph));
        }
    }
    all.sort_unstable();
    let mut hash = Xxh3::new();
    all.iter().for_each(|it| hash.update(&it.to_le_bytes()));
    hash.digest()
}

fn operator(hash: &mut Xxh3, node: &Node) {
    let Some(op) = node.op() else { return };
    text(hash, op.domain());
    text(hash, op.name());
    let mut attrs = op.attrs();
    attrs.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, attr) in &attrs {
        text(hash, name);
        attribute(hash, attr);
    }
}

fn attribute(hash: &mut Xxh3, attr: &Attr) {
    let tensor = |hash: &mut Xxh3, it: &Tensor| {
        text(hash, it.dtype().text());
        it.dims().iter().for_each(|dim| hash.update(&(*dim as u64).to_le_bytes()));
    };
    match attr {
        Attr::Float(it) => hash.update(&it.to_bits().to_le_bytes()),
        Attr::Int(it) => hash.update(&it.to_le_bytes()),
        Attr::Str(it) | Attr::Raw(it) => bytes(hash, it),
        Attr::Tensor(it) => tensor(hash, it),
        Attr::Floats(it) => it.iter().for_each(|it| hash.update(&it.to_bits().to_le_bytes())),
        Attr::Ints(it) => it.iter().for_each(|it| hash.update(&it.to_le_bytes())),
        Attr::Strs(it) => it.iter().for_each(|it| bytes(hash, it)),
        Attr::Tensors(it) => it.iter().for_each(|it| tensor(hash, it)),
        Attr::Ref(it) => text(hash, it),
    }
}

fn text(hash: &mut Xxh3, it: &str) {
    bytes(hash, it.as_bytes());
}

/// With its length, so that two texts in a row are not a longer one.
fn bytes(hash: &mut Xxh3, it: &[u8]) {
    hash.update(&(it.len() as u64).to_le_bytes());
    hash.update(it);
}
