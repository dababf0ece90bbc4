//! From the operand of a product back to the constant it is made from.
//!
//! Exporters put `Identity`, `Cast`, `Transpose`, `Reshape` and the like between a weight and the
//! product that reads it, and a branch reads weights of the graph around it. [`trace`] follows
//! them and says how the bytes of the constant are the rows of the weight.

use qcc_ir::{Graph, Kind, NodeId, Scope, Value};
use qcc_quant::rows::Order;
use qcc_tensor::DType;

use crate::quant::{DOMAIN, Form};
use crate::transpose::Transpose;

/// A weight and the way from it to an operand.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// Graph of the source.
    pub scope: Scope,
    /// The constant, or a `Quant` or `Packed` of one.
    pub source: Value,
    /// Operators between, from the source on.
    pub chain: Vec<(Scope, NodeId)>,
    /// Whether the last two axes of the operand stand in the other order in the bytes.
    pub is_transposed: bool,
    /// Dimensions of the operand.
    pub dims: Vec<usize>,
    /// Element type of the operand.
    pub dtype: DType,
}

impl Traced {
    /// The operand as rows, when it has two axes longer than 1 or exactly two axes: `outputs_last`
    /// says whether its last axis is that of the outputs, as in `MatMul`, or the one before.
    pub fn form(&self, outputs_last: bool) -> Option<Form> {
        let (&last, rest) = self.dims.split_last()?;
        let (&before, batch) = rest.split_last()?;
        if batch.iter().any(|&it| it != 1) {
            return None;
        }
        let (n, k) = if outputs_last { (last, before) } else { (before, last) };
        let order = if outputs_last == self.is_transposed { Order::Nk } else { Order::Kn };
        Some(Form { n, k, order })
    }
}

/// Operators that only say otherwise how the elements of a constant are read.
const STEPS: &[&str] =
    &["Identity", "Cast", "CastLike", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"];

/// Whether a node is a step between a weight and the product that reads it.
pub fn is_step(graph: &Graph, id: NodeId) -> bool {
    let op = graph.node(id).and_then(|it| it.op());
    op.is_some_and(|it| STEPS.iter().any(|name| it.is_named(name)))
}

/// Follows an operand back to a constant, or to a `Quant` or `Packed`. `None` when something else
/// is on the way, or the elements do not stay in rows.
pub fn trace(root: &Graph, scope: &Scope, operand: Value) -> Option<Traced> {
    follow(root, scope, operand, |it| match it {
        Kind::Const(_) => true,
        Kind::Op(op) => op.domain() == DOMAIN,
        Kind::Input(_) | Kind::Capture => false,
    })
}

/// Follows an operand back to an input that has a default, which a caller may override; else as
/// [`trace`].
pub fn trace_default(root: &Graph, scope: &Scope, operand: Value) -> Option<Traced> {
    follow(root, scope, operand, |it| matches!(it, Kind::Input(Some(_))))
}

fn follow(
    root: &Graph,
    scope: &Scope,
    operand: Value,
    is_source: fn(&Kind) -> bool,
) -> Option<Traced> {
    let (mut at, mut value) = root.resolve(scope, operand)?;
    let mut chain = Vec::new();
    loop {
        let graph = root.at(&at)?;
        match &graph.node(value.node)?.kind {
            kind if is_source(kind) => break,
            Kind::Op(_) if is_step(graph, value.node) => {
                let input = (*graph.node(value.node)?.inputs.first()?)?;
                chain.push((at.clone(), value.node));
                (at, value) = root.resolve(&at, input)?;
            }
            _ => return None,
        }
    }
    chain.reverse();
    let source = root.at(&at)?.ty(value);
    let mut dtype = source.dtype()?;
    let mut dims = source.known_dims()?;
    let mut is_transposed = false;
    for (scope, id) in &chain {
        let graph = root.at(scope)?;
        let op = graph.node(*id)?.op()?;
        let ty = graph.ty(Value { node: *id, slot: 0 });
        if let Some(transpose) = op.is::<Transpose>() {
            let perm = transpose.order(dims.len()).ok()?;
            // Axes of length 1 may go anywhere.
            let long: Vec<usize> = perm.iter().copied().filter(|&it| dims[it] != 1).collect();
            if long.windows(2).all(|it| it[0] < it[1]) {
                // The others stay in order.
            } else if long.len() == 2 {
                is_transposed = !is_transposed;
            } else {
                return None;
            }
            dims = perm.iter().map(|&it| dims[it]).collect();
        } else {
            let after = ty.known_dims()?;
            let long = |dims: &[usize]| -> Vec<usize> {
                dims.iter().copied().filter(|&it| it != 1).collect()
            };
            if is_transposed && long(&dims) != long(&after) {
                return None;
            }
            dims = after;
            dtype = ty.dtype()?;
        }
    }
    Some(Traced { scope: at, source: value, chain, is_transposed, dims, dtype })
}
