//! What a run tells of the choice: what each weight could become, and what other budgets would lose.

use qcc_pass::{BudgetRecord, Candidate, Record};
use qcc_quant::spec::WeightSpec;

use super::knapsack::{Choice, Solution, path};
use super::{Plan, cost};

/// Budgets that are told, at most.
const BUDGETS: u64 = 24;

/// Puts the candidates of each weight into its row, and the losses of other budgets into the record.
pub(super) fn record(
    record: &mut Record,
    plan: &Plan<'_>,
    items: &[Vec<Choice>],
    solution: &Solution,
) {
    for (group, &pick) in plan.groups.iter().zip(&solution.picks) {
        for &idx in &group.weights {
            let each = plan.specs[idx].iter().zip(&plan.losses[idx]).enumerate();
            // Those of weights that hold no numbers tell nothing.
            let all: Vec<Candidate> = each
                .filter(|it| it.1.1.is_finite())
                .map(|(at, (spec, &loss))| candidate(plan, (idx, at == pick), spec, loss))
                .collect();
            if all.len() > 1 {
                record.weight(&plan.weights[idx].name).candidates = all;
            }
        }
    }
    let points = path(items, BUDGETS).iter().map(|it| point(plan, items, it)).collect();
    record.budget = Some(BudgetRecord { points, chosen: point(plan, items, &solution.picks) });
}

fn candidate(
    plan: &Plan<'_>,
    (weight, is_chosen): (usize, bool),
    spec: &WeightSpec,
    loss: f64,
) -> Candidate {
    Candidate {
        bits: spec.bits.get(),
        group: spec.group.to_string(),
        bytes: cost(plan.layout, &plan.weights[weight], spec).unwrap_or(0),
        loss,
        is_chosen,
    }
}

/// Bytes and expected loss of one choice for each group.
fn point(plan: &Plan<'_>, items: &[Vec<Choice>], picks: &[usize]) -> (u64, f64) {
    let costs = items.iter().zip(picks).filter_map(|(item, &at)| item.get(at)).map(|it| it.cost);
    let each = plan.groups.iter().zip(picks).map(|(group, &at)| plan.loss(group, at));
    (costs.sum(), each.sum())
}
