//! The first value of the float model that is not finite.
//!
//! Sums over what products read mean nothing once a value among them is infinite or NaN. Only tokens
//! that count are looked at: padding may be anything.

use std::collections::BTreeMap;

use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Bound, Label, Plan, PlanOptions};
use qcc_ir::{Graph, Kind, Value};
use qcc_pass::PassError;
use qcc_tensor::{DType, Tensor};

use crate::planned::Feed;

/// Whether the rows of a tensor that count are finite. `counted` is 0 for those that do not, and has
/// no meaning where it is not as long as there are rows of the last axis.
///
/// # Errors
/// When the tensor holds no numbers.
pub(crate) fn is_finite(tensor: &Tensor, counted: Option<&[f32]>) -> Result<bool, PassError> {
    let x = tensor.to_f32()?;
    let k = tensor.dims().last().copied().unwrap_or(1).max(1);
    let is_finite = |row: &[f32]| row.iter().all(|it| it.is_finite());
    Ok(match counted.filter(|it| it.len() == x.len() / k) {
        None => is_finite(&x),
        Some(counted) => x.chunks_exact(k).zip(counted).all(|it| *it.1 == 0.0 || is_finite(it.0)),
    })
}

/// Why `value` is not finite when a graph is given `feed`, of the sample with this number from 0 on:
/// names the operator that made such a value of finite ones.
pub(crate) fn error(graph: &Graph, feed: &Feed, value: Value, sample: usize) -> PassError {
    let text = format!("{} on sample {sample}", origin(graph, feed, value));
    let mut error = Diagnostic::error(codes::QCC0408, text);
    let name = graph.value_name(value);
    if !name.is_empty() && !feed.contains_key(name) {
        error = error.with_note(format!("'{name}' follows from it"));
    }
    error
        .with_help("qcc inspect MODEL --weights names weights that are not finite")
        .with_help("-O rtn, and -O 'kl{weights=none}', do not run the model")
        .into()
}

/// What is wrong with a value, the worse the larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Only negative infinity, which a mask holds as well.
    Low,
    High,
}

/// Goes back from `value` to where it begins.
fn origin(graph: &Graph, feed: &Feed, value: Value) -> String {
    let given = |name: &str| format!("'{name}' is given values that are not finite");
    let name = graph.value_name(value);
    if feed.contains_key(name) {
        return given(name);
    }
    let faults = faults(graph, feed, value);
    let mut node_id = value.node;
    while let Some(node) = graph.node(node_id) {
        let is_given = |it: &Value| feed.contains_key(graph.value_name(*it));
        let operands = node.inputs.iter().copied().flatten();
        let worst = operands.filter_map(|it| Some((*faults.get(&it)?, it)));
        // Of equal ones the first.
        let Some((_, worst)) = worst.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { break };
        let name = graph.value_name(worst);
        if is_given(&worst) {
            return given(name);
        }
        if graph.node(worst.node).is_some_and(|it| matches!(it.kind, Kind::Const(_))) {
            return format!("the constant '{name}' holds values that are not finite");
        }
        node_id = worst.node;
    }
    let label = graph.node(node_id).map(Label::of).unwrap_or_default();
    format!("{label} gives values that are not finite")
}

/// Which of the values that `value` follows from are not finite.
fn faults(graph: &Graph, feed: &Feed, value: Value) -> BTreeMap<Value, Fault> {
    let mut tapped: Vec<Value> = Vec::new();
    let mut stack = vec![value];
    while let Some(it) = stack.pop() {
        let is_new = !tapped.contains(&it);
        let is_float = graph.ty(it).dtype().is_none_or(DType::is_float);
        if !is_new || !is_float {
            continue;
        }
        tapped.push(it);
        if !feed.contains_key(graph.value_name(it))
            && let Some(node) = graph.node(it.node)
        {
            stack.extend(node.inputs.iter().copied().flatten());
        }
    }
    let bound: Vec<(String, Bound)> =
        feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
    let mut found = BTreeMap::new();
    let options =
        PlanOptions { outputs: Some(Vec::new()), tapped: tapped.clone(), ..PlanOptions::default() };
    let mut sink = |value: Value, tensor: &Tensor| {
        let Ok(x) = tensor.to_f32() else { return };
        let each = x.iter().filter(|it| !it.is_finite());
        let fault = each.map(|it| if *it == f32::NEG_INFINITY { Fault::Low } else { Fault::High });
        found.extend(fault.max().map(|it| (value, it)));
    };
    // It ran before, so it runs; if not, the value itself is all that is known.
    if let Ok(plan) = Plan::new(graph, &bound, &options) {
        let _ = plan.run(feed, &tapped, &mut sink);
    }
    found
}
