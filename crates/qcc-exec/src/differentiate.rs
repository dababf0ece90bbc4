//! Reverse-mode differentiation of a graph into a graph.
//!
//! [`differentiate`] adds to a graph the nodes that compute vector-Jacobian products: from the
//! adjoint of some values, the seeds, the adjoints of others. The result is an ordinary graph, so it
//! is planned, run, printed and rewritten as any other.
//!
//! Only values between the two get an adjoint: those that depend on a value that is asked for, and
//! on which a seed depends. An adjoint is the sum over the readers of a value in the order of the
//! nodes, so results do not depend on how the graph was walked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Emitter, Graph, Io, Node, NodeId, NotDifferentiable, Type, TypeError, Value};
use qcc_ops::arith::Arith;
use qcc_ops::identity::Identity;
use qcc_tensor::DType;

use crate::error::Label;

/// A value of which the adjoint is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The value.
    pub value: Value,
    /// Its adjoint, a value of the graph of the same type. When absent, the result has an input for
    /// it, named like the value with `.grad` behind.
    pub adjoint: Option<Value>,
}

impl Seed {
    /// A value whose adjoint each run brings.
    pub fn fed(value: Value) -> Self {
        Self { value, adjoint: None }
    }
}

/// A graph that computes derivatives.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// The graph that was given, whose values keep their ids, with what computes the adjoints. Its
    /// outputs are those it had, then the adjoints that were asked for and are there.
    pub graph: Graph,
    /// The adjoint of each seed.
    pub seeds: Vec<Value>,
    /// The adjoint of each value that was asked for, named like it with `.grad` behind; `None`
    /// when no seed depends on it.
    pub wrt: Vec<Option<Value>>,
}

