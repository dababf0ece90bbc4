//! Adding nodes to a graph with their types inferred on the way: what derivatives are written with.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use qcc_tensor::Tensor;

use crate::names::Names;
use crate::{Graph, GraphBuilder, Input, OpRef, Output, Type, TypeError, Value};

/// A node whose derivative is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Io<'a> {
    /// Its operands; `None` for absent ones.
    pub inputs: &'a [Option<Value>],
    /// Its outputs.
    pub outputs: &'a [Value],
    /// For each operand, whether its adjoint is asked for.
    pub wanted: &'a [bool],
}

impl Io<'_> {
    /// Operand `index`, if it is there.
    pub fn input(&self, index: usize) -> Option<Value> {
        self.inputs.get(index).copied().flatten()
    }

    /// Whether the adjoint of operand `index` is asked for.
    pub fn wants(&self, index: usize) -> bool {
        self.wanted.get(index).copied().unwrap_or(false)
    }
}

/// An operator, or a form of it, that has no derivative.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} has no derivative{}", if .what.is_empty() { String::new() } else { format!(": {}", .what) })]
pub struct NotDifferentiable {
    /// Operator, with its domain if it is not the default one.
    pub op: String,
    /// Why, or which form; empty when it is all of it.
    pub what: String,
}

impl NotDifferentiable {
    /// `what` says why, or which form; it is empty when it is all of the operator.
    pub fn new(domain: &str, name: &str, what: impl Into<String>) -> Self {
        let mut op = String::new();
        if !domain.is_empty() {
            op = format!("{domain}::");
        }
        op.push_str(name);
        Self { op, what: what.into() }
    }
}

/// The adjoint of each operand, where there is one.
pub type Adjoints = Result<Vec<Option<Value>>, NotDifferentiable>;

/// Adds nodes behind those of a graph.
///
/// Operators and constants give a value at once. A type that does not fit is kept and told by
/// [`Emitter::error`], so that formulas read as such.
#[derive(Debug)]
pub struct Emitter {
    builder: GraphBuilder,
    names: Names,
    prefix: String,
    constants: BTreeMap<(i32, Vec<usize>, Bytes), Value>,
    error: Option<TypeError>,
}

impl Emitter {
    /// Goes on from a graph.
    pub fn on(graph: Graph) -> Self {
        let names = Names::of(&graph);
        Self {
            builder: GraphBuilder::on(graph),
            names,
            prefix: String::new(),
            constants: BTreeMap::new(),
            error: None,
        }
    }

    /// What names of values begin with from here on.
    pub fn set_prefix(&mut self, prefix: &str) {
        self.prefix.clear();
        self.prefix.push_str(prefix);
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        self.builder.graph()
    }

    /// What is known of a value.
    pub fn ty(&self, value: Value) -> &Type {
        self.graph().ty(value)
    }

    /// The tensor of a value that is a constant.
    pub fn tensor(&self, value: Value) -> Option<&Tensor> {
        self.graph().constant(value)
    }

    /// Adds an input to the graph; its name is made unique.
    pub fn input(&mut self, name: &str, ty: Type) -> Value {
        let name = self.names.unique_value(name);
        self.builder.input(&name, ty, None)
    }

    /// A constant, the same one for equal tensors.
    pub fn constant(&mut self, tensor: Tensor) -> Value {
        let key = (tensor.dtype().onnx_code(), tensor.dims().to_vec(), tensor.bytes().clone());
        if let Some(&value) = self.constants.get(&key) {
            return value;
        }
        let mut name = String::from("c");
        for (idx, dim) in tensor.dims().iter().enumerate() {
            let sep = if idx == 0 { "" } else { "x" };
            // Writing to a string does not fail.
            let _ = write!(name, "{sep}{dim}");
        }
        let name = self.names.unique_value(&name);
        let value = self.builder.constant(&name, tensor);
        self.constants.insert(key, value);
        value
    }

    /// An operator with one output.
    pub fn op(&mut self, op: OpRef, inputs: &[Value]) -> Value {
        let inputs: Vec<Option<Value>> = inputs.iter().copied().map(Some).collect();
        self.op_with(op, &inputs)
    }

