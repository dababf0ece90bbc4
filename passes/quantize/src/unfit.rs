//! Constants that a product reads and that are no weights as they stand: vectors, and matrices that
//! the model makes of constants while it runs. They stay in float, which is to be said of them as of
//! any other.

use qcc_ir::{Graph, Kind, Node, NodeId, Scope, Value};
use qcc_ops::weight::{Traced, trace, trace_default};
use qcc_tensor::Tensor;

use crate::sites::{MIN_ELEMENTS, Role, Site, Skip};

/// More operators than this between constants and a product are not looked through.
const MAX_STEPS: usize = 64;

/// Every such use, in topological order, scope by scope; each has the reason against it. Types must
/// have been inferred.
pub fn find_unfit(root: &Graph) -> Vec<Site> {
    let mut found = Vec::new();
    for scope in root.scopes() {
        let Some(graph) = root.at(&scope) else { continue };
        for id in graph.topo() {
            let Some(node) = graph.node(id).filter(|it| is_product(it)) else { continue };
            for (operand, value) in node.inputs.iter().enumerate().take(2) {
                let Some((weight, why)) = value.and_then(|it| read(root, &scope, it)) else {
                    continue;
                };
                let why = if operand == 0 { Skip::LeftOperand } else { why };
                found.extend(site(root, (&scope, id, node), operand, weight, why));
            }
        }
    }
    found
}

fn is_product(node: &Node) -> bool {
    let Some(op) = node.op() else { return false };
    let name = (op.domain(), op.name());
    matches!(name, ("", "MatMul" | "Gemm") | ("com.microsoft", "FusedMatMul"))
}

/// The constant behind an operand that is no weight, and why it is none.
fn read(root: &Graph, scope: &Scope, operand: Value) -> Option<(Traced, Skip)> {
    if trace_default(root, scope, operand).is_some() {
        return None; // a caller may give another
    }
    if let Some(weight) = trace(root, scope, operand) {
        let is_vector = matches!(weight.dims[..], [len] if len > 1) && weight.dtype.is_float();
        let is_constant = root.at(&weight.scope)?.constant(weight.source).is_some();
        return (is_vector && is_constant).then_some((weight, Skip::OneRow));
    }
    let (at, value) = root.resolve(scope, operand)?;
    let graph = root.at(&at)?;
    let by = graph.node(value.node)?.op()?.name().to_owned();
    let (at_source, source, tensor) = largest(root, (at.clone(), value))?;
    let ty = graph.ty(value);
    let dims = ty.known_dims().unwrap_or_else(|| tensor.dims().into());
    let is_large = dims.len() > 1 && dims.iter().product::<usize>() >= MIN_ELEMENTS;
    // Codes that are turned into floats are no weight in float.
    let is_float = tensor.dtype().is_float();
    let (scope, dtype) = (at_source, tensor.dtype());
    let weight = Traced { scope, source, chain: Vec::new(), is_transposed: false, dims, dtype };
    (is_large && is_float).then_some((weight, Skip::Made(by)))
}

/// The largest of the constants that a value is made of; `None` when it is made of anything else.
fn largest(root: &Graph, from: (Scope, Value)) -> Option<(Scope, Value, &Tensor)> {
    let mut found: Option<(Scope, Value, &Tensor)> = None;
    let mut open = vec![from];
    let mut steps = 0;
    while let Some((scope, value)) = open.pop() {
        let node = root.at(&scope)?.node(value.node)?;
        match &node.kind {
            Kind::Const(tensor) => {
                if found.as_ref().is_none_or(|it| it.2.len() < tensor.len()) {
                    found = Some((scope, value, tensor));
                }
            }
            Kind::Op(op) if op.is_pure() && node.regions.is_empty() && steps < MAX_STEPS => {
                steps += 1;
                for input in node.inputs.iter().flatten() {
                    open.push(root.resolve(&scope, *input)?);
                }
            }
            Kind::Op(_) | Kind::Input(_) | Kind::Capture => return None,
        }
    }
    found
}

fn site(
    root: &Graph,
    (scope, id, node): (&Scope, NodeId, &Node),
    operand: usize,
    weight: Traced,
    why: Skip,
) -> Option<Site> {
    let name = root.at(&weight.scope)?.value_name(weight.source).to_owned();
    let output = || node.outputs.first().map_or_else(String::new, |it| it.name.clone());
    let label = if node.name.is_empty() { output() } else { node.name.clone() };
    let (scope, op) = (scope.clone(), node.op()?.name().to_owned());
    let (role, form) = (Role::Product, Err(why));
    Some(Site { scope, node: id, label, op, operand, role, weight, name, form })
}
