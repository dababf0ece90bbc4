//! The verifier: what holds for every graph between two passes.
//!
//! 1. An operand names an output that exists, in the same graph.
//! 2. The edges of the petgraph repeat the operands.
//! 3. There is no cycle.
//! 4. A value that is read, or that is an output of the graph, has a name.
//! 5. A name stands for one value in a graph.
//! 6. The outputs of the graph exist.
//! 7. A constant has one output, whose type is that of its tensor; an input and a capture have one
//!    output; none of them has operands.
//! 8. A region lists one outer value for each capture of its graph, and that value exists.
//! 9. The outermost graph has no captures.
//! 10. The operands of an operator do not contradict its shape rule, and what the rule infers does
//!     not contradict the types of its outputs.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Graph, Input, Kind, Node, NodeId, Type, Value};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Number of the invariant in the list at the head of this file.
    pub invariant: u8,
    /// What is wrong, with the names of what it is about.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant {}: {}", self.invariant, self.message)
    }
}

/// Everything that is wrong with a graph and its regions; empty when it is right.
pub fn verify(graph: &Graph) -> Vec<Violation> {
    let mut found = Vec::new();
    if !graph.captures().is_empty() {
        report(&mut found, 9, "the outermost graph captures values".to_owned());
    }
    verify_graph(graph, &mut found);
    for function in graph.functions().iter() {
        if !function.body.captures().is_empty() {
            report(&mut found, 9, format!("function '{}' captures values", function.name));
        }
        verify_graph(&function.body, &mut found);
    }
    found
}

fn verify_graph(graph: &Graph, found: &mut Vec<Violation>) {
    if let Some(cycle) = graph.cycle() {
        let names: Vec<String> = cycle.iter().map(|&id| label(graph, id)).collect();
        report(found, 3, format!("cycle through {}", names.join(", ")));
    }
    let mut names: BTreeMap<&str, NodeId> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        for output in node.outputs.iter().filter(|it| !it.name.is_empty()) {
            if let Some(&other) = names.get(output.name.as_str()) {
                let other = label(graph, other);
                report(found, 5, format!("'{}' is defined by {other} too", output.name));
            }
            names.insert(&output.name, id);
        }
        verify_node(graph, id, node, found);
    }
    for &value in graph.outputs() {
        if !exists(graph, value) {
            report(found, 6, format!("output {value:?} does not exist"));
        } else if graph.value_name(value).is_empty() {
            report(found, 4, format!("output {value:?} has no name"));
        }
    }
}

fn verify_node(graph: &Graph, id: NodeId, node: &Node, found: &mut Vec<Violation>) {
    let uses: Vec<Value> = node.uses().collect();
    for &value in &uses {
        if !exists(graph, value) {
            report(found, 1, format!("{} reads {value:?}, which is not there", label(graph, id)));
        } else if graph.value_name(value).is_empty() {
            report(found, 4, format!("{} reads {value:?}, which has no name", label(graph, id)));
        }
    }
    let mut wanted = uses;
    let mut edges = graph.edges_into(id);
    wanted.sort_unstable();
    edges.sort_unstable();
    if wanted != edges {
        report(found, 2, format!("edges into {} are {edges:?}", label(graph, id)));
    }
    match &node.kind {
        Kind::Op(_) => verify_types(graph, id, node, found),
        Kind::Const(tensor) => {
            let is_right = node.outputs.len() == 1 && node.outputs[0].ty == Type::of(tensor);
            if !is_right || !node.inputs.is_empty() {
                report(found, 7, format!("constant {} is not its tensor", label(graph, id)));
            }
        }
        Kind::Input(_) | Kind::Capture => {
            if node.outputs.len() != 1 || !node.inputs.is_empty() {
                report(found, 7, format!("{} is not one value", label(graph, id)));
            }
        }
    }
    for region in &node.regions {
        if region.captures.len() != region.graph.captures().len() {
            let (listed, wanted) = (region.captures.len(), region.graph.captures().len());
            let text = format!("'{}' captures {wanted} values, {listed} are listed", region.attr);
            report(found, 8, text);
        }
        verify_graph(&region.graph, found);
    }
}

fn verify_types(graph: &Graph, id: NodeId, node: &Node, found: &mut Vec<Violation>) {
    let Kind::Op(op) = &node.kind else { return };
    let inputs: Vec<Option<Input<'_>>> = node
        .inputs
        .iter()
        .map(|it| it.map(|it| Input { ty: graph.ty(it), value: graph.constant(it) }))
        .collect();
    match op.infer(&inputs, node.outputs.len()) {
        Err(error) => report(found, 10, format!("{}: {error}", label(graph, id))),
        Ok(types) => {
            for (output, inferred) in node.outputs.iter().zip(&types) {
                if output.ty.meet(inferred).is_none() {
                    let (name, ty) = (&output.name, &output.ty);
                    report(found, 10, format!("'{name}' is {ty}, but the rule says {inferred}"));
                }
            }
        }
    }
}

fn exists(graph: &Graph, value: Value) -> bool {
    graph.node(value.node).is_some_and(|it| (value.slot as usize) < it.outputs.len())
}

/// A node as messages name it: its own name, or that of its first output.
fn label(graph: &Graph, id: NodeId) -> String {
    let Some(node) = graph.node(id) else { return format!("{id:?}") };
    let output = node.outputs.iter().find(|it| !it.name.is_empty());
    match (&node.kind, output) {
        (Kind::Op(op), _) if !node.name.is_empty() => format!("{} '{}'", op.name(), node.name),
        (Kind::Op(op), Some(output)) => format!("{} of '{}'", op.name(), output.name),
        (_, Some(output)) => format!("'{}'", output.name),
        _ => format!("{id:?}"),
    }
}

fn report(found: &mut Vec<Violation>, invariant: u8, message: String) {
    found.push(Violation { invariant, message });
}
