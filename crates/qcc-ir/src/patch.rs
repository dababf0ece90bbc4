//! Patches: the only way to change a graph that exists.
//!
//! A pass collects new nodes, replacements and rewired operands in a [`Patch`] while it reads the
//! graph. Applying it checks types and names first, moves the names of replaced values to what
//! replaces them, and removes what nothing reads any more.

use qcc_tensor::Tensor;

use crate::{Kind, Node, NodeId, OpRef, Output, Place, Region, Scope, Type, Value};

/// Why a patch cannot be applied. Each is a mistake of the pass that made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It names a node or value that does not exist.
    #[error("{pass}: {what} does not exist")]
    Missing {
        /// The pass.
        pass: &'static str,
        /// What is missing.
        what: String,
    },
    /// The replacement has another type.
    #[error("{pass}: '{name}' is {old}, its replacement is {new}")]
    Type {
        /// The pass.
        pass: &'static str,
        /// The value.
        name: String,
        /// Its type.
        old: String,
        /// The type of what replaces it.
        new: String,
    },
    /// A graph output would lose its name.
    #[error("{pass}: graph output '{name}' would be renamed")]
    Output {
        /// The pass.
        pass: &'static str,
        /// The output.
        name: String,
    },
    /// The result would have a cycle.
    #[error("{pass}: the result has a cycle")]
    Cycle {
        /// The pass.
        pass: &'static str,
    },
}

/// A change of one graph, to be applied whole.
#[derive(Clone, Debug)]
pub struct Patch {
    pub(crate) pass: &'static str,
    pub(crate) scope: Scope,
    anchor: Option<NodeId>,
    pub(crate) added: Vec<Added>,
    pub(crate) replaced: Vec<(Value, Value)>,
    pub(crate) rewired: Vec<(NodeId, usize, Value)>,
    pub(crate) types: Vec<(Value, Type)>,
    pub(crate) dropped: Vec<NodeId>,
}

/// A node that is not in the graph yet.
#[derive(Clone, Debug)]
pub(crate) enum Added {
    Node { anchor: Option<NodeId>, node: Node },
    Capture { scope: Scope, value: Value },
}

/// Ids of nodes that are not in the graph yet count down from here.
const FIRST_NEW: u32 = u32::MAX - 1;

impl Patch {
    /// An empty patch of the outermost graph.
    pub fn new(pass: &'static str) -> Self {
        Self::within(pass, Scope::root())
    }

    /// An empty patch of the graph at `scope`.
    pub fn within(pass: &'static str, scope: Scope) -> Self {
        Self {
            pass,
            scope,
            anchor: None,
            added: Vec::new(),
            replaced: Vec::new(),
            rewired: Vec::new(),
            types: Vec::new(),
            dropped: Vec::new(),
        }
    }