    /// An operator with one output, of whose operands some may be absent.
    pub fn op_with(&mut self, op: OpRef, inputs: &[Option<Value>]) -> Value {
        let [value] = self.ops(op, inputs);
        value
    }

    /// An operator with `N` outputs.
    pub fn ops<const N: usize>(&mut self, op: OpRef, inputs: &[Option<Value>]) -> [Value; N] {
        let node = self.node(op, inputs, N);
        std::array::from_fn(|slot| Value { node, slot: slot as u32 })
    }

    /// An operator with so many outputs.
    pub fn outputs(&mut self, op: OpRef, inputs: &[Option<Value>], n: usize) -> Vec<Value> {
        let node = self.node(op, inputs, n);
        (0..n).map(|slot| Value { node, slot: slot as u32 }).collect()
    }

    fn node(&mut self, op: OpRef, inputs: &[Option<Value>], n: usize) -> crate::NodeId {
        let graph = self.builder.graph();
        let operands: Vec<Option<Input<'_>>> = inputs
            .iter()
            .map(|it| it.map(|it| Input { ty: graph.ty(it), value: graph.constant(it) }))
            .collect();
        let mut types = match op.infer(&operands, n) {
            Ok(types) => types,
            Err(error) => {
                self.error.get_or_insert(error);
                Vec::new()
            }
        };
        types.resize(n, Type::Unknown);
        let name = format!("{}/{}", self.prefix, op.name());
        let outputs =
            types.into_iter().map(|ty| Output::new(self.names.unique_value(&name), ty)).collect();
        self.builder.op("", op, inputs.to_vec(), outputs)
    }

    /// Adds what is known of a value to its type.
    pub fn refine(&mut self, value: Value, ty: &Type) {
        let old = self.ty(value);
        match old.meet(ty) {
            Some(both) if both != *old => self.builder.set_type(value, both),
            Some(_) => {}
            None => {
                let name = self.graph().value_name(value);
                let error = TypeError::other(name, format!("is {old}, not {ty}"));
                self.error.get_or_insert(error);
            }
        }
    }

    /// Renames a value; the name is made unique.
    pub fn rename(&mut self, value: Value, name: &str) {
        let name = self.names.unique_value(name);
        self.builder.rename(value, name);
    }

    /// The first type that did not fit since the last call.
    pub fn error(&mut self) -> Option<TypeError> {
        self.error.take()
    }

    /// The graph with these outputs.
    pub fn finish(mut self, outputs: Vec<Value>) -> Graph {
        self.builder.set_outputs(outputs);
        // Nodes only read what was there before them, so there is no cycle to look for.
        self.builder.into_graph()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qcc_tensor::DType;

    use super::*;
    use crate::{Opaque, verify};

    #[test]
    fn nodes_stand_behind_what_is_there() {
        let mut b = GraphBuilder::new("g");
        let x = b.input("x", Type::tensor(DType::F32, [2usize]), None);
        b.set_outputs(vec![x]);
        let mut b = Emitter::on(b.finish().unwrap());
        b.set_prefix("x");
        let c = b.constant(Tensor::scalar(2f32));
        assert_eq!(b.constant(Tensor::scalar(2f32)), c);
        assert_ne!(b.constant(Tensor::scalar(2i32)), c);
        let opaque = |name: &str| {
            Arc::new(Opaque { domain: String::new(), name: name.into(), attrs: Vec::new() })
        };
        let y = b.op(opaque("A"), &[x, c]);
        let z = b.op_with(opaque("A"), &[Some(y), None]);
        b.refine(z, &Type::tensor(DType::F32, [2usize]));
        assert_eq!(b.error(), None);
        b.refine(z, &Type::tensor(DType::F32, [3usize]));
        assert!(b.error().is_some());
        let graph = b.finish(vec![x, z]);
        assert_eq!(verify(&graph), []);
        assert_eq!(graph.value_name(z), "x/A_2");
        assert_eq!(graph.topo().last(), Some(&z.node));
        let error = NotDifferentiable::new("d", "A", "form");
        assert_eq!(error.to_string(), "d::A has no derivative: form");
    }
}
