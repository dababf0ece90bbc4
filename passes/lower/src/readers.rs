//! The operators that read packed weights, for the output formats.

use std::collections::BTreeMap;

use qcc_ir::{Graph, Node, NodeId, Op, Scope, Value};
use qcc_ops::quant::{Form, Packed, Quant};
use qcc_ops::weight::{Traced, trace};
use qcc_quant::spec::{ScaleType, WeightSpec};
use qcc_tensor::DType;

/// An operator that stands for a weight that was chosen.
pub(crate) trait Chosen: Op {
    fn spec(&self) -> WeightSpec;
    fn form(&self) -> Form;
}

impl Chosen for Packed {
    fn spec(&self) -> WeightSpec {
        self.spec
    }

    fn form(&self) -> Form {
        self.form
    }
}

impl Chosen for Quant {
    fn spec(&self) -> WeightSpec {
        self.spec
    }

    fn form(&self) -> Form {
        self.form
    }
}

/// A node that reads a weight: a packed one, or one that has no codes yet.
pub(crate) struct Reader<'a, W = Packed> {
    pub(crate) scope: Scope,
    pub(crate) id: NodeId,
    pub(crate) node: &'a Node,
    /// Which operand the weight is.
    pub(crate) operand: usize,
    pub(crate) weight: Traced,
    pub(crate) chosen: &'a W,
    /// Name of the weight.
    pub(crate) name: String,
}

/// Every such node, in order.
pub(crate) fn readers<W: Chosen>(root: &Graph) -> Vec<Reader<'_, W>> {
    let mut found = Vec::new();
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        for id in graph.topo() {
            let Some(node) = graph.node(id) else { continue };
            if node.op().is_none() || qcc_ops::weight::is_step(graph, id) {
                continue;
            }
            for (operand, value) in node.inputs.iter().enumerate() {
                let Some(value) = *value else { continue };
                let Some(weight) = trace(root, &scope, value) else { continue };
                let Some(source) = root.at(&weight.scope) else { continue };
                let op = source.node(weight.source.node).and_then(|it| it.op());
                let Some(chosen) = op.and_then(|it| it.is::<W>()) else { continue };
                let name = weight_name(source, weight.source.node);
                let scope = scope.clone();
                found.push(Reader { scope, id, node, operand, weight, chosen, name });
            }
        }
    }
    found
}

/// How many operands read each value that `trace` ends at.
pub(crate) fn counts(root: &Graph) -> BTreeMap<(Scope, Value), usize> {
    let mut counts = BTreeMap::new();
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        for (id, node) in graph.nodes() {
            if node.op().is_none() || qcc_ops::weight::is_step(graph, id) {
                continue;
            }
            for value in node.inputs.iter().copied().flatten() {
                if let Some(it) = trace(root, &scope, value) {
                    *counts.entry((it.scope, it.source)).or_default() += 1;
                }
            }
        }
    }
    counts
}

/// The name under which the record knows the weight that a node of `select` reads: the node has
/// it where it stands for all uses, and a longer one where for only some.
pub(crate) fn weight_name(graph: &Graph, id: NodeId) -> String {
    let own = graph.value_name(Value { node: id, slot: 0 });
    let source = graph.node(id).and_then(|it| it.inputs.first().copied().flatten());
    let source = source.map(|it| graph.value_name(it));
    let rest = source.and_then(|it| own.strip_prefix(it));
    source.filter(|_| rest.is_some_and(|it| it.starts_with(".quant"))).unwrap_or(own).to_owned()
}

impl<W: Chosen> Reader<'_, W> {
    /// The operands of the `Packed`: codes, scales, zero points.
    pub(crate) fn tensors(&self, root: &Graph) -> Vec<Value> {
        let graph = root.at(&self.weight.scope);
        let node = graph.and_then(|it| it.node(self.weight.source.node));
        node.map(|it| it.inputs.iter().copied().flatten().collect()).unwrap_or_default()
    }

    /// Name of the node, or of its result where it has none.
    pub(crate) fn label<'b>(&'b self, graph: &'b Graph) -> &'b str {
        match self.node.name.as_str() {
            "" => graph.value_name(Value { node: self.id, slot: 0 }),
            name => name,
        }
    }

    /// The value of an integer attribute of the node.
    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        let attrs = self.node.op()?.attrs();
        attrs.iter().find(|it| it.0 == name).and_then(|it| match it.1 {
            qcc_ir::Attr::Int(it) => Some(it),
            _ => None,
        })
    }

    /// The value of a float attribute of the node.
    pub(crate) fn float(&self, name: &str) -> Option<f32> {
        let attrs = self.node.op()?.attrs();
        attrs.iter().find(|it| it.0 == name).and_then(|it| match it.1 {
            qcc_ir::Attr::Float(it) => Some(it),
            _ => None,
        })
    }

    /// Element type of the scales: `MatMulNBits` needs that of the product, and it is what
    /// `DequantizeLinear` gives.
    pub(crate) fn scale_type(&self) -> DType {
        match self.chosen.spec().scale {
            ScaleType::F32 => DType::F32,
            ScaleType::F16 => DType::F16,
            ScaleType::BF16 => DType::BF16,
        }
    }

    /// Whether the node reads the rows that were packed: it may be reached by a pass that was
    /// given another graph than `select` saw.
    pub(crate) fn fits(&self, outputs_last: bool) -> bool {
        self.weight.form(outputs_last) == Some(self.chosen.form())
    }
}
