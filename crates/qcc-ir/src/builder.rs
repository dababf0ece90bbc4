//! Building a graph from nothing: for the importer, the parser and tests.

use std::sync::Arc;

use qcc_tensor::Tensor;

use crate::{Functions, Graph, Kind, Node, NodeId, OpRef, Output, Place, Region, Type, Value};

/// A graph under construction. Nodes may name operands that are added later with
/// [`GraphBuilder::set_inputs`]; [`GraphBuilder::finish`] checks that there is no cycle.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: Graph,
    position: u32,
}

impl GraphBuilder {
    /// An empty graph of this name.
    pub fn new(name: &str) -> Self {
        let mut graph = Graph::default();
        graph.set_name(name.to_owned());
        Self { graph, position: 0 }
    }

    /// Goes on from a graph that exists: what is added stands behind all that is there.
    pub fn on(graph: Graph) -> Self {
        let last = graph.nodes().map(|it| it.1.place.position).max();
        Self { graph, position: last.map_or(0, |it| it.saturating_add(1)) }
    }

    /// Adds an input; `default` is an initializer that callers may override.
    pub fn input(&mut self, name: &str, ty: Type, default: Option<Tensor>) -> Value {
        self.leaf(Kind::Input(default), name, ty)
    }

    /// Adds a constant. Its type is that of the tensor.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Value {
        let ty = Type::of(&tensor);
        self.leaf(Kind::Const(tensor), name, ty)
    }

    /// Adds a value of the graph around a region. The region that will hold this graph lists the
    /// outer values in the order of these calls.
    pub fn capture(&mut self, name: &str, ty: Type) -> Value {
        self.leaf(Kind::Capture, name, ty)
    }

    /// Adds an operator with its outputs.
    pub fn op(
        &mut self,
        name: &str,
        op: OpRef,
        inputs: Vec<Option<Value>>,
        outputs: Vec<Output>,
    ) -> NodeId {
        self.node(name, Kind::Op(op), inputs, outputs)
    }

    /// Replaces the operands of a node.
    pub fn set_inputs(&mut self, id: NodeId, inputs: Vec<Option<Value>>) {
        if let Some(node) = self.graph.node_mut(id) {
            node.inputs = inputs;
            self.graph.reconnect(id);
        }
    }

    /// Gives regions to a node.
    pub fn set_regions(&mut self, id: NodeId, regions: Vec<Region>) {
        if let Some(node) = self.graph.node_mut(id) {
            node.regions = regions;
            self.graph.reconnect(id);
        }
    }

    /// Sets the outputs of the graph.
    pub fn set_outputs(&mut self, outputs: Vec<Value>) {
        self.graph.set_outputs(outputs);
    }

    /// Sets the functions that nodes may call.
    pub fn set_functions(&mut self, functions: Arc<Functions>) {
        self.graph.set_functions(functions);
    }

    /// Sets the type of a value.
    pub fn set_type(&mut self, value: Value, ty: Type) {
        if let Some(node) = self.graph.node_mut(value.node)
            && let Some(output) = node.outputs.get_mut(value.slot as usize)
        {
            output.ty = ty;
        }
    }

    /// Renames a value; the name must be free.
    pub(crate) fn rename(&mut self, value: Value, name: String) {
        if let Some(node) = self.graph.node_mut(value.node)
            && let Some(output) = node.outputs.get_mut(value.slot as usize)
        {
            output.name = name;
        }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph, of which the caller knows that it has no cycle.
    pub(crate) fn into_graph(self) -> Graph {
        self.graph
    }

    /// The graph.
    ///
    /// # Errors
    /// The names of the first outputs of the nodes on a cycle.
    pub fn finish(self) -> Result<Graph, Vec<String>> {
        match self.graph.cycle() {
            None => Ok(self.graph),
            Some(cycle) => Err(cycle
                .into_iter()
                .map(|id| {
                    let node = &self.graph[id];
                    let output = node.outputs.iter().find(|it| !it.name.is_empty());
                    output.map_or_else(|| node.name.clone(), |it| it.name.clone())
                })
                .collect()),
        }
    }

    fn leaf(&mut self, kind: Kind, name: &str, ty: Type) -> Value {
        let node = self.node("", kind, Vec::new(), vec![Output::new(name, ty)]);
        Value { node, slot: 0 }
    }

    fn node(
        &mut self,
        name: &str,
        kind: Kind,
        inputs: Vec<Option<Value>>,
        outputs: Vec<Output>,
    ) -> NodeId {
        let place = Place { position: self.position, creation: 0 };
        self.position += 1;
        let name = name.to_owned();
        let id = self.graph.add(Node { name, kind, inputs, outputs, regions: Vec::new(), place });
        self.graph.reconnect(id);
        id
    }
}