    /// The pass that made it.
    pub fn pass(&self) -> &'static str {
        self.pass
    }

    /// Which graph it changes.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What is added from here on stands where `node` stands.
    pub fn at(&mut self, node: NodeId) {
        self.anchor = Some(node);
    }

    /// Adds a constant. `name` is made unique when it is taken.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Value {
        let output = Output::new(name, Type::of(&tensor));
        let node = self.add("", Kind::Const(tensor), Vec::new(), vec![output]);
        Value { node, slot: 0 }
    }

    /// Adds an operator. Names of the node and of its outputs are made unique when they are
    /// taken; those of outputs that replace a value are taken from it.
    pub fn op(
        &mut self,
        name: &str,
        op: OpRef,
        inputs: Vec<Option<Value>>,
        outputs: Vec<Output>,
    ) -> NodeId {
        self.add(name, Kind::Op(op), inputs, outputs)
    }

    /// Adds an operator with one output, named like the node.
    pub fn op1(&mut self, name: &str, op: OpRef, inputs: Vec<Option<Value>>, ty: Type) -> Value {
        let node = self.op(name, op, inputs, vec![Output::new(name, ty)]);
        Value { node, slot: 0 }
    }

    /// Adds an operator with graphs inside, whose captures are values of the patch or of the
    /// graph. Names inside are made unique as well.
    pub fn op_with_regions(
        &mut self,
        name: &str,
        op: OpRef,
        inputs: Vec<Option<Value>>,
        outputs: Vec<Output>,
        regions: Vec<Region>,
    ) -> NodeId {
        let id = self.add(name, Kind::Op(op), inputs, outputs);
        if let Some(Added::Node { node, .. }) = self.added.last_mut() {
            node.regions = regions;
        }
        id
    }

    /// Makes a value of an enclosing graph visible in the graph that is changed.
    pub fn capture(&mut self, scope: &Scope, value: Value) -> Value {
        if *scope == self.scope {
            return value;
        }
        self.added.push(Added::Capture { scope: scope.clone(), value });
        Value { node: new_id(self.added.len() - 1), slot: 0 }
    }

    /// Lets every reader of `old` read `new` instead, which takes its name.
    pub fn replace(&mut self, old: Value, new: Value) {
        self.replaced.push((old, new));
    }

    /// Replaces the only output of `node` by a constant.
    pub fn replace_with_const(&mut self, node: NodeId, tensor: Tensor) {
        self.at(node);
        let new = self.constant("folded", tensor);
        self.replace(Value { node, slot: 0 }, new);
    }

    /// Lets one operand of one node read `new`.
    pub fn rewire(&mut self, node: NodeId, operand: usize, new: Value) {
        self.rewired.push((node, operand, new));
    }

    /// Sets the type of a value to what is now known.
    pub fn set_type(&mut self, value: Value, ty: Type) {
        self.types.push((value, ty));
    }

    /// Removes a node that nothing reads.
    pub fn drop_unused(&mut self, node: NodeId) {
        self.dropped.push(node);
    }

    /// Whether it changes anything but types.
    pub fn is_structural(&self) -> bool {
        !(self.replaced.is_empty() && self.rewired.is_empty() && self.dropped.is_empty())
    }

    fn add(
        &mut self,
        name: &str,
        kind: Kind,
        inputs: Vec<Option<Value>>,
        outputs: Vec<Output>,
    ) -> NodeId {
        let (name, place) = (name.to_owned(), Place::default());
        let node = Node { name, kind, inputs, outputs, regions: Vec::new(), place };
        self.added.push(Added::Node { anchor: self.anchor, node });
        new_id(self.added.len() - 1)
    }

    pub(crate) fn missing(&self, what: impl Into<String>) -> PatchError {
        PatchError::Missing { pass: self.pass, what: what.into() }
    }
}

fn new_id(position: usize) -> NodeId {
    NodeId(FIRST_NEW - position as u32)
}

/// Which of the added nodes an id of a patch stands for; `None` for one of the graph.
pub(crate) fn added_position(id: NodeId, n_added: usize) -> Option<usize> {
    let position = FIRST_NEW.checked_sub(id.0)? as usize;
    (position < n_added).then_some(position)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Graph, GraphBuilder, Opaque, verify};

    fn op(name: &str) -> OpRef {
        Arc::new(Opaque { domain: String::new(), name: name.into(), attrs: Vec::new() })
    }

    fn out(name: &str) -> Vec<Output> {
        vec![Output::new(name, Type::Unknown)]
    }

    /// A branch with a value of a name that is taken outside.
    fn branch() -> Graph {
        let mut inner = GraphBuilder::new("then");
        let x = inner.capture("x", Type::Unknown);
        let node = inner.op("n", op("M"), vec![Some(x)], out("y"));
        inner.set_outputs(vec![Value { node, slot: 0 }]);
        inner.finish().unwrap()
    }

    #[test]
    fn graphs_inside_new_nodes_get_names_of_their_own() {
        let mut b = GraphBuilder::new("g");
        let x = b.input("x", Type::Unknown, None);
        let y = Value { node: b.op("n", op("A"), vec![Some(x)], out("y")), slot: 0 };
        b.set_outputs(vec![y]);
        let mut graph = b.finish().unwrap();

        let mut patch = Patch::new("test");
        patch.at(y.node);
        let a = patch.op1("a", op("B"), vec![Some(x)], Type::Unknown);
        let region = Region { attr: "then_branch".into(), graph: branch(), captures: vec![a] };
        let node = patch.op_with_regions("if", op("If"), vec![Some(x)], out("z"), vec![region]);
        patch.replace(y, Value { node, slot: 0 });
        graph.apply(vec![patch]).unwrap();

        assert_eq!(verify(&graph), []);
        let node = &graph[graph.outputs()[0].node];
        let region = &node.regions[0];
        assert_eq!(graph.value_name(region.captures[0]), "a");
        let names = |it: &Graph| -> Vec<String> {
            it.nodes().map(|it| it.1.outputs[0].name.clone()).collect()
        };
        assert_eq!(names(&region.graph), ["x_2", "y_2"]);
    }
}
