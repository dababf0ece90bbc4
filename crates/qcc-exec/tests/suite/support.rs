//! Graphs, inputs and runs for the tests.

pub(crate) use std::collections::BTreeMap;

pub(crate) use qcc_exec::{Bound, Plan, PlanOptions};
pub(crate) use qcc_ir::{Graph, Value};
pub(crate) use qcc_tensor::Tensor;

use qcc_exec::ExecError;
use qcc_ir::text::{no_bytes, parse};

/// A graph from its text form.
pub(crate) fn graph(text: &str) -> Graph {
    let make = |domain: &str, name: &str, opset, attrs| {
        qcc_ops::parse(domain, name, opset, attrs).map_err(|it| it.to_string())
    };
    let mut graphs = parse(text, &make, &no_bytes).unwrap();
    assert_eq!(graphs.len(), 1);
    graphs.remove(0)
}

/// The value of this name.
pub(crate) fn value(graph: &Graph, name: &str) -> Value {
    let mut values = graph.nodes().flat_map(|(id, _)| graph.values_of(id));
    values.find(|&it| graph.value_name(it) == name).unwrap()
}

pub(crate) fn inputs<const N: usize>(list: [(&str, Tensor); N]) -> BTreeMap<String, Tensor> {
    list.into_iter().map(|(name, it)| (name.to_owned(), it)).collect()
}

pub(crate) fn bound(inputs: &BTreeMap<String, Tensor>) -> Vec<(String, Bound)> {
    inputs.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect()
}

pub(crate) fn plan(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Result<Plan, ExecError> {
    Plan::new(graph, &bound(inputs), &PlanOptions::default())
}

/// The outputs of one run.
pub(crate) fn run(plan: &Plan, inputs: &BTreeMap<String, Tensor>) -> Vec<Tensor> {
    let outputs = plan.run(inputs, &[], &mut |_, _| {}).unwrap();
    outputs.into_iter().map(|it| it.1).collect()
}

pub(crate) fn floats(x: &Tensor) -> Vec<f32> {
    x.to_f32().unwrap().into_owned()
}

/// `dims` filled with small numbers that are multiples of 1/8.
pub(crate) fn ramp(dims: &[usize]) -> Tensor {
    let len = dims.iter().product();
    let values = (0..len).map(|it| ((it * 37 + 11) % 64) as f32 / 8.0 - 4.0).collect();
    Tensor::from_vec(dims.to_vec(), values).unwrap()
}
