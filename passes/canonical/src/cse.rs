//! `cse`: lets readers of equal values read one of them.
//!
//! Equal are pure operators of one graph with equal attributes and operands, and constants of up
//! to 64 bytes with equal contents; with `merge-equal` larger constants too, which makes two
//! copies of a weight one weight. The first in order stays.
//!
//! Needs: nothing. Keeps: names of outputs, so of two outputs with equal values both stay, with a
//! note. A weight on its way to codes (`qcc::Quant`, `qcc::Packed`) is a site of its own and stays.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Attr, Graph, Kind, Node, NodeId, Op, Patch, Value};
use qcc_ops::quant::DOMAIN;
use qcc_pass::{Ctx, OptionInfo, OptionKind, PassError, PassInfo};
use qcc_tensor::Tensor;

/// The row of the table.
pub static INFO: PassInfo = PassInfo {
    name: "cse",
    summary: "compute equal values once",
    options: &[OptionInfo {
        name: "merge-equal",
        kind: OptionKind::Bool,
        default: "false",
        help: "store equal constants of any size once",
    }],
    run,
};

/// Constants of at most so many bytes are always compared: shapes, axes, scalars.
const SMALL_BYTES: usize = 64;

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let max_bytes = if ctx.options.flag("merge-equal") { usize::MAX } else { SMALL_BYTES };
    let mut patches = Vec::new();
    for scope in graph.scopes() {
        let Some(inner) = graph.at(&scope) else { continue };
        let mut search = Search {
            graph: inner,
            same: BTreeMap::new(),
            seen: BTreeMap::new(),
            outputs: inner.outputs().iter().copied().collect(),
        };
        for id in inner.topo() {
            ctx.check_cancelled()?;
            let Some(first) = search.first(id, max_bytes) else { continue };
            let pairs: Vec<(Value, Value)> =
                inner.values_of(id).zip(inner.values_of(first)).collect();
            if let Some(old) = pairs.iter().find(|it| !search.may_go(**it)) {
                let (old, new) = (inner.value_name(old.0), inner.value_name(old.1));
                let text =
                    format!("'{old}' stays beside '{new}', which is equal but not free to go");
                ctx.note(Diagnostic::note(codes::QCC0202, text));
                continue;
            }
            let mut patch = Patch::within(INFO.name, scope.clone());
            for (old, new) in pairs {
                search.same.insert(old, new);
                if search.outputs.contains(&old) {
                    search.outputs.insert(new);
                }
                if inner.n_uses(old) > 0 {
                    patch.replace(old, new);
                }
            }
            if patch.is_structural() {
                patches.push(patch);
                ctx.count("cse.merged", 1);
            }
        }
    }
    Ok(patches)
}

struct Search<'a> {
    graph: &'a Graph,
    /// Which earlier value a value equals.
    same: BTreeMap<Value, Value>,
    /// Nodes that stay, by what is quick to compare.
    seen: BTreeMap<Key, Vec<NodeId>>,
    /// Values that carry the name of an output.
    outputs: BTreeSet<Value>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Const(u64),
    Op { domain: String, name: String, inputs: Vec<Option<Value>>, outputs: Vec<bool> },
}

impl Search<'_> {
    /// The first node that is equal to this one; `None` when this one is the first.
    fn first(&mut self, id: NodeId, max_bytes: usize) -> Option<NodeId> {
        let node = &self.graph[id];
        let key = self.key(node, max_bytes)?;
        let list = self.seen.entry(key).or_default();
        let found = list.iter().copied().find(|&it| is_same(&self.graph[it], node));
        if found.is_none() {
            list.push(id);
        }
        found
    }

    fn key(&self, node: &Node, max_bytes: usize) -> Option<Key> {
        match &node.kind {
            Kind::Const(it) if it.bytes().len() <= max_bytes && it.as_strings().is_none() => {
                Some(Key::Const(hash(it)))
            }
            Kind::Op(op) if op.is_pure() && op.domain() != DOMAIN && node.regions.is_empty() => {
                let follow = |it: &Option<Value>| it.map(|it| *self.same.get(&it).unwrap_or(&it));
                Some(Key::Op {
                    domain: op.domain().to_owned(),
                    name: op.name().to_owned(),
                    inputs: node.inputs.iter().map(follow).collect(),
                    outputs: node.outputs.iter().map(|it| it.name.is_empty()).collect(),
                })
            }
            _ => None,
        }
    }

    /// Whether what reads `old` may read `new`.
    fn may_go(&self, (old, new): (Value, Value)) -> bool {
        let is_free = !(self.outputs.contains(&old) && self.outputs.contains(&new));
        is_free && self.graph.ty(new).meet(self.graph.ty(old)).is_some()
    }
}

