//! Running rules over one region, and what is best afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use egg::{Extractor, Id, Language, Rewrite, Runner};

use super::cost::{Cost, own_cost};
use super::term::{EGraph, Facts, Term};

/// Rounds over all rules. The deepest form takes six.
const MAX_ROUNDS: usize = 20;

/// Size at which rules are no longer run; of a region of 64 operators it is never reached by
/// rules that shorten, which all but commutation are.
const MAX_NODES: usize = 5000;

/// Never reached: a limit on time would let results depend on the machine.
const NO_TIME_LIMIT: Duration = Duration::from_secs(1 << 20);

/// The graph after all rules, and the names of those that found something.
pub(crate) fn saturate(
    egraph: EGraph,
    rules: &[Rewrite<Term, Facts>],
) -> (EGraph, BTreeSet<String>) {
    let runner = Runner::default()
        .with_egraph(egraph)
        .with_iter_limit(MAX_ROUNDS)
        .with_node_limit(MAX_NODES)
        .with_time_limit(NO_TIME_LIMIT)
        .run(rules);
    let applied = runner.iterations.iter().flat_map(|it| it.applied.keys());
    let names = applied.map(|it| it.as_str().to_owned()).collect();
    (runner.egraph, names)
}

/// The best term of a class, and the classes that it is made of.
pub(crate) struct Best {
    pub(crate) root: Id,
    /// For each class that the term needs, its node; operands are classes too.
    pub(crate) nodes: BTreeMap<Id, Term>,
    /// Sum over the nodes, each counted once.
    pub(crate) cost: u64,
}

/// The cheapest term of a class. `originals` are the terms of the graph, as they were added.
pub(crate) fn best(egraph: &EGraph, root: Id, originals: &[Term]) -> Best {
    let canonical = |term: &Term| term.clone().map_children(|it| egraph.find(it));
    let originals: BTreeSet<Term> = originals.iter().map(canonical).collect();
    let extractor = Extractor::new(egraph, Cost { egraph, originals: &originals });
    let root = egraph.find(root);
    let mut best = Best { root, nodes: BTreeMap::new(), cost: 0 };
    let mut ready = vec![root];
    while let Some(class) = ready.pop() {
        if best.nodes.contains_key(&class) {
            continue;
        }
        let term = canonical(extractor.find_best_node(class));
        ready.extend(term.children().iter().copied());
        best.cost = best.cost.saturating_add(own_cost(egraph, &term));
        best.nodes.insert(class, term);
    }
    best
}

/// The best term written out.
#[cfg(test)]
pub(crate) fn best_term(egraph: &EGraph, root: Id, originals: &[Term]) -> egg::RecExpr<Term> {
    let best = best(egraph, root, originals);
    let node = |id: Id| best.nodes[&egraph.find(id)].clone();
    node(best.root).build_recexpr(node)
}
