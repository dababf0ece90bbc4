//! Where two models part: the first value that differs, and the weights before it that do.

use std::collections::{BTreeMap, BTreeSet};

use qcc_ir::{Graph, NodeId, Value};
use qcc_quantize::{Site, find_sites};
use qcc_tensor::Tensor;

use super::Compared;
use super::choose::Pair;

/// Where two models part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstDifference {
    /// The first value that differs, in the order of depth.
    pub value: String,
    /// Uses of weights that it depends on, behind the values that are equal, and that differ between
    /// the models: names of their nodes in the first model.
    pub weights: Vec<String>,
}

pub(super) fn find(
    a: &Graph,
    b: &Graph,
    pairs: &[&Pair],
    values: &[Compared],
) -> Option<FirstDifference> {
    let all = || pairs.iter().zip(values);
    let (pair, _) = all().filter(|it| !it.1.is_exact()).min_by_key(|it| it.0.depth)?;
    let equal: BTreeSet<Value> = all().filter(|it| it.1.is_exact()).map(|it| it.0.a).collect();
    let between = between(a, pair.a, &equal);
    let other = Other::of(b);
    let mut weights: Vec<String> = Vec::new();
    for site in find_sites(a) {
        let holder = site.scope.0.first().map_or(site.node, |it| it.node);
        if between.contains(&holder) && !weights.contains(&site.label) && other.differs(a, &site) {
            weights.push(site.label);
        }
    }
    Some(FirstDifference { value: pair.name.clone(), weights })
}

/// Nodes that a value depends on, up to values that are known.
fn between(graph: &Graph, value: Value, known: &BTreeSet<Value>) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::from([value.node]);
    let mut open = vec![value.node];
    while let Some(id) = open.pop() {
        let Some(node) = graph.node(id) else { continue };
        for used in node.uses().filter(|it| !known.contains(it)) {
            if nodes.insert(used.node) {
                open.push(used.node);
            }
        }
    }
    nodes
}

/// What the second model has, by name.
struct Other<'g> {
    constants: BTreeMap<&'g str, &'g Tensor>,
    /// Domain and name of the operator that computes a value.
    operators: BTreeMap<&'g str, (&'g str, &'g str)>,
}

impl<'g> Other<'g> {
    fn of(root: &'g Graph) -> Self {
        let mut other = Self { constants: BTreeMap::new(), operators: BTreeMap::new() };
        for graph in root.scopes().iter().filter_map(|it| root.at(it)) {
            for (_, node) in graph.nodes() {
                for output in &node.outputs {
                    if let Some(tensor) = node.constant() {
                        other.constants.insert(&output.name, tensor);
                    } else if let Some(op) = node.op() {
                        other.operators.insert(&output.name, (op.domain(), op.name()));
                    }
                }
            }
        }
        other
    }

    /// Whether the second model has other numbers for a weight, or another operator for its use.
    fn differs(&self, root: &Graph, site: &Site) -> bool {
        let source = root.at(&site.weight.scope).and_then(|it| it.constant(site.weight.source));
        let is_same = match (source, self.constants.get(site.name.as_str())) {
            (Some(a), Some(b)) => {
                a.dtype() == b.dtype() && a.dims() == b.dims() && a.bytes() == b.bytes()
            }
            (None, it) => it.is_some(),
            (Some(_), None) => false,
        };
        let node = root.at(&site.scope).and_then(|it| it.node(site.node));
        let output = node.and_then(|it| it.outputs.first()).map(|it| it.name.as_str());
        let operator = node.and_then(|it| it.op()).map(|it| (it.domain(), it.name()));
        let other = output.and_then(|it| self.operators.get(it)).copied();
        !is_same || (other.is_some() && other != operator)
    }
}
