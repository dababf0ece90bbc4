//! The best term of a region as a patch.

use std::collections::BTreeMap;
use std::sync::Arc;

use egg::{Id, Language};
use qcc_ir::{Graph, NodeId, OpRef, Output, Patch, Type, Value};
use qcc_tensor::{DType, Tensor};

use super::engine::Best;
use super::term::{EGraph, Term, make_op};

/// Writes terms into a patch; nodes of the graph are used again where their operands stay.
pub(crate) struct Writer<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) egraph: &'a EGraph,
    pub(crate) best: &'a Best,
    /// Nodes by term, with classes as operands.
    pub(crate) originals: &'a BTreeMap<Term, NodeId>,
    pub(crate) leaves: &'a BTreeMap<Arc<str>, Value>,
    /// Name of the value that is replaced, with which names of new ones begin.
    pub(crate) name: &'a str,
    pub(crate) patch: Patch,
    pub(crate) done: BTreeMap<Id, Value>,
}

impl Writer<'_> {
    /// The value of a class; `None` when its term cannot be written.
    pub(crate) fn value(&mut self, class: Id) -> Option<Value> {
        let class = self.egraph.find(class);
        if let Some(&value) = self.done.get(&class) {
            return Some(value);
        }
        let term = self.best.nodes.get(&class)?.clone();
        let value = match &term {
            Term::Leaf(name) => match self.leaves.get(name) {
                Some(&value) => value,
                None => self.literal(class)?,
            },
            Term::Op(name, _) => match self.originals.get(&term) {
                Some(&id) => self.again(id, class, &term)?,
                None => {
                    let (op, count) = make_op(self.egraph, &term)?;
                    let inputs = self.operands(&term, count)?;
                    self.op(name, op, inputs, self.egraph[class].data.ty.clone())
                }
            },
        };
        self.done.insert(class, value);
        Some(value)
    }

    /// A node of the graph, or one like it with new operands.
    fn again(&mut self, id: NodeId, class: Id, term: &Term) -> Option<Value> {
        let node = &self.graph[id];
        let inputs = self.operands(term, node.inputs.len())?;
        if inputs == node.inputs {
            return Some(Value { node: id, slot: 0 });
        }
        let op = node.op()?.clone();
        let ty = self.egraph[class].data.ty.clone();
        Some(self.op(op.name(), op.clone(), inputs, ty))
    }

    fn operands(&mut self, term: &Term, count: usize) -> Option<Vec<Option<Value>>> {
        let children = term.children().get(..count)?;
        let operand = |&id: &Id| {
            let is_absent = self.best.nodes.get(&self.egraph.find(id))?.name() == "_";
            if is_absent { Some(None) } else { self.value(id).map(Some) }
        };
        children.iter().map(operand).collect()
    }

    fn op(&mut self, name: &str, op: OpRef, inputs: Vec<Option<Value>>, ty: Type) -> Value {
        let name = format!("{}/{name}", self.name);
        let node = self.patch.op(&name, op, inputs, vec![Output::new(name.as_str(), ty)]);
        Value { node, slot: 0 }
    }

    /// A number that an operator reads; rules ask for its type before they write one.
    fn literal(&mut self, class: Id) -> Option<Value> {
        let number = self.egraph[class].data.number?;
        let name = format!("{}/{}", self.name, DType::F32.text());
        Some(self.patch.constant(&name, Tensor::scalar(number as f32)))
    }
}
