//! What flows where: which values carry the model's main computation, and which only help it.
//!
//! *Heavy* is what a product by a weight reaches. Of what none reaches, *light*, only that belongs
//! to the main path which begins at a table lookup or a float input and is the data of a product:
//! embeddings do, while masks, rotary tables and caches, which meet heavy values first, do not.
//! A shape carries no data, so `Shape` ends every path.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use qcc_ir::{Graph, Kind, Node, NodeId, Value};
use qcc_ops::nbits::MatMulNBits;
use qcc_tensor::DType;

use crate::per_node::PerNode;
use crate::products::{dims_of, is_matrix, matrices, varies};
use crate::sites::Site;

/// A node that multiplies by weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Product {
    /// Dimensions of each weight.
    pub(super) dims: Vec<Vec<usize>>,
    /// Elements of the weights.
    pub(super) params: u64,
}

/// The main path of a graph.
pub(super) struct Flow<'g> {
    pub(super) graph: &'g Graph,
    /// All nodes, each after those that it reads.
    pub(super) order: Vec<NodeId>,
    /// Depends on an input of the graph.
    pub(super) varies: PerNode<bool>,
    /// Belongs to the main path.
    pub(super) main: PerNode<bool>,
    /// Depends on the main path, be it on a shape only.
    pub(super) touched: PerNode<bool>,
    /// Lies on a main path to a sink.
    pub(super) live: PerNode<bool>,
    /// Nodes of the main path on the longest one that ends here.
    pub(super) depth: PerNode<u32>,
    /// Nodes of the main path on the longest one that begins here.
    pub(super) height: PerNode<u32>,
    /// Nodes that multiply by weights.
    pub(super) products: BTreeMap<NodeId, Product>,
    /// Where the main path begins.
    pub(super) sources: Vec<NodeId>,
    /// Nodes of the outputs that the rest leads to: no other output needs all their products.
    pub(super) sinks: Vec<NodeId>,
}

impl<'g> Flow<'g> {
    /// Finds the main path of the outermost graph.
    pub(super) fn of(graph: &'g Graph, sites: &[Site]) -> Self {
        let mut flow = Self {
            graph,
            order: graph.topo(),
            varies: PerNode::new(graph),
            main: PerNode::new(graph),
            touched: PerNode::new(graph),
            live: PerNode::new(graph),
            depth: PerNode::new(graph),
            height: PerNode::new(graph),
            products: BTreeMap::new(),
            sources: Vec::new(),
            sinks: Vec::new(),
        };
        flow.find_products(sites);
        flow.find_main();
        flow.find_sinks();
        flow
    }

