//! Which values are compared: those with the same name in both graphs.

use std::collections::{BTreeMap, BTreeSet};

use qcc_ir::{Graph, Node, Value};
use qcc_quantize::blocks::{Block, BlockOptions, blocks};
use qcc_quantize::find_sites;
use qcc_tensor::DType;

use super::Inner;

/// A value of both graphs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) a: Value,
    pub(super) b: Value,
    /// Whether it is an output of both.
    pub(super) is_output: bool,
    /// The block that it is a result of, where blocks were looked for.
    pub(super) block: Option<String>,
    /// Place of its node in the first graph, in topological order.
    pub(super) depth: usize,
}

/// What is compared, and what has no counterpart.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) inner: Inner,
    /// Outputs, then inner values in the order of depth. No value is there twice.
    pub(super) pairs: Vec<Pair>,
    pub(super) outputs_of_one: [Vec<String>; 2],
    pub(super) inner_of_one: [usize; 2],
}

pub(super) fn choose(a: &Graph, b: &Graph, all: bool) -> Chosen {
    let depth: BTreeMap<_, _> = a.topo().into_iter().enumerate().map(|(at, id)| (id, at)).collect();
    let pair = |value: Value, other: Value, is_output: bool| Pair {
        name: a.value_name(value).to_owned(),
        a: value,
        b: other,
        is_output,
        block: None,
        depth: depth.get(&value.node).copied().unwrap_or(usize::MAX),
    };
    let (outputs_a, outputs_b) = (outputs(a), outputs(b));
    let mut pairs = Vec::new();
    let mut outputs_of_one = [Vec::new(), Vec::new()];
    for &value in a.outputs() {
        let name = a.value_name(value);
        match outputs_b.get(name) {
            Some(&other) => pairs.push(pair(value, other, true)),
            None => outputs_of_one[0].push(name.to_owned()),
        }
    }
    let only_b = b.outputs().iter().map(|it| b.value_name(*it));
    outputs_of_one[1] =
        only_b.filter(|it| !outputs_a.contains_key(it)).map(str::to_owned).collect();
    let mut seen: BTreeSet<Value> = BTreeSet::new();
    pairs.retain(|it: &Pair| seen.insert(it.a));

    let results_b = results(b);
    let kinds: &[Inner] =
        if all { &[Inner::All] } else { &[Inner::Blocks, Inner::Norms, Inner::All] };
    let mut inner = Inner::All;
    let mut inner_of_one = [0, 0];
    for &kind in kinds {
        let mut found: Vec<Pair> = Vec::new();
        let mut missing = 0;
        let values = values(a, kind).into_iter();
        for (value, block) in values.filter(|it| !a.is_output(it.0) && is_float(a, it.0)) {
            match results_b.get(a.value_name(value)) {
                Some(&other) if is_float(b, other) => {
                    found.push(Pair { block, ..pair(value, other, false) });
                }
                Some(_) => {}
                None => missing += 1,
            }
        }
        let is_last = kind == Inner::All;
        if is_last {
            let results_a = results(a);
            let only_b = results_b.iter().filter(|it| !results_a.contains_key(it.0));
            inner_of_one[1] = only_b.filter(|it| !b.is_output(*it.1) && is_float(b, *it.1)).count();
        }
        if is_last || !found.is_empty() {
            found.sort_by_key(|it| (it.depth, it.a));
            pairs.extend(found);
            (inner, inner_of_one[0]) = (kind, missing);
            break;
        }
    }
    Chosen { inner, pairs, outputs_of_one, inner_of_one }
}

fn outputs(graph: &Graph) -> BTreeMap<&str, Value> {
    graph.outputs().iter().map(|&it| (graph.value_name(it), it)).collect()
}

/// What operators of the outermost graph compute, by name.
fn results(graph: &Graph) -> BTreeMap<&str, Value> {
    let ids = graph.nodes().filter(|it| it.1.op().is_some()).map(|it| it.0);
    let values = ids.flat_map(|it| graph.values_of(it));
    let named = values.map(|it| (graph.value_name(it), it));
    named.filter(|it| !it.0.is_empty()).collect()
}

/// Values of a kind that operators compute, with the block that gives them.
fn values(graph: &Graph, kind: Inner) -> BTreeMap<Value, Option<String>> {
    let mut found: BTreeMap<Value, Option<String>> = match kind {
        Inner::Blocks => {
            let blocks = blocks(graph, &find_sites(graph), &BlockOptions::default());
            let results = |it: &Block| {
                let label = match it.layer {
                    Some(layer) => format!("{} {layer}", it.kind.text()),
                    None => it.kind.text().to_owned(),
                };
                it.results().into_iter().map(move |it| (it, Some(label.clone())))
            };
            blocks.iter().flat_map(results).collect()
        }
        Inner::Norms => {
            let is_norm = |node: &Node| node.op().is_some_and(|it| NORMS.contains(&it.name()));
            let norms = graph.nodes().filter(|it| is_norm(it.1));
            norms.map(|(node, _)| (Value { node, slot: 0 }, None)).collect()
        }
        Inner::All => results(graph).into_values().map(|it| (it, None)).collect(),
    };
    let is_result = |it: Value| graph.node(it.node).is_some_and(|it| it.op().is_some());
    found.retain(|&it, _| is_result(it) && !graph.value_name(it).is_empty());
    found
}

/// Operators that normalize.
const NORMS: &[&str] = &[
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "EmbedLayerNormalization",
    "RMSNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "BatchNormalization",
    "LpNormalization",
];

/// Whether a value is of floats, as far as is known.
fn is_float(graph: &Graph, value: Value) -> bool {
    graph.ty(value).dtype().is_none_or(DType::is_float)
}
