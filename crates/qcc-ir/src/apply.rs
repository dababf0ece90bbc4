//! Applying patches: new nodes, names, replacements, and the removal of what nothing reads.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use crate::names::Names;
use crate::patch::{Added, added_position};
use crate::{Graph, Kind, Node, NodeId, Patch, PatchError, Place, Scope, Step, Value};

impl Graph {
    /// Applies patches in order. Each may name values that one before it has replaced: it then
    /// gets what replaced them.
    ///
    /// # Errors
    /// When a patch names what does not exist, changes a type, renames a graph output or makes a
    /// cycle. The graph is then in an unspecified state and must be thrown away.
    pub fn apply(&mut self, patches: Vec<Patch>) -> Result<(), PatchError> {
        let mut names = Names::of(self);
        let mut moved = Moved::default();
        let mut check: Option<&'static str> = None;
        for patch in patches {
            if patch.is_structural() {
                check = Some(patch.pass);
            }
            apply(self, patch, &mut names, &mut moved)?;
        }
        match check {
            Some(pass) if self.has_cycle() => Err(PatchError::Cycle { pass }),
            _ => Ok(()),
        }
    }

    fn has_cycle(&self) -> bool {
        self.cycle().is_some()
            || self.nodes().any(|(_, node)| node.regions.iter().any(|it| it.graph.has_cycle()))
    }
}

/// What patches before this one have replaced by what, in which graph.
#[derive(Default)]
struct Moved(BTreeMap<(Scope, Value), Value>);

impl Moved {
    fn follow(&self, scope: &Scope, mut value: Value) -> Value {
        while let Some(&next) = self.0.get(&(scope.clone(), value)) {
            value = next;
        }
        value
    }
}

fn apply(
    root: &mut Graph,
    mut patch: Patch,
    names: &mut Names,
    moved: &mut Moved,
) -> Result<(), PatchError> {
    let steps = patch.scope.0.clone();
    if root.at(&patch.scope).is_none() {
        return Err(patch.missing("its graph"));
    }

    // 1. New nodes get ids; their operands may be new nodes that come later.
    let mut ids = Vec::with_capacity(patch.added.len());
    let mut added_nodes = Vec::new();
    for added in mem::take(&mut patch.added) {
        let id = match added {
            Added::Capture { scope, value } => {
                let value = moved.follow(&scope, value);
                let Some(inner) = capture(root, &scope, &steps, value) else {
                    return Err(patch.missing("a captured value"));
                };
                inner.node
            }
            Added::Node { anchor, mut node } => {
                let Some(graph) = root.at_mut(&steps) else {
                    return Err(patch.missing("its graph"));
                };
                let anchor = anchor.and_then(|it| graph.node(it)).map(|it| it.place);
                node.place = graph.next_place(anchor.unwrap_or_default());
                let id = graph.add(node);
                added_nodes.push(id);
                id
            }
        };
        ids.push(id);
    }
    let resolve = |value: Value| -> Value {
        match added_position(value.node, ids.len()) {
            Some(position) => Value { node: ids[position], slot: value.slot },
            None => moved.follow(&patch.scope, value),
        }
    };
    let Some(graph) = root.at_mut(&steps) else { return Err(patch.missing("its graph")) };
    for &id in &added_nodes {
        if let Some(node) = graph.node_mut(id) {
            let captured = node.regions.iter_mut().flat_map(|it| it.captures.iter_mut());
            for value in node.inputs.iter_mut().flatten().chain(captured) {
                *value = resolve(*value);
            }
        }
        graph.reconnect(id);
    }

    // 2. Names: those that replace a value take its name below, the others become unique. A node
    // that goes as a whole leaves its own name to what replaces it.
    for &(old, _) in &patch.replaced {
        if let Some(node) = graph.node(old.node)
            && node.outputs.len() == 1
        {
            names.release(node);
        }
    }
    let heirs: BTreeSet<Value> = patch.replaced.iter().map(|it| resolve(it.1)).collect();
    for &id in &added_nodes {
        for value in graph.values_of(id).collect::<Vec<_>>() {
            let name = graph.value_name(value).to_owned();
            if !heirs.contains(&value) && !name.is_empty() {
                let name = names.unique_value(&name);
                rename(graph, value, name);
            } else {
                rename(graph, value, String::new());
            }
        }
        if let Some(node) = graph.node_mut(id)
            && !node.name.is_empty()
        {
            node.name = names.unique_node(&node.name);
        }
        for region in graph.node_mut(id).into_iter().flat_map(|it| it.regions.iter_mut()) {
            names.rename_inside(&mut region.graph);
        }
    }

    // 3. Types, before what replaces a value is held against its own.
    for (value, ty) in mem::take(&mut patch.types) {
        let value = resolve(value);
        let slot = value.slot as usize;
        match graph.node_mut(value.node).and_then(|it| it.outputs.get_mut(slot)) {
            Some(output) => output.ty = ty,
            None => return Err(patch.missing("a typed value")),
        }
    }

    // 4. Replacements.
    let mut stale = patch.dropped.clone();
    let mut replaced = Vec::new();
    for (old, new) in mem::take(&mut patch.replaced) {
        let (old, new) = (resolve(old), resolve(new));
        replaced.push((old, new));
        replace(graph, &patch, old, new, names)?;
        stale.push(old.node);
    }

    // 5. Single operands.
    for (id, operand, new) in mem::take(&mut patch.rewired) {
        let new = resolve(new);
        let Some(slot) = graph.node_mut(id).and_then(|it| it.inputs.get_mut(operand)) else {
            return Err(patch.missing("a rewired operand"));
        };
        if let Some(old) = slot.replace(new) {
            stale.push(old.node);
        }
        graph.reconnect(id);
    }

    for (old, new) in replaced {
        // A wrapper reads what it replaces, which therefore still stands for itself.
        if !graph.node(new.node).is_some_and(|it| it.uses().any(|it| it == old)) {
            moved.0.insert((patch.scope.clone(), old), new);
        }
    }

    // 6. What nothing reads goes, in this graph and then in those around it.
    sweep(root, &steps, stale, names);
    Ok(())
}

