//! Regions: what is rewritten at a time, and its terms.
//!
//! A region is an operator and what only it needs: pure operators of one result whose readers all
//! lie in the region. What comes from outside, constants among it, are leaves.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use egg::Id;
use qcc_ir::{Attr, Attrs, Graph, Kind, Node, NodeId, Op, OpRef, Scope, Type, Value};
use qcc_ops::quant::DOMAIN;
use qcc_ops::transpose::Transpose;
use qcc_tensor::{DType, Tensor};

use super::term::{EGraph, Fact, Facts, Term, list_text};

/// Operators of a region.
pub(crate) const MAX_REGION: usize = 64;

/// Elements of a constant whose integers rules may ask for.
const MAX_INTS: usize = 16;

/// Whether a node may lie in a region.
pub(crate) fn is_member(graph: &Graph, id: NodeId) -> bool {
    let Some(node) = graph.node(id) else { return false };
    let Kind::Op(op) = &node.kind else { return false };
    let is_plain =
        |it: &Attr| !matches!(it, Attr::Tensor(_) | Attr::Tensors(_) | Attr::Ref(_) | Attr::Raw(_));
    (op.is_pure() || is_idle_dropout(graph, node))
        && op.domain() != DOMAIN
        && node.regions.is_empty()
        && !node.outputs.is_empty()
        && graph.values_of(id).skip(1).all(|it| graph.n_uses(it) == 0)
        && op.attrs().iter().all(|it| is_plain(&it.1))
}

/// A `Dropout` that drops nothing: its third operand is absent or false.
fn is_idle_dropout(graph: &Graph, node: &Node) -> bool {
    let is_false = |it: &Tensor| it.as_bools().is_ok_and(|it| it.iter().all(|&it| it == 0));
    let mode = node.inputs.get(2).copied().flatten();
    node.op().is_some_and(|it| it.is_named("Dropout"))
        && mode.is_none_or(|it| graph.constant(it).is_some_and(is_false))
}

/// The region of an operator, itself first and each after its readers. `position` tells the
/// place of a node in topological order.
pub(crate) fn grow(graph: &Graph, root: NodeId, position: &BTreeMap<NodeId, usize>) -> Vec<NodeId> {
    let mut nodes = vec![root];
    let mut members = BTreeSet::from([root]);
    let mut ready = BinaryHeap::new();
    let mut seen = BTreeSet::new();
    let mut last = root;
    loop {
        for value in graph[last].uses() {
            if seen.insert(value.node) {
                ready.push((position.get(&value.node).copied(), value.node));
            }
        }
        // Last in order first: all readers of a node have been looked at before it.
        let next = loop {
            let Some((_, id)) = ready.pop() else { return nodes };
            let value = Value { node: id, slot: 0 };
            let is_inside = is_member(graph, id)
                && !graph.is_output(value)
                && graph.users(value).iter().all(|it| members.contains(it));
            if is_inside {
                break id;
            }
        };
        if nodes.len() == MAX_REGION {
            return nodes;
        }
        nodes.push(next);
        members.insert(next);
        last = next;
    }
}

/// A region as terms.
pub(crate) struct Encoded {
    pub(crate) egraph: EGraph,
    pub(crate) root: Id,
    /// The terms of the graph, as they were added.
    pub(crate) originals: Vec<(Term, NodeId)>,
    pub(crate) leaves: BTreeMap<Arc<str>, Value>,
}

