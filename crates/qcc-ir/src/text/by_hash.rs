//! Constants that a text knows by their hash alone.

use std::collections::BTreeMap;

use qcc_tensor::Tensor;

use super::tensor::is_hash_alone;
use crate::{Attr, Graph, Kind, Node};

/// Tensors of a graph, its regions and its functions whose bytes are neither in the text that
/// [`print`](super::print) gives nor in a file that it names, by BLAKE3 hash of their bytes as the
/// text has it. With them and the files the text reads back.
pub fn hash_alone(graph: &Graph) -> BTreeMap<String, Tensor> {
    let mut found = BTreeMap::new();
    collect(graph, &mut found);
    found
}

fn collect(graph: &Graph, found: &mut BTreeMap<String, Tensor>) {
    let mut add = |tensor: &Tensor| {
        if is_hash_alone(tensor) {
            let hash = blake3::hash(tensor.bytes()).to_hex().to_string();
            found.entry(hash).or_insert_with(|| tensor.clone());
        }
    };
    for scope in graph.scopes() {
        let nodes = graph.at(&scope).into_iter().flat_map(Graph::nodes);
        nodes.for_each(|(_, node)| of_node(node, &mut add));
    }
    for function in graph.functions().iter() {
        let defaults = function.attrs.iter().filter_map(|it| it.1.as_ref());
        defaults.for_each(|it| of_attr(it, &mut add));
    }
    for function in graph.functions().iter() {
        collect(&function.body, found);
    }
}

fn of_node(node: &Node, add: &mut dyn FnMut(&Tensor)) {
    match &node.kind {
        Kind::Const(tensor) | Kind::Input(Some(tensor)) => add(tensor),
        Kind::Op(op) => op.attrs().iter().for_each(|it| of_attr(&it.1, add)),
        Kind::Input(None) | Kind::Capture => {}
    }
}

fn of_attr(attr: &Attr, add: &mut dyn FnMut(&Tensor)) {
    match attr {
        Attr::Tensor(it) => add(it),
        Attr::Tensors(all) => all.iter().for_each(add),
        _ => {}
    }
}