fn replace(
    graph: &mut Graph,
    patch: &Patch,
    old: Value,
    new: Value,
    names: &mut Names,
) -> Result<(), PatchError> {
    if graph.node(old.node).is_none() || graph.node(new.node).is_none() {
        return Err(patch.missing("a replaced value"));
    }
    let name = graph.value_name(old).to_owned();
    let Some(ty) = graph.ty(new).meet(graph.ty(old)) else {
        let (old, new) = (graph.ty(old).to_string(), graph.ty(new).to_string());
        return Err(PatchError::Type { pass: patch.pass, name, old, new });
    };
    // A new value takes the name. One that was there keeps its own, unless the name must stay
    // visible as an output.
    let is_output = graph.is_output(old);
    if graph.value_name(new).is_empty() || is_output {
        let is_fixed =
            graph.is_output(new) || matches!(graph[new.node].kind, Kind::Input(_) | Kind::Capture);
        if is_fixed {
            return Err(PatchError::Output { pass: patch.pass, name });
        }
        // A replacement that reads what it replaces, as a wrapper does, leaves it a name.
        let is_wrapped = graph[new.node].uses().any(|it| it == old);
        let left =
            if is_wrapped { names.unique_value(&format!("{name}.inner")) } else { String::new() };
        rename(graph, old, left);
        rename(graph, new, name);
    }
    if let Some(output) =
        graph.node_mut(new.node).and_then(|it| it.outputs.get_mut(new.slot as usize))
    {
        output.ty = ty;
    }
    for user in graph.users(old) {
        if user == new.node {
            continue; // the replacement itself may read what it replaces
        }
        if let Some(node) = graph.node_mut(user) {
            let captured = node.regions.iter_mut().flat_map(|it| it.captures.iter_mut());
            for value in node.inputs.iter_mut().flatten().chain(captured) {
                if *value == old {
                    *value = new;
                }
            }
        }
        graph.reconnect(user);
    }
    let outputs = graph.outputs().iter().map(|&it| if it == old { new } else { it }).collect();
    graph.set_outputs(outputs);
    Ok(())
}

fn rename(graph: &mut Graph, value: Value, name: String) {
    if let Some(node) = graph.node_mut(value.node)
        && let Some(output) = node.outputs.get_mut(value.slot as usize)
    {
        output.name = name;
    }
}

/// Makes `value`, of the graph at `outer`, visible at `steps`, which lies inside `outer`.
fn capture(root: &mut Graph, outer: &Scope, steps: &[Step], value: Value) -> Option<Value> {
    let inner = steps.strip_prefix(outer.0.as_slice())?;
    let mut graph = root.at_mut(&outer.0)?;
    let mut value = value;
    for step in inner {
        let output = graph.node(value.node)?.outputs.get(value.slot as usize)?.clone();
        let region = graph.node_mut(step.node)?.regions.get_mut(step.region)?;
        let position = region.captures.iter().position(|&it| it == value);
        let id = if let Some(position) = position {
            *region.graph.captures().get(position)?
        } else {
            region.captures.push(value);
            let (kind, place) = (Kind::Capture, Place::default());
            let (inputs, regions) = (Vec::new(), Vec::new());
            let name = String::new();
            region.graph.add(Node { name, kind, inputs, outputs: vec![output], regions, place })
        };
        graph.reconnect(step.node);
        graph = &mut graph.node_mut(step.node)?.regions.get_mut(step.region)?.graph;
        value = Value { node: id, slot: 0 };
    }
    Some(value)
}

