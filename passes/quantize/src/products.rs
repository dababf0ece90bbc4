//! Which nodes multiply by weights, be they floats, codes or what follows from codes.

use qcc_ir::{Graph, Kind, Node, NodeId, Value};
use qcc_ops::transpose::Transpose;

use crate::per_node::PerNode;

/// What depends on an input of the graph that has no default; `order` has all nodes, each after
/// those that it reads.
pub(crate) fn varies(graph: &Graph, order: &[NodeId]) -> PerNode<bool> {
    let mut varies = PerNode::new(graph);
    for &id in order {
        let Some(node) = graph.node(id) else { continue };
        let is_varied = match &node.kind {
            Kind::Input(default) => default.is_none(),
            Kind::Const(_) => false,
            Kind::Capture => true,
            Kind::Op(op) => !op.is_pure() || node.uses().any(|it| varies.get(it.node)),
        };
        varies.set(id, is_varied);
    }
    varies
}

/// Dimensions of the matrices that a node multiplies by and that do not vary.
pub(crate) fn matrices(graph: &Graph, node: &Node, varies: &PerNode<bool>) -> Vec<Vec<usize>> {
    if !is_product(graph, node) {
        return Vec::new();
    }
    let fixed = node.inputs.iter().flatten().filter(|it| !varies.get(it.node));
    fixed.filter_map(|&it| dims_of(graph, it)).filter(|it| is_matrix(it)).collect()
}

/// Whether an operator multiplies by the matrices among its operands. One whose inside is not
/// known is taken to do so.
fn is_product(graph: &Graph, node: &Node) -> bool {
    let Some(op) = node.op() else { return false };
    match op.domain() {
        "" => matches!(
            op.name(),
            "MatMul"
                | "Gemm"
                | "Einsum"
                | "Conv"
                | "ConvTranspose"
                | "LSTM"
                | "GRU"
                | "RNN"
                | "MatMulInteger"
                | "ConvInteger"
                | "QLinearMatMul"
                | "QLinearConv"
        ),
        "com.microsoft" => matches!(
            op.name(),
            "MatMulNBits"
                | "FusedMatMul"
                | "FusedGemm"
                | "FusedConv"
                | "Attention"
                | "QAttention"
                | "QGemm"
                | "MoE"
                | "QMoE"
                | "DynamicQuantizeMatMul"
                | "MatMulIntegerToFloat"
        ),
        domain => graph.functions().get(domain, op.name()).is_some() || domain == "ai.qcc",
    }
}

/// Whether at least two dimensions are longer than 1.
pub(crate) fn is_matrix(dims: &[usize]) -> bool {
    dims.iter().filter(|&&it| it > 1).count() >= 2
}

/// Dimensions of a value that follows from constants: where types were not inferred, those of
/// what it is made from, as it is transposed on the way.
pub(crate) fn dims_of(graph: &Graph, value: Value) -> Option<Vec<usize>> {
    let (mut value, mut turns) = (value, Vec::new());
    let mut dims = loop {
        if let Some(dims) = graph.ty(value).known_dims() {
            break dims;
        }
        let node = graph.node(value.node)?;
        turns.extend(node.op().and_then(|it| it.is::<Transpose>()));
        value = (*node.inputs.first()?)?;
    };
    for turn in turns.iter().rev() {
        let order = turn.order(dims.len()).ok()?;
        dims = order.iter().filter_map(|it| dims.get(*it)).copied().collect();
    }
    Some(dims)
}