/// The terms of a region of the graph at a scope; `nodes` as [`grow`] gives them.
pub(crate) fn encode(
    whole: &Graph,
    scope: &Scope,
    graph: &Graph,
    nodes: &[NodeId],
) -> Option<Encoded> {
    let mut egraph = EGraph::new(Facts::default());
    let mut leaves = BTreeMap::new();
    let mut originals = Vec::with_capacity(nodes.len());
    let mut ids: BTreeMap<Value, Id> = BTreeMap::new();
    for &node in nodes.iter().rev() {
        let op = graph[node].op()?;
        let mut children = Vec::new();
        for operand in &graph[node].inputs {
            let Some(value) = *operand else {
                children.push(egraph.add(Term::leaf("_")));
                continue;
            };
            let id = match ids.get(&value) {
                Some(&id) => id,
                None => {
                    let name: Arc<str> = format!("v{}.{}", value.node.index(), value.slot).into();
                    let fact = leaf(whole, scope, graph, nodes, value);
                    egraph.analysis.leaves.insert(name.clone(), fact);
                    leaves.insert(name.clone(), value);
                    let id = egraph.add(Term::Leaf(name));
                    ids.insert(value, id);
                    id
                }
            };
            children.push(id);
        }
        let (name, literals) = name_of(graph, node, op, &mut egraph.analysis.ops);
        children.extend(literals.iter().map(|it| egraph.add(Term::leaf(it))));
        let term = Term::Op(name, children);
        let id = egraph.add(term.clone());
        let value = Value { node, slot: 0 };
        let mut fact = egraph[id].data.clone();
        let ty = graph.ty(value);
        fact.ty = ty.meet(&fact.ty).unwrap_or_else(|| ty.clone());
        egraph.set_analysis_data(id, fact);
        ids.insert(value, id);
        originals.push((term, node));
    }
    egraph.rebuild();
    let root = *ids.get(&Value { node: *nodes.first()?, slot: 0 })?;
    Some(Encoded { egraph, root, originals, leaves })
}

/// What is known of a value from outside.
fn leaf(whole: &Graph, scope: &Scope, graph: &Graph, nodes: &[NodeId], value: Value) -> Fact {
    let found = whole.resolve(scope, value);
    let tensor = found.and_then(|(scope, it)| whole.at(&scope)?.constant(it).cloned());
    let mut fact = Fact { ty: graph.ty(value).clone(), ..Fact::default() };
    let Some(tensor) = tensor else { return fact };
    fact.ty = Type::of(&tensor);
    if matches!(tensor.dtype(), DType::I64 | DType::I32) && tensor.len() <= MAX_INTS {
        fact.ints = tensor.to_i64().ok().map(|it| it.to_vec());
    }
    // A constant of more dimensions than the other operand would give them to the result.
    let other_is_longer = |&id: &NodeId| {
        let others = graph[id].inputs.iter().flatten().filter(|&&it| it != value);
        let reads = graph[id].inputs.contains(&Some(value));
        !reads || others.map(|it| graph.ty(*it).rank()).max().flatten() >= Some(tensor.rank())
    };
    let is_neutral = tensor.rank() == 0 || nodes.iter().all(other_is_longer);
    if tensor.len() == 1 && tensor.dtype().is_float() && is_neutral {
        fact.number = tensor.to_f32().ok().and_then(|it| it.first().map(|&it| f64::from(it)));
    }
    fact.tensor = Some(tensor);
    fact
}

/// The name of a term and the literals behind its operands.
fn name_of(
    graph: &Graph,
    id: NodeId,
    op: &OpRef,
    ops: &mut BTreeMap<Arc<str>, OpRef>,
) -> (Arc<str>, Vec<String>) {
    let attrs = op.attrs();
    if let Some((name, literals)) = known(graph, id, &**op, &attrs) {
        return (name.into(), literals);
    }
    let name: Arc<str> = if op.domain().is_empty() && attrs.is_empty() {
        op.name().into()
    } else {
        format!("{}::{} {attrs:?}", op.domain(), op.name()).into()
    };
    ops.insert(name.clone(), op.clone());
    (name, Vec::new())
}

