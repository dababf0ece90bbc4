//! The graph: nodes with ordered operands, mirrored by petgraph edges.
//!
//! Operands are an ordered list in each node, since ONNX has absent ones and positions matter.
//! The edges of the petgraph repeat them for its algorithms and for finding users.

use std::ops::Index;
use std::sync::Arc;

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use qcc_tensor::Tensor;

use crate::{Functions, Kind, Node, NodeId, Place, Type, Value};

/// A graph of operators, constants and inputs.
///
/// Reading is by [`NodeId`] and [`Value`]; [`Graph::topo`] gives an order that depends only on the
/// graph. Indexing with an id that was removed is a bug and panics; [`Graph::node`] does not.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    name: String,
    nodes: StableDiGraph<Entry, Edge>,
    /// Position in `nodes` of each id ever given; `None` once it is removed.
    index: Vec<Option<NodeIndex>>,
    inputs: Vec<NodeId>,
    captures: Vec<NodeId>,
    outputs: Vec<Value>,
    functions: Arc<Functions>,
    created: u32,
}

#[derive(Clone, Debug)]
struct Entry {
    id: NodeId,
    node: Node,
}

/// The output slot that an operand reads.
#[derive(Clone, Copy, Debug)]
struct Edge {
    slot: u32,
}

impl Graph {
    /// Name of the graph, as in ONNX.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Inputs in order. Captured values of a region are not among them.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// In a region: nodes that stand for values of the graph around it.
    pub fn captures(&self) -> &[NodeId] {
        &self.captures
    }

    /// Outputs in order; one value may be listed twice.
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// Functions that nodes of this graph, of its regions and of the functions themselves may call.
    /// The outermost graph has them.
    pub fn functions(&self) -> &Functions {
        &self.functions
    }

    /// The same graph with other outputs; `None` when one of them does not exist. For taking out
    /// values that no output shows, and to leave the graph itself as it is.
    pub fn with_outputs(&self, outputs: Vec<Value>) -> Option<Self> {
        let is_there = |it: &Value| self.output(*it).is_some_and(|it| !it.name.is_empty());
        outputs.iter().all(is_there).then(|| Self { outputs, ..self.clone() })
    }