/// Why a graph has no derivative.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GradientError {
    /// A node on the way whose operator has none.
    #[error("{node}: {error}")]
    Node {
        /// The node.
        node: Label,
        /// Why.
        error: NotDifferentiable,
    },
    /// The nodes of a derivative do not fit together, mostly since types were not inferred before.
    #[error("{node}: {error}")]
    Type {
        /// The node whose derivative it is.
        node: Label,
        /// Why.
        error: TypeError,
    },
    /// A seed, or a value that is asked for, that is not there or holds no floats.
    #[error("'{name}' {what}")]
    Value {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

impl From<GradientError> for Diagnostic {
    fn from(error: GradientError) -> Self {
        let code = match error {
            GradientError::Node { .. } => codes::QCC0201,
            GradientError::Type { .. } | GradientError::Value { .. } => codes::QCC0202,
        };
        Self::error(code, error.to_string())
    }
}

/// Adds to a graph what computes the adjoints of `wrt` from those of `seeds`.
///
/// Types must have been inferred. Values that hold no floats, such as shapes, positions and masks,
/// have no adjoint, and nothing is asked of operators that only make those.
///
/// # Errors
/// When a node between `wrt` and the seeds has no derivative, named in the error; when the types of
/// values that are needed are not known; when a seed or a value of `wrt` is not there.
pub fn differentiate(
    graph: &Graph,
    seeds: &[Seed],
    wrt: &[Value],
) -> Result<Gradient, GradientError> {
    for &value in seeds.iter().map(|it| &it.value).chain(wrt) {
        check(graph, value)?;
    }
    let order = graph.topo();
    let active = active(graph, &order, wrt);
    let mut b = Emitter::on(graph.clone());
    let mut adjoints = Adjoints::default();
    let mut given = Vec::with_capacity(seeds.len());
    for seed in seeds {
        let ty = graph.ty(seed.value);
        let adjoint = match seed.adjoint {
            Some(it) if graph.ty(it).meet(ty).is_some() => it,
            Some(it) => return Err(wrong(graph, it, "is no adjoint of a seed: the types differ")),
            None => b.input(&named(graph, seed.value), ty.clone()),
        };
        adjoints.add(seed.value, adjoint);
        given.push(adjoint);
    }
    for &id in order.iter().rev() {
        let Some(node) = graph.node(id) else { continue };
        let outputs: Vec<Value> = graph.values_of(id).collect();
        if node.op().is_none() || !outputs.iter().any(|it| active.contains(it)) {
            continue;
        }
        let mut dy = Vec::with_capacity(outputs.len());
        for &value in &outputs {
            let is_active = active.contains(&value);
            dy.push(if is_active { adjoints.sum(graph, &mut b, value)? } else { None });
        }
        if dy.iter().any(Option::is_some) {
            pull(graph, node, &outputs, &dy, &active, &mut b, &mut adjoints)?;
        }
    }
    let mut found = Vec::with_capacity(wrt.len());
    let mut taken: BTreeSet<Value> = given.iter().copied().collect();
    for &value in wrt {
        let Some(sum) = adjoints.sum(graph, &mut b, value)? else {
            found.push(None);
            continue;
        };
        // Each adjoint has a name of its own, though two may be one value.
        let is_new = sum.node.index() >= graph.id_bound() && b.tensor(sum).is_none();
        let own = if is_new && taken.insert(sum) { sum } else { b.op(Arc::new(Identity), &[sum]) };
        b.rename(own, &named(graph, value));
        taken.insert(own);
        found.push(Some(own));
    }
    let outputs = graph.outputs().iter().copied().chain(found.iter().flatten().copied()).collect();
    Ok(Gradient { graph: b.finish(outputs), seeds: given, wrt: found })
}

fn named(graph: &Graph, value: Value) -> String {
    format!("{}.grad", graph.value_name(value))
}

fn wrong(graph: &Graph, value: Value, what: impl Into<String>) -> GradientError {
    let name = match graph.value_name(value) {
        "" => format!("{value:?}"),
        name => name.to_owned(),
    };
    GradientError::Value { name, what: what.into() }
}

fn check(graph: &Graph, value: Value) -> Result<(), GradientError> {
    if graph.value_name(value).is_empty() {
        return Err(wrong(graph, value, "is not there"));
    }
    match graph.ty(value).dtype() {
        Some(dtype) if dtype.is_float() => Ok(()),
        Some(_) => Err(wrong(graph, value, "holds no floats")),
        None => {
            let op = graph.node(value.node).and_then(|it| it.op());
            let by = op.map_or_else(String::new, |it| format!(": {} gives it", it.name()));
            Err(wrong(graph, value, format!("has no known element type{by}")))
        }
    }
}

/// Values that depend on one that is asked for, and may hold floats.
fn active(graph: &Graph, order: &[NodeId], wrt: &[Value]) -> BTreeSet<Value> {
    let mut active: BTreeSet<Value> = wrt.iter().copied().collect();
    for &id in order {
        let Some(node) = graph.node(id) else { continue };
        if node.uses().any(|it| active.contains(&it)) {
            let is_float = |it: &Value| graph.ty(*it).dtype().is_none_or(DType::is_float);
            active.extend(graph.values_of(id).filter(is_float));
        }
    }
    active
}

/// Adds the adjoints of the operands of a node.
fn pull(
    graph: &Graph,
    node: &Node,
    outputs: &[Value],
    dy: &[Option<Value>],
    active: &BTreeSet<Value>,
    b: &mut Emitter,
    adjoints: &mut Adjoints,
) -> Result<(), GradientError> {
    let Some(op) = node.op() else { return Ok(()) };
    let wanted: Vec<bool> =
        node.inputs.iter().map(|it| it.is_some_and(|it| active.contains(&it))).collect();
    let is_captured = |it: &Value| active.contains(it);
    if node.regions.iter().flat_map(|it| &it.captures).any(is_captured) {
        let error = NotDifferentiable::new(op.domain(), op.name(), "by what its graphs read");
        return Err(GradientError::Node { node: Label::of(node), error });
    }
    if !wanted.contains(&true) {
        // The node itself is asked for, and nothing before it.
        return Ok(());
    }
    let output = node.outputs.iter().find(|it| !it.name.is_empty());
    b.set_prefix(&format!("{}.vjp", output.map_or("", |it| &it.name)));
    let io = Io { inputs: &node.inputs, outputs, wanted: &wanted };
    let found =
        op.vjp(b, &io, dy).map_err(|error| GradientError::Node { node: Label::of(node), error })?;
    let pairs = node.inputs.iter().zip(found).zip(&wanted).filter(|it| *it.1);
    for ((x, dx), _) in pairs {
        if let (Some(x), Some(dx)) = (*x, dx) {
            b.refine(dx, graph.ty(x));
            adjoints.add(x, dx);
        }
    }
    fits(node, b)
}

fn fits(node: &Node, b: &mut Emitter) -> Result<(), GradientError> {
    match b.error() {
        None => Ok(()),
        Some(error) => Err(GradientError::Type { node: Label::of(node), error }),
    }
}

/// What readers have told of the adjoint of each value.
#[derive(Debug, Default)]
struct Adjoints(BTreeMap<Value, Vec<Value>>);

impl Adjoints {
    fn add(&mut self, value: Value, part: Value) {
        self.0.entry(value).or_default().push(part);
    }

    /// The sum of the parts. Seeds come first, then readers from the last node to the first, so
    /// the order of the nodes is the other way around.
    fn sum(
        &mut self,
        graph: &Graph,
        b: &mut Emitter,
        value: Value,
    ) -> Result<Option<Value>, GradientError> {
        let Some(parts) = self.0.get_mut(&value) else { return Ok(None) };
        let mut rest = std::mem::take(parts).into_iter().rev();
        let Some(mut sum) = rest.next() else { return Ok(None) };
        b.set_prefix(&named(graph, value));
        for part in rest {
            sum = b.op(Arc::new(Arith::Add), &[sum, part]);
            let ty: &Type = graph.ty(value);
            b.refine(sum, ty);
        }
        parts.push(sum);
        match graph.node(value.node) {
            Some(node) => fits(node, b).map(|()| Some(sum)),
            None => Ok(Some(sum)),
        }
    }
}