    /// The nodes in order.
    pub(super) fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &'g Node)> {
        let graph = self.graph;
        self.order.iter().filter_map(move |&id| Some((id, graph.node(id)?)))
    }

    /// Nodes of the main path that a node reads data of.
    pub(super) fn main_operands(&self, node: &'g Node) -> impl Iterator<Item = NodeId> {
        data(self.graph, node).map(|it| it.node).filter(|&it| self.main.get(it))
    }

    /// Where a node stands, apart from the order in which the file has it: what it depends on stands
    /// before it. Only nodes that stand alike in every way are told apart by their number.
    pub(super) fn position(&self, id: NodeId) -> (u32, Reverse<u32>, NodeId) {
        (self.depth.get(id), Reverse(self.height.get(id)), id)
    }

    /// Whether a value is on the main path.
    pub(super) fn is_main(&self, value: Value) -> bool {
        self.main.get(value.node) && !is_beside(self.graph, value)
    }

    fn find_products(&mut self, sites: &[Site]) {
        let mut inside: BTreeMap<NodeId, Vec<&Site>> = BTreeMap::new();
        for site in sites {
            if let Some(step) = site.scope.0.first() {
                inside.entry(step.node).or_default().push(site);
            }
        }
        let varies = varies(self.graph, &self.order);
        let mut products = BTreeMap::new();
        for (id, node) in self.nodes() {
            if !varies.get(id) {
                continue;
            }
            let of_regions = inside.get(&id).into_iter().flatten();
            let of_regions = of_regions.filter(|it| is_matrix(&it.weight.dims));
            let mut dims: Vec<_> = of_regions.map(|it| it.weight.dims.clone()).collect();
            dims.extend(matrices(self.graph, node, &varies));
            if dims.is_empty() {
                continue;
            }
            dims.sort();
            let params = match node.op().and_then(|it| it.is::<MatMulNBits>()) {
                Some(op) => (op.k as u64).saturating_mul(op.n as u64),
                None => dims.iter().fold(0u64, |sum, it| sum.saturating_add(count(it))),
            };
            products.insert(id, Product { dims, params });
        }
        (self.varies, self.products) = (varies, products);
    }

    fn find_main(&mut self) {
        let mut heavy = PerNode::<bool>::new(self.graph);
        let mut begins = PerNode::<bool>::new(self.graph); // at a lookup or a float input
        for (id, node) in self.nodes() {
            let reads = |marks: &PerNode<bool>| data(self.graph, node).any(|it| marks.get(it.node));
            heavy.set(id, self.products.contains_key(&id) || reads(&heavy));
            begins.set(id, self.is_source(id, node) || reads(&begins));
        }
        let mut feeds = PerNode::<bool>::new(self.graph); // a product, by light values alone
        for (id, node) in self.nodes().rev() {
            if self.products.contains_key(&id) {
                product_data(self.graph, node).for_each(|it| feeds.set(it.node, true));
            } else if !heavy.get(id) && feeds.get(id) {
                data(self.graph, node).for_each(|it| feeds.set(it.node, true));
            }
        }
        let (mut main, mut touched) = (PerNode::new(self.graph), PerNode::new(self.graph));
        let mut depth = PerNode::new(self.graph);
        let mut sources = Vec::new();
        let mut heads = Vec::new();
        for (id, node) in self.nodes() {
            let is_main = heavy.get(id) || begins.get(id) && feeds.get(id);
            main.set(id, is_main);
            touched.set(id, is_main || node.uses().any(|it| touched.get(it.node)));
            if !is_main {
                continue;
            }
            let before = data(self.graph, node).map(|it| it.node).filter(|&it| main.get(it));
            let before = before.map(|it| depth.get(it)).max();
            depth.set(id, before.unwrap_or(0u32).saturating_add(1));
            if before.is_none() {
                heads.push(id);
                sources.extend((!heavy.get(id)).then_some(id));
            }
        }
        self.sources = if sources.is_empty() { heads } else { sources };
        (self.main, self.touched, self.depth) = (main, touched, depth);
    }

    /// Whether embeddings may begin here.
    fn is_source(&self, id: NodeId, node: &Node) -> bool {
        let is_float = || {
            let dtype = self.graph.ty(Value { node: id, slot: 0 }).dtype();
            dtype.is_none_or(|it| matches!(it, DType::F64 | DType::F32 | DType::F16 | DType::BF16))
        };
        match &node.kind {
            Kind::Input(default) => default.is_none() && is_float(),
            Kind::Op(op) => {
                let is_lookup = matches!(
                    (op.domain(), op.name()),
                    ("", "Gather")
                        | ("com.microsoft", "GatherBlockQuantized" | "EmbedLayerNormalization")
                );
                is_lookup
                    && self.varies.get(id)
                    && node.inputs.iter().flatten().any(|&it| {
                        !self.varies.get(it.node)
                            && dims_of(self.graph, it).is_some_and(|it| is_matrix(&it))
                    })
            }
            Kind::Const(_) | Kind::Capture => false,
        }
    }

    /// Outputs with the most products before them come first; one that needs no further product,
    /// such as a cache or a hidden state, is on the way to another one or beside it.
    fn find_sinks(&mut self) {
        let mut weight = PerNode::<u32>::new(self.graph);
        for (id, node) in self.nodes() {
            let before = self.main_operands(node).map(|it| weight.get(it)).max().unwrap_or(0);
            weight.set(id, before.saturating_add(self.products.contains_key(&id).into()));
        }
        let outputs = self.graph.outputs().iter().map(|it| it.node);
        let mut outputs: Vec<NodeId> = outputs.filter(|&it| self.main.get(it)).collect();
        outputs.sort_by_key(|&it| Reverse(weight.get(it))); // stable
        let mut seen = PerNode::<bool>::new(self.graph);
        for output in outputs {
            let mut adds = self.sinks.is_empty();
            self.reach(vec![output], &mut seen, &mut |id| adds |= self.products.contains_key(&id));
            if adds {
                self.sinks.push(output);
            }
        }
        let mut live = PerNode::new(self.graph);
        self.reach(self.sinks.clone(), &mut live, &mut |_| {});
        let mut height = PerNode::<u32>::new(self.graph);
        for (id, node) in self.nodes().rev().filter(|it| live.get(it.0)) {
            let here = height.get(id).saturating_add(1);
            height.set(id, here);
            for operand in self.main_operands(node) {
                height.set(operand, height.get(operand).max(here));
            }
        }
        (self.live, self.height) = (live, height);
    }

    /// Marks what some nodes read of the main path, themselves included, and tells what is new.
    fn reach(&self, from: Vec<NodeId>, seen: &mut PerNode<bool>, tell: &mut dyn FnMut(NodeId)) {
        let mut stack = from;
        while let Some(id) = stack.pop() {
            let Some(node) = self.graph.node(id).filter(|_| !seen.get(id)) else { continue };
            seen.set(id, true);
            tell(id);
            stack.extend(self.main_operands(node));
        }
    }
}

/// Values whose elements, and not only shapes, a node reads.
fn data(graph: &Graph, node: &Node) -> impl Iterator<Item = Value> {
    let name = node.op().filter(|it| it.domain().is_empty()).map_or("", |it| it.name());
    let most = match name {
        "Shape" | "Size" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => 0,
        "CastLike" => 1,
        _ => usize::MAX,
    };
    node.uses().take(most).filter(|it| !is_beside(graph, *it))
}

/// Whether a value is a mask that a node on the main path makes besides.
fn is_beside(graph: &Graph, value: Value) -> bool {
    let op = graph.node(value.node).filter(|_| value.slot == 1).and_then(|it| it.op());
    op.is_some_and(|it| it.name() == "EmbedLayerNormalization")
}

/// Values that a product multiplies by its weights. A bias, a mask or a cache is not among them.
fn product_data(graph: &Graph, node: &Node) -> impl Iterator<Item = Value> {
    let most = match node.op() {
        Some(op) if graph.functions().get(op.domain(), op.name()).is_some() => usize::MAX,
        _ if !node.regions.is_empty() => usize::MAX,
        Some(op) if matches!(op.name(), "MatMul" | "FusedMatMul" | "Gemm" | "Einsum") => 2,
        _ => 1,
    };
    node.uses().take(most)
}

fn count(dims: &[usize]) -> u64 {
    dims.iter().fold(1u64, |all, &it| all.saturating_mul(it as u64))
}