/// Removes those of `stale` that nothing reads, and what only they read.
fn sweep(root: &mut Graph, steps: &[Step], stale: Vec<NodeId>, names: &mut Names) {
    let (mut steps, mut stale) = (steps.to_vec(), stale);
    loop {
        let mut outer = Vec::new();
        let Some(graph) = root.at_mut(&steps) else { return };
        let mut unhooked = Vec::new();
        while let Some(id) = stale.pop() {
            let Some(node) = graph.node(id) else { continue };
            let is_read = graph.values_of(id).any(|it| graph.n_uses(it) > 0);
            if is_read || matches!(node.kind, Kind::Input(_)) {
                continue;
            }
            stale.extend(node.uses().map(|it| it.node));
            if matches!(node.kind, Kind::Capture)
                && let Some(position) = graph.captures().iter().position(|&it| it == id)
            {
                unhooked.push(position);
                graph.remove(id);
                // Positions after it have moved; `unhooked` is replayed in the same order.
                continue;
            }
            if let Some(node) = graph.remove(id) {
                names.release(&node);
            }
        }
        let Some(step) = steps.pop() else { return };
        let Some(graph) = root.at_mut(&steps) else { return };
        if let Some(region) =
            graph.node_mut(step.node).and_then(|it| it.regions.get_mut(step.region))
        {
            for position in unhooked {
                outer.push(region.captures.remove(position).node);
            }
        }
        graph.reconnect(step.node);
        if outer.is_empty() {
            return;
        }
        stale = outer;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qcc_tensor::{DType, Tensor};

    use super::*;
    use crate::{GraphBuilder, OpRef, Opaque, Output, Region, Type, verify};

    fn op(name: &str) -> OpRef {
        Arc::new(Opaque { domain: String::new(), name: name.into(), attrs: Vec::new() })
    }

    fn out(name: &str) -> Vec<Output> {
        vec![Output::new(name, Type::Unknown)]
    }

    fn first(node: NodeId) -> Value {
        Value { node, slot: 0 }
    }

    /// `y = B(A(x), w)`, with `y` the output.
    fn chain() -> (Graph, Value, Value, Value) {
        let mut b = GraphBuilder::new("g");
        let x = b.input("x", Type::tensor(DType::F32, [2usize]), None);
        let w = b.constant("w", Tensor::vector(vec![1f32, 2.0]));
        let a = first(b.op("na", op("A"), vec![Some(x)], out("a")));
        let y = first(b.op("nb", op("B"), vec![Some(a), Some(w)], out("y")));
        b.set_outputs(vec![y]);
        (b.finish().unwrap(), x, a, y)
    }

    #[test]
    fn replacement_takes_the_name_and_dead_nodes_go() {
        let (mut graph, _, a, y) = chain();
        let mut patch = Patch::new("test");
        patch.at(y.node);
        let codes = patch.constant("w", Tensor::vector(vec![7u8]));
        let new = patch.op1("nb", op("C"), vec![Some(a), Some(codes)], Type::Unknown);
        patch.replace(y, new);
        graph.apply(vec![patch]).unwrap();

        assert_eq!(verify(&graph), []);
        assert_eq!(graph.len(), 4, "x, a, codes and C");
        let out = graph.outputs()[0];
        assert_eq!(graph.value_name(out), "y");
        let node = &graph[out.node];
        assert_eq!(node.name, "nb");
        assert_eq!(graph.value_name(node.inputs[1].unwrap()), "w_2", "names are not given twice");
        assert!(graph.node(y.node).is_none());
    }

    #[test]
    fn an_output_keeps_its_name_when_its_node_is_bypassed() {
        let (mut graph, x, a, y) = chain();
        let mut patch = Patch::new("test");
        patch.replace(y, a);
        graph.apply(vec![patch]).unwrap();
        assert_eq!(graph.value_name(a), "y");
        assert_eq!(verify(&graph), []);

        let mut patch = Patch::new("test");
        patch.replace(a, x);
        let error = graph.apply(vec![patch]).unwrap_err();
        assert_eq!(error, PatchError::Output { pass: "test", name: "y".into() });
    }

    #[test]
    fn a_patch_may_name_what_one_before_it_replaced() {
        let (mut graph, x, a, y) = chain();
        let mut first_patch = Patch::new("test");
        first_patch.at(a.node);
        let new_a = first_patch.op1("a2", op("A2"), vec![Some(x)], Type::Unknown);
        first_patch.replace(a, new_a);
        let mut second = Patch::new("test");
        second.at(y.node);
        let new_y = second.op1("y2", op("Y2"), vec![Some(a)], Type::Unknown);
        second.replace(y, new_y);
        graph.apply(vec![first_patch, second]).unwrap();
        assert_eq!(verify(&graph), []);
        let read = graph[graph.outputs()[0].node].inputs[0].unwrap();
        assert_eq!(graph[read.node].op().unwrap().name(), "A2");
    }

    #[test]
    fn types_must_fit() {
        let (mut graph, x, ..) = chain();
        let mut patch = Patch::new("test");
        let other = patch.constant("c", Tensor::vector(vec![1i64]));
        patch.replace(x, other);
        assert!(matches!(graph.apply(vec![patch]), Err(PatchError::Type { .. })));

        // What the same patch says of the old value counts.
        let (mut graph, x, ..) = chain();
        let mut patch = Patch::new("test");
        let other = patch.constant("c", Tensor::vector(vec![1i64]));
        patch.set_type(x, Type::tensor(DType::I64, [1usize]));
        patch.replace(x, other);
        graph.apply(vec![patch]).unwrap();
    }

    #[test]
    fn cycles_are_refused() {
        let (mut graph, _, a, y) = chain();
        let mut patch = Patch::new("test");
        patch.rewire(a.node, 0, y);
        assert_eq!(graph.apply(vec![patch]), Err(PatchError::Cycle { pass: "test" }));
    }

    #[test]
    fn a_wrapper_takes_the_name_of_what_it_reads() {
        let (mut graph, _, a, y) = chain();
        let mut patch = Patch::new("test");
        patch.at(a.node);
        let wrapped = patch.op1("wrap", op("W"), vec![Some(a)], Type::Unknown);
        patch.replace(a, wrapped);
        graph.apply(vec![patch]).unwrap();
        assert_eq!(verify(&graph), []);
        let read = graph[y.node].inputs[0].unwrap();
        assert_eq!((graph.value_name(read), graph.value_name(a)), ("a", "a.inner"));
    }

    /// A constant outside that only a branch reads.
    fn with_branch() -> (Graph, Value, NodeId) {
        let mut inner = GraphBuilder::new("then");
        let w_in = inner.capture("w", Type::Unknown);
        let y = first(inner.op("nm", op("M"), vec![Some(w_in)], out("m")));
        inner.set_outputs(vec![y]);
        let inner = inner.finish().unwrap();
        let mut b = GraphBuilder::new("g");
        let w = b.constant("w", Tensor::vector(vec![1f32]));
        let holder = b.op("if", op("If"), vec![], out("z"));
        let captures = vec![w];
        b.set_regions(holder, vec![Region { attr: "then_branch".into(), graph: inner, captures }]);
        b.set_outputs(vec![first(holder)]);
        (b.finish().unwrap(), w, holder)
    }

    #[test]
    fn captures_follow_a_rewrite_inside_a_branch() {
        let (mut graph, w, holder) = with_branch();
        let scope = Scope::root().inner(holder, 0);
        let old = graph.at(&scope).unwrap().outputs()[0];
        assert_eq!(
            graph.resolve(&scope, graph.at(&scope).unwrap()[old.node].inputs[0].unwrap()),
            Some((Scope::root(), w))
        );

        let mut outer = Patch::new("test");
        outer.at(w.node);
        let q = outer.op1("q", op("Q"), vec![Some(w)], Type::Unknown);
        outer.rewire(holder, 0, q); // no such operand
        assert!(graph.clone().apply(vec![outer]).is_err());

        let mut inner = Patch::within("test", scope.clone());
        inner.at(old.node);
        let seen = inner.capture(&Scope::root(), w);
        let codes = inner.constant("codes", Tensor::vector(vec![1u8]));
        let new = inner.op1("nq", op("MQ"), vec![Some(seen), Some(codes)], Type::Unknown);
        inner.replace(old, new);
        graph.apply(vec![inner]).unwrap();
        assert_eq!(verify(&graph), []);
        let branch = graph.at(&scope).unwrap();
        assert_eq!(branch.captures().len(), 1, "the capture is shared");
        assert_eq!(branch.value_name(branch.outputs()[0]), "m");

        // Without the capture, the constant outside goes as well.
        let old = branch.outputs()[0];
        let mut inner = Patch::within("test", scope.clone());
        let new = inner.op1("nz", op("Z"), vec![], Type::Unknown);
        inner.replace(old, new);
        graph.apply(vec![inner]).unwrap();
        assert_eq!(verify(&graph), []);
        assert!(graph.node(w.node).is_none());
        assert!(graph.at(&scope).unwrap().captures().is_empty());
    }

    #[test]
    fn order_is_that_of_the_source() {
        let (graph, x, a, y) = chain();
        let order: Vec<NodeId> = graph.topo();
        assert_eq!(order.iter().position(|&it| it == x.node), Some(0));
        assert_eq!(order[2..], [a.node, y.node]);
    }
}