/// Equal tensors have equal hashes; the hasher has fixed keys.
fn hash(tensor: &Tensor) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_i32(tensor.dtype().onnx_code());
    for &dim in tensor.dims() {
        hasher.write_usize(dim);
    }
    hasher.write(tensor.bytes());
    hasher.finish()
}

/// Whether two nodes with equal keys are equal.
fn is_same(a: &Node, b: &Node) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::Const(a), Kind::Const(b)) => a == b,
        (Kind::Op(a), Kind::Op(b)) => same_attrs(&**a, &**b),
        _ => false,
    }
}

/// Floats are compared as bits: 0.0 is not -0.0.
fn same_attrs(a: &dyn Op, b: &dyn Op) -> bool {
    let (a, b) = (a.attrs(), b.attrs());
    let bits = |list: &[f32]| list.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| {
            a.0 == b.0
                && match (&a.1, &b.1) {
                    (Attr::Float(a), Attr::Float(b)) => a.to_bits() == b.to_bits(),
                    (Attr::Floats(a), Attr::Floats(b)) => bits(a) == bits(b),
                    (a, b) => a == b,
                }
        })
}

#[cfg(test)]
mod tests {
    use crate::testing::{after, notes};

    #[test]
    fn equal_terms_are_computed_once() {
        let text = "graph @g(%x: f32[2, 3]) -> (%y) {
          %s = const i64[1] [6]
          %t = const i64[1] [6]
          %a = Reshape(%x, %s)
          %b = Reshape(%x, %t)
          %c = Elu(%a) {alpha = 0.5}
          %d = Elu(%b) {alpha = 0.5}
          %e = Elu(%b) {alpha = 0.25}
          %f = Add(%c, %d)
          %y = Add(%f, %e)
        }";
        let text = after(text, "cse");
        assert_eq!(text.matches("Reshape(").count(), 1, "{text}");
        assert_eq!(text.matches("Elu(").count(), 2, "{text}");
        assert!(text.contains("Add(%c, %c)"), "{text}");
    }

    #[test]
    fn zeros_have_a_sign() {
        let text = "graph @g(%x: f32[2]) -> (%y) {
          %a = Elu(%x) {alpha = 0.0}
          %b = Elu(%x) {alpha = -0.0}
          %y = Add(%a, %b)
        }";
        assert_eq!(after(text, "cse").matches("Elu(").count(), 2);
    }

    #[test]
    fn random_numbers_are_not_equal() {
        let text = "graph @g(%x: f32[2]) -> (%y) {
          %a = RandomNormal() {shape = [2]}
          %b = RandomNormal() {shape = [2]}
          %y = Add(%a, %b)
        }";
        assert_eq!(after(text, "cse").matches("RandomNormal(").count(), 2);
    }

    #[test]
    fn an_output_gives_its_name_and_two_stay() {
        let text = "graph @g(%x: f32[2]) -> (%y: f32[2], %z: f32[2]) {
          %a = Neg(%x)
          %y = Neg(%x)
          %z = Neg(%x)
          %u = Abs(%a)
          () = my::Print(%u)
        }";
        let after = after(text, "cse");
        assert!(after.contains("%y = Neg(%x)") && after.contains("%z = Neg(%x)"), "{after}");
        assert!(after.contains("Abs(%y)"), "{after}");
        assert_eq!(notes(text, "cse").len(), 1);
    }

    #[test]
    fn weights_are_merged_when_asked_for() {
        let row = vec!["1.0"; 20].join(", ");
        let text = format!(
            "graph @g(%x: f32[20]) -> (%y) {{
              %v = const f32[20] [{row}]
              %w = const f32[20] [{row}]
              %a = Mul(%x, %v)
              %b = Add(%x, %w)
              %y = Mul(%a, %b)
            }}"
        );
        assert_eq!(after(&text, "cse").matches("const").count(), 2);
        assert_eq!(after(&text, "cse{merge-equal=true}").matches("const").count(), 1);
    }
}
