//! Nodes, values and regions.

use std::fmt;

use qcc_tensor::Tensor;

use crate::{Graph, OpRef, Type};

/// Names a node of one graph for its whole life; never given to another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// The number, for tables beside the graph.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// One output of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The node.
    pub node: NodeId,
    /// Which of its outputs, from 0.
    pub slot: u32,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{}", self.node, self.slot)
    }
}

/// Where a node stands in the source: ties in the topological order are broken by it. A node that
/// a patch makes has the position of the node that it replaces, and a creation number above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Position in the source.
    pub position: u32,
    /// 0 for nodes of the source, else the order of creation.
    pub creation: u32,
}

/// Name and type of one output.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Output {
    /// Name, as in ONNX; empty for an optional output that is absent.
    pub name: String,
    /// What is known about it.
    pub ty: Type,
}

impl Output {
    /// A named output.
    pub fn new(name: impl Into<String>, ty: Type) -> Self {
        Self { name: name.into(), ty }
    }
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// An input of the graph, with the default of an initializer that a caller may override.
    Input(Option<Tensor>),
    /// A constant.
    Const(Tensor),
    /// In a region: a value of the graph around it.
    Capture,
    /// An operator.
    Op(OpRef),
}

/// A graph inside a node: a branch of `If`, the body of `Loop` or `Scan`.
#[derive(Clone, Debug)]
pub struct Region {
    /// The attribute that holds it, such as `then_branch`.
    pub attr: String,
    /// The graph. Its [`Kind::Capture`] nodes stand for values from outside.
    pub graph: Graph,
    /// For each node of `graph.captures()`, in that order, the value of the outer graph.
    pub captures: Vec<Value>,
}

/// A node with its ordered operands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its own name; may be empty.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Operands; `None` for an optional one that is absent.
    pub inputs: Vec<Option<Value>>,
    /// Outputs with their names and types.
    pub outputs: Vec<Output>,
    /// Graphs inside.
    pub regions: Vec<Region>,
    /// Where it stands in the source.
    pub place: Place,
}

impl Node {
    /// The operator, if it is one.
    pub fn op(&self) -> Option<&OpRef> {
        match &self.kind {
            Kind::Op(op) => Some(op),
            Kind::Input(_) | Kind::Const(_) | Kind::Capture => None,
        }
    }

    /// The tensor, if it is a constant.
    pub fn constant(&self) -> Option<&Tensor> {
        match &self.kind {
            Kind::Const(it) => Some(it),
            Kind::Input(_) | Kind::Op(_) | Kind::Capture => None,
        }
    }

    /// Every value that it reads: operands, then what its regions capture.
    pub fn uses(&self) -> impl Iterator<Item = Value> {
        let captured = self.regions.iter().flat_map(|it| it.captures.iter().copied());
        self.inputs.iter().copied().flatten().chain(captured)
    }
}