/// Operators whose attributes rules look at.
fn known(
    graph: &Graph,
    id: NodeId,
    op: &dyn Op,
    attrs: &Attrs,
) -> Option<(&'static str, Vec<String>)> {
    let attr = |name: &str| attrs.iter().find(|it| it.0 == name).map(|it| &it.1);
    let float = |name: &str, default: f32| match attr(name) {
        Some(Attr::Float(it)) => it.to_string(),
        _ => default.to_string(),
    };
    let int = |name: &str, default: i64| match attr(name) {
        Some(Attr::Int(it)) => it.to_string(),
        _ => default.to_string(),
    };
    let only = |names: &[&str]| attrs.iter().all(|it| names.contains(&&*it.0));
    let turns = || [int("transA", 0), int("transB", 0)];
    Some(match (op.domain(), op.name()) {
        ("", "Transpose") => {
            let input = (*graph[id].inputs.first()?)?;
            let transpose = op.is::<Transpose>()?;
            let rank = transpose.perm.as_ref().map(Vec::len).or(graph.ty(input).rank())?;
            let perm = transpose.order(rank).ok()?;
            let perm: Vec<i64> = perm.into_iter().map(|it| it as i64).collect();
            ("Transpose", vec![list_text(&perm)])
        }
        ("", "Gemm") => {
            let [a, b] = turns();
            ("Gemm", vec![float("alpha", 1.0), float("beta", 1.0), a, b])
        }
        ("com.microsoft", "FusedMatMul") if only(&["alpha", "transA", "transB"]) => {
            let [a, b] = turns();
            ("FusedMatMul", vec![float("alpha", 1.0), a, b])
        }
        ("", "Swish") => ("Swish", vec![float("alpha", 1.0)]),
        ("", "Gelu") if attrs.is_empty() => ("Gelu", Vec::new()),
        ("", "Gelu") => ("GeluTanh", Vec::new()),
        ("", "Dropout") => ("Dropout", Vec::new()),
        ("", "Cast") if only(&["to"]) => ("Cast", vec![int("to", 0)]),
        ("", "ReduceMean") if only(&["keepdims"]) && graph[id].inputs.len() == 2 => {
            ("ReduceMean", vec![int("keepdims", 1)])
        }
        // The form before opset 18.
        ("", "ReduceMean") if only(&["keepdims", "axes"]) && graph[id].inputs.len() == 1 => {
            let Some(Attr::Ints(axes)) = attr("axes") else { return None };
            ("ReduceMean", vec![list_text(axes), int("keepdims", 1)])
        }
        ("", "RMSNormalization") if only(&["axis", "epsilon"]) => {
            ("RMSNormalization", vec![int("axis", -1), float("epsilon", 1e-5)])
        }
        ("", "LayerNormalization") if only(&["axis", "epsilon"]) => {
            ("LayerNormalization", vec![int("axis", -1), float("epsilon", 1e-5)])
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::graph;

    /// Names of the first outputs of the region of the first output.
    fn region(text: &str) -> Vec<String> {
        let graph = graph(text);
        let position = graph.topo().into_iter().zip(0..).collect();
        let nodes = grow(&graph, graph.outputs()[0].node, &position);
        nodes.iter().map(|&node| graph.value_name(Value { node, slot: 0 }).to_owned()).collect()
    }

    #[test]
    fn a_region_ends_where_others_read() {
        let text = "graph @g(%x: f32[2]) -> (%y, %o) {
          %a = Neg(%x)
          %b = Abs(%a)
          %c = Relu(%a)
          %d = Add(%b, %c)
          %o = Neg(%d)
          %e = Exp(%d)
          %f = RandomNormal() {shape = [2]}
          %g = Add(%e, %f)
          %y = Mul(%g, %g)
        }";
        assert_eq!(region(text), ["y", "g", "e"]);
        let text = text.replace("%o = Neg(%d)", "%o = Neg(%x)");
        assert_eq!(region(&text), ["y", "g", "e", "d", "c", "b", "a"]);
    }

    #[test]
    fn a_region_has_a_size() {
        let mut text = "graph @g(%x: f32[2]) -> (%y) {\n".to_owned();
        let mut last = "x".to_owned();
        for idx in 0..100 {
            text.push_str(&format!("%v{idx} = Neg(%{last})\n"));
            last = format!("v{idx}");
        }
        text.push_str(&format!("%y = Abs(%{last}) }}"));
        assert_eq!(region(&text).len(), MAX_REGION);
    }

    #[test]
    fn attributes_are_literals() {
        let text = "graph @g(%x: f32[2, 2, 2]) -> (%y) {
          %two = const f32[1] [2.0]
          %t = Transpose(%x)
          %s = Swish(%t) {alpha = 1.5}
          %e: f32[2, 2, 2] = Elu(%s) {alpha = 0.5}
          %y = Mul(%e, %two)
        }";
        let graph = graph(text);
        let position = graph.topo().into_iter().zip(0..).collect();
        let nodes = grow(&graph, graph.outputs()[0].node, &position);
        let encoded = encode(&graph, &Scope::root(), &graph, &nodes).unwrap();
        let text = encoded.egraph.id_to_expr(encoded.root).to_string();
        assert_eq!(
            text.replace(r#""::Elu [("alpha", Float(0.5))]""#, "Elu"),
            "(Mul (Elu (Swish (Transpose v0.0 [2,1,0]) 1.5)) v1.0)"
        );
        let two = &encoded.egraph.analysis.leaves["v1.0"];
        assert_eq!(two.number, Some(2.0));
    }
}
