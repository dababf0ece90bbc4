//! The graph that computes the derivatives.

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_exec::{Gradient, Seed, differentiate};
use qcc_ir::{Emitter, Graph, Value};
use qcc_ops::arith::Arith;
use qcc_ops::cast::{Cast, Rounding};
use qcc_ops::softmax::{Kind as Distribution, Softmax};
use qcc_tensor::DType;

use super::Wrt;
use super::goal::{Goal, Kind};

/// Names under which a run is given what an output is pulled to.
#[derive(Debug)]
pub(super) struct Fed {
    /// Of the shape of the output, `f32`.
    pub(super) wanted: String,
    /// How much each row of it counts, `f32` with a last axis of 1.
    pub(super) shares: String,
}

/// `share (softmax(y) - wanted)` for logits and `share (y - wanted)` for other outputs, as adjoints,
/// and the gradients of the weights under them.
#[derive(Debug)]
pub(super) struct Gradients {
    pub(super) graph: Graph,
    pub(super) fed: Vec<Fed>,
    /// One for each of the weights that are left in the list.
    pub(super) weights: Vec<Value>,
}

impl Gradients {
    /// Weights that have no derivative are taken from the list, and told in `left`.
    pub(super) fn new(
        graph: &Graph,
        goals: &[Goal],
        wrt: &mut Vec<Wrt>,
        left: &mut BTreeMap<usize, String>,
    ) -> Self {
        let mut b = Emitter::on(graph.clone());
        let (mut seeds, mut fed) = (Vec::new(), Vec::new());
        for goal in goals {
            b.set_prefix(&goal.name);
            let ty = graph.ty(goal.value);
            let to = |b: &mut Emitter, value: Value, dtype: DType| match b.ty(value).dtype() {
                Some(it) if it != dtype => {
                    b.op(Arc::new(Cast { to: dtype, rounding: Rounding::default() }), &[value])
                }
                _ => value,
            };
            let wide = ty.with_dtype(Some(DType::F32));
            let wanted = b.input(&format!("{}.wanted", goal.name), wide.clone());
            let shares = b.input(&format!("{}.shares", goal.name), wide.with_shape(None));
            let mut y = to(&mut b, goal.value, DType::F32);
            if goal.kind == Kind::Logits {
                let softmax = Softmax { kind: Distribution::Soft, axis: -1, flatten: false };
                y = b.op(Arc::new(softmax), &[y]);
            }
            let error = b.op(Arc::new(Arith::Sub), &[y, wanted]);
            let adjoint = b.op(Arc::new(Arith::Mul), &[error, shares]);
            b.refine(adjoint, &wide);
            let adjoint = to(&mut b, adjoint, ty.dtype().unwrap_or(DType::F32));
            seeds.push(Seed { value: goal.value, adjoint: Some(adjoint) });
            let name = |value: Value| b.graph().value_name(value).to_owned();
            fed.push(Fed { wanted: name(wanted), shares: name(shares) });
        }
        let graph = b.finish(graph.outputs().into());
        let found = all(&graph, &seeds, wrt).unwrap_or_else(|_| {
            // One that fails fails all of them, so each is tried by itself.
            wrt.retain(|it| match all(&graph, &seeds, std::slice::from_ref(it)) {
                Ok(_) => true,
                Err(why) => {
                    left.insert(it.index, why);
                    false
                }
            });
            all(&graph, &seeds, wrt).unwrap_or_else(|why| {
                left.extend(wrt.drain(..).map(|it| (it.index, why.clone())));
                Gradient { graph: graph.clone(), seeds: Vec::new(), wrt: Vec::new() }
            })
        });
        let mut weights = Vec::new();
        let mut values = found.wrt.iter();
        wrt.retain(|it| match values.next() {
            Some(Some(value)) => {
                weights.push(*value);
                true
            }
            _ => {
                left.insert(it.index, "nothing that the model gives depends on it".to_owned());
                false
            }
        });
        Self { graph: found.graph, fed, weights }
    }
}

/// The derivatives of all of them, or why there are none.
fn all(graph: &Graph, seeds: &[Seed], wrt: &[Wrt]) -> Result<Gradient, String> {
    let values: Vec<Value> = wrt.iter().map(|it| it.value).collect();
    differentiate(graph, seeds, &values).map_err(|it| it.to_string())
}