    /// A node, or `None` if it was removed.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        let index = (*self.index.get(id.index())?)?;
        self.nodes.node_weight(index).map(|it| &it.node)
    }

    /// All nodes in order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.index.iter().flatten().map(|&index| {
            let entry = &self.nodes[index];
            (entry.id, &entry.node)
        })
    }

    /// Number of nodes, inputs and constants included; regions are not counted.
    pub fn len(&self) -> usize {
        self.nodes.node_count()
    }

    /// Whether it has no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more than the largest id ever given.
    pub fn id_bound(&self) -> usize {
        self.index.len()
    }

    /// Type of a value; [`Type::Unknown`] if it does not exist.
    pub fn ty(&self, value: Value) -> &Type {
        static UNKNOWN: Type = Type::Unknown;
        self.output(value).map_or(&UNKNOWN, |it| &it.ty)
    }

    /// Name of a value; empty if it does not exist.
    pub fn value_name(&self, value: Value) -> &str {
        self.output(value).map_or("", |it| &it.name)
    }

    /// The tensor of a value that is a constant of this graph.
    pub fn constant(&self, value: Value) -> Option<&Tensor> {
        self.node(value.node)?.constant()
    }

    /// Nodes that read a value, each once, in order of place.
    pub fn users(&self, value: Value) -> Vec<NodeId> {
        let Some(&Some(index)) = self.index.get(value.node.index()) else { return Vec::new() };
        let mut walk = self.nodes.neighbors_directed(index, Direction::Outgoing).detach();
        let mut users = Vec::new();
        while let Some((edge, target)) = walk.next(&self.nodes) {
            if self.nodes[edge].slot == value.slot {
                let entry = &self.nodes[target];
                users.push((entry.node.place, entry.id));
            }
        }
        users.sort_unstable();
        users.dedup();
        users.into_iter().map(|it| it.1).collect()
    }

    /// Number of operands and captures that read a value, and of graph outputs that are it.
    pub fn n_uses(&self, value: Value) -> usize {
        let Some(&Some(index)) = self.index.get(value.node.index()) else { return 0 };
        let reads = self
            .nodes
            .edges_directed(index, Direction::Outgoing)
            .filter(|it| it.weight().slot == value.slot)
            .count();
        reads + self.outputs.iter().filter(|&&it| it == value).count()
    }

    /// Whether a value is an output of the graph.
    pub fn is_output(&self, value: Value) -> bool {
        self.outputs.contains(&value)
    }

    /// The outputs of a node as values.
    pub fn values_of(&self, id: NodeId) -> impl Iterator<Item = Value> + use<> {
        let count = self.node(id).map_or(0, |it| it.outputs.len());
        (0..count).map(move |slot| Value { node: id, slot: slot as u32 })
    }

    fn output(&self, value: Value) -> Option<&crate::Output> {
        self.node(value.node)?.outputs.get(value.slot as usize)
    }

    // What follows changes the graph, and is for the builder and for patches.

    pub(crate) fn set_name(&mut self, name: String) {
        self.name = name;
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        let index = (*self.index.get(id.index())?)?;
        self.nodes.node_weight_mut(index).map(|it| &mut it.node)
    }

    /// Adds a node; its operands must be connected with [`Graph::reconnect`].
    pub(crate) fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.index.len()).unwrap_or(u32::MAX));
        match node.kind {
            Kind::Input(_) => self.inputs.push(id),
            Kind::Capture => self.captures.push(id),
            Kind::Const(_) | Kind::Op(_) => {}
        }
        let index = self.nodes.add_node(Entry { id, node });
        self.index.push(Some(index));
        id
    }

    /// Makes the edges into a node those that its operands and captures name.
    pub(crate) fn reconnect(&mut self, id: NodeId) {
        let Some(&Some(index)) = self.index.get(id.index()) else { return };
        let mut walk = self.nodes.neighbors_directed(index, Direction::Incoming).detach();
        while let Some((edge, _)) = walk.next(&self.nodes) {
            self.nodes.remove_edge(edge);
        }
        let uses: Vec<Value> = self.nodes[index].node.uses().collect();
        for value in uses {
            if let Some(&Some(source)) = self.index.get(value.node.index()) {
                self.nodes.add_edge(source, index, Edge { slot: value.slot });
            }
        }
    }

    pub(crate) fn remove(&mut self, id: NodeId) -> Option<Node> {
        let index = self.index.get_mut(id.index())?.take()?;
        self.inputs.retain(|&it| it != id);
        self.captures.retain(|&it| it != id);
        self.nodes.remove_node(index).map(|it| it.node)
    }

    pub(crate) fn set_outputs(&mut self, outputs: Vec<Value>) {
        self.outputs = outputs;
    }

    pub(crate) fn set_functions(&mut self, functions: Arc<Functions>) {
        self.functions = functions;
    }

    pub(crate) fn next_place(&mut self, anchor: Place) -> Place {
        self.created += 1;
        Place { position: anchor.position, creation: self.created }
    }

    /// Values read by the edges into a node: what the verifier compares with its operands.
    pub(crate) fn edges_into(&self, id: NodeId) -> Vec<Value> {
        let Some(&Some(index)) = self.index.get(id.index()) else { return Vec::new() };
        let mut walk = self.nodes.neighbors_directed(index, Direction::Incoming).detach();
        let mut values = Vec::new();
        while let Some((edge, source)) = walk.next(&self.nodes) {
            values.push(Value { node: self.nodes[source].id, slot: self.nodes[edge].slot });
        }
        values
    }
}

impl Index<NodeId> for Graph {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        match self.index.get(id.index()) {
            Some(&Some(index)) => &self.nodes[index].node,
            _ => panic!("node {id:?} was removed"),
        }
    }
}
