//! What a term costs: a table that prefers fewer and cheaper operators.

use std::collections::BTreeSet;

use egg::{CostFunction, Id, Language};

use super::term::{EGraph, MARKS, Term};

/// More than any region costs, for what cannot be written as an operator.
const NEVER: u64 = 1 << 40;

/// Costs of operators, in about the time that each takes on a tensor of middle size.
const COSTS: &[(&str, u64)] = &[
    ("MatMul", 100),
    // Dearer than the operators it is made of: only those are looked for behind it.
    ("Gemm", 130),
    ("FusedMatMul", 150),
    ("RMSNormalization", 30),
    ("LayerNormalization", 35),
    ("Erf", 25),
    ("Tanh", 25),
    ("Sigmoid", 25),
    ("Pow", 25),
    ("Swish", 25),
    ("Gelu", 25),
    ("GeluTanh", 25),
    ("Identity", 5),
    ("Dropout", 5),
    ("Reshape", 5),
    ("Squeeze", 5),
    ("Unsqueeze", 5),
];

/// Cost of every other operator.
const OTHER: u64 = 20;

/// The cost of one term, without that of its operands.
pub(crate) fn own_cost(egraph: &EGraph, term: &Term) -> u64 {
    let Term::Op(name, children) = term else { return 0 };
    if MARKS.contains(&&**name) {
        return NEVER;
    }
    let is_const = |id: &Id| egraph[*id].data.tensor.is_some();
    if &**name == "Transpose" && children.first().is_some_and(is_const) {
        return 1; // A weight may be stored the other way round.
    }
    COSTS.iter().find(|it| it.0 == &**name).map_or(OTHER, |it| it.1)
}

/// The cost of whole terms. Of equally cheap ones those of the graph win, then those with a
/// constant on the right.
pub(crate) struct Cost<'a> {
    pub(crate) egraph: &'a EGraph,
    pub(crate) originals: &'a BTreeSet<Term>,
}

impl CostFunction<Term> for Cost<'_> {
    type Cost = u64;

    fn cost<C: FnMut(Id) -> u64>(&mut self, term: &Term, costs: C) -> u64 {
        let is_new = matches!(term, Term::Op(..)) && !self.originals.contains(term);
        let is_turned = is_new && self.has_constant_first(term);
        let own = 4 * own_cost(self.egraph, term) + u64::from(is_new) + u64::from(is_turned);
        let mut costs = costs;
        term.fold(own, |sum, id| sum.saturating_add(costs(id)))
    }
}

impl Cost<'_> {
    fn has_constant_first(&self, term: &Term) -> bool {
        let is_const = |id: &Id| {
            let fact = &self.egraph[*id].data;
            fact.tensor.is_some() || fact.number.is_some()
        };
        let may_turn = matches!(term.name(), "Add" | "Mul");
        may_turn && term.children().first().is_some_and(is_const)
    }
}
