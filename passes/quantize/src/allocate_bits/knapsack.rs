//! The least loss within a budget: one choice for each item, `sum cost <= budget`, `sum loss` least.
//!
//! Choices of which a cheaper one loses no more are dropped. The best fractional choices give a price
//! of loss for cost; by it every partial choice has a bound for what it can become, and the greedy
//! choice has a loss. Then items are added one after the other to all partial choices that no other
//! one dominates and whose bound is below that loss. All numbers are whole, so the result is exact and
//! the same on every machine.
//!
//! Source: H. Kellerer, U. Pferschy, D. Pisinger, Knapsack Problems, chapter 11 (multiple-choice).

/// What one choice costs and loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) cost: u64,
    /// At most [`MAX_LOSS`] for all items together.
    pub(crate) loss: u64,
}

/// Losses are scaled so that their sum is at most this.
pub(crate) const MAX_LOSS: u64 = 1 << 44;

/// Partial choices that are kept at one time.
const MAX_STATES: usize = 1 << 18;

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Solution {
    /// For each item, which of its choices.
    pub(crate) picks: Vec<usize>,
    pub(crate) cost: u64,
    pub(crate) loss: u64,
    /// Whether no other choice can be better; there were too many to tell otherwise.
    pub(crate) is_exact: bool,
}

/// A choice of an item with its place in the list that was given.
#[derive(Clone, Copy, Debug)]
struct Option_ {
    pick: usize,
    cost: u64,
    loss: u64,
}

/// A choice for some of the items.
#[derive(Clone, Copy, Debug)]
struct State {
    cost: u64,
    loss: u64,
    /// The state that it comes from, and the choice that was added.
    from: u32,
    pick: u32,
}

/// One choice for each item; `Err` with the least cost when the budget is below it.
pub(crate) fn solve(items: &[Vec<Choice>], budget: u64) -> Result<Solution, u64> {
    let fronts: Vec<Vec<Option_>> = items.iter().map(|it| front(it)).collect();
    let least: u64 = fronts.iter().filter_map(|it| it.first()).map(|it| it.cost).sum();
    if least > budget || fronts.iter().any(Vec::is_empty) {
        return Err(least);
    }
    let (greedy, price) = greedy(&fronts, budget);
    let Some(price) = price else { return Ok(solution(&fronts, &greedy, true)) };
    let best = solution(&fronts, &greedy, true);
    let (found, is_exact) = search(&fronts, budget, price, best.loss);
    Ok(match found {
        Some(picks) => solution(&fronts, &picks, is_exact),
        None => Solution { is_exact, ..best },
    })
}

/// Choices by rising cost and falling loss.
fn front(choices: &[Choice]) -> Vec<Option_> {
    let mut all: Vec<Option_> = choices
        .iter()
        .enumerate()
        .map(|(pick, it)| Option_ { pick, cost: it.cost, loss: it.loss })
        .collect();
    all.sort_by_key(|it| (it.cost, it.loss, it.pick));
    let mut kept: Vec<Option_> = Vec::new();
    for it in all {
        if kept.last().is_none_or(|last| it.loss < last.loss) {
            kept.push(it);
        }
    }
    kept
}

fn solution(fronts: &[Vec<Option_>], at: &[usize], is_exact: bool) -> Solution {
    let chosen: Vec<&Option_> = fronts.iter().zip(at).filter_map(|(it, at)| it.get(*at)).collect();
    Solution {
        picks: chosen.iter().map(|it| it.pick).collect(),
        cost: chosen.iter().map(|it| it.cost).sum(),
        loss: chosen.iter().map(|it| it.loss).sum(),
        is_exact,
    }
}

/// Loss by cost: `loss / cost`.
#[derive(Clone, Copy, Debug)]
struct Price {
    loss: u64,
    cost: u64,
}

/// A step from one choice of an item to a later one on its lower convex hull.
struct Step {
    item: usize,
    to: usize,
    cost: u64,
    loss: u64,
}

/// Steps in the order of what they gain for what they cost.
fn steps(fronts: &[Vec<Option_>]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (item, front) in fronts.iter().enumerate() {
        let hull = hull(front);
        for pair in hull.windows(2) {
            let &[a, b] = pair else { continue };
            let (cost, loss) = (front[b].cost - front[a].cost, front[a].loss - front[b].loss);
            steps.push(Step { item, to: b, cost, loss });
        }
    }
    let gain = |a: &Step, b: &Step| {
        let (x, y) =
            (u128::from(a.loss) * u128::from(b.cost), u128::from(b.loss) * u128::from(a.cost));
        y.cmp(&x).then(a.item.cmp(&b.item)).then(a.to.cmp(&b.to))
    };
    steps.sort_by(gain);
    steps
}

/// The picks of `count` budgets from the least cost to the least loss, of about equal distance. Each
/// loses least for what it costs: all steps up to a gain are taken, so the fractional optimum is whole.
pub(crate) fn path(items: &[Vec<Choice>], count: u64) -> Vec<Vec<usize>> {
    let fronts: Vec<Vec<Option_>> = items.iter().map(|it| front(it)).collect();
    let steps = steps(&fronts);
    let total: u64 = steps.iter().map(|it| it.cost).sum();
    let mut at = vec![0; fronts.len()];
    let picks = |at: &[usize]| solution(&fronts, at, true).picks;
    let mut found = vec![picks(&at)];
    let (mut cost, mut reached) = (0, 0);
    for step in &steps {
        at[step.item] = step.to;
        cost += step.cost;
        let now = u128::from(cost) * u128::from(count.saturating_sub(1)) / u128::from(total.max(1));
        if now > reached {
            reached = now;
            found.push(picks(&at));
        }
    }
    found
}

/// Steps while they fit: the choice of each item, and the price of the first that does not fit;
/// `None` when all do.
fn greedy(fronts: &[Vec<Option_>], budget: u64) -> (Vec<usize>, Option<Price>) {
    let steps = steps(fronts);
    let mut at = vec![0; fronts.len()];
    let mut left =
        budget - fronts.iter().filter_map(|it| it.first()).map(|it| it.cost).sum::<u64>();
    let mut price = None;
    let mut stopped = vec![false; fronts.len()];
    for step in &steps {
        if stopped[step.item] {
            continue;
        }
        if step.cost <= left {
            left -= step.cost;
            at[step.item] = step.to;
        } else {
            stopped[step.item] = true;
            price = price.or(Some(Price { loss: step.loss, cost: step.cost }));
        }
    }
    (at, price)
}

/// Places on the lower convex hull of a front.
fn hull(front: &[Option_]) -> Vec<usize> {
    let mut hull: Vec<usize> = Vec::new();
    for idx in 0..front.len() {
        while let &[.., a, b] = hull.as_slice() {
            let (a, b, c) = (&front[a], &front[b], &front[idx]);
            let first = u128::from(a.loss - b.loss) * u128::from(c.cost - b.cost);
            let second = u128::from(b.loss - c.loss) * u128::from(b.cost - a.cost);
            if first > second {
                break;
            }
            hull.pop();
        }
        hull.push(idx);
    }
    hull
}

/// A choice that loses less than `best`, and whether there is certainly no better one.
fn search(
    fronts: &[Vec<Option_>],
    budget: u64,
    price: Price,
    best: u64,
) -> (Option<Vec<usize>>, bool) {
    // Items whose choices differ most in cost come first: what is left is then fine.
    let mut order: Vec<usize> = (0..fronts.len()).collect();
    let span =
        |it: &Vec<Option_>| it.last().map_or(0, |it| it.cost) - it.first().map_or(0, |it| it.cost);
    order.sort_by_key(|&it| (std::cmp::Reverse(span(&fronts[it])), it));
    let priced = |cost: u64, loss: u64| {
        u128::from(loss) * u128::from(price.cost) + u128::from(cost) * u128::from(price.loss)
    };
    // What the items from each place on cost at least, and what they add to the bound.
    let mut rest = vec![(0u64, 0u128); order.len() + 1];
    for (at, &item) in order.iter().enumerate().rev() {
        let front = &fronts[item];
        let cost = front.first().map_or(0, |it| it.cost);
        let bound = front.iter().map(|it| priced(it.cost, it.loss)).min().unwrap_or(0);
        rest[at] = (rest[at + 1].0 + cost, rest[at + 1].1 + bound);
    }
    let limit =
        u128::from(best) * u128::from(price.cost) + u128::from(budget) * u128::from(price.loss);
    let mut is_exact = true;
    let mut stages: Vec<Vec<State>> = vec![vec![State { cost: 0, loss: 0, from: 0, pick: 0 }]];
    for (at, &item) in order.iter().enumerate() {
        let (cost_left, bound_left) = rest[at + 1];
        let mut next = Vec::new();
        for (from, state) in (0u32..).zip(stages.last().into_iter().flatten()) {
            for (pick, it) in (0u32..).zip(&fronts[item]) {
                let (cost, loss) = (state.cost + it.cost, state.loss + it.loss);
                let fits = cost.checked_add(cost_left).is_some_and(|it| it <= budget);
                if fits && priced(cost, loss) + bound_left < limit {
                    next.push(State { cost, loss, from, pick });
                }
            }
        }
        next.sort_unstable_by_key(|it| (it.cost, it.loss, it.from, it.pick));
        let mut least = u64::MAX;
        next.retain(|it| {
            let is_better = it.loss < least;
            least = least.min(it.loss);
            is_better
        });
        if next.len() > MAX_STATES {
            is_exact = false;
            next.sort_unstable_by_key(|it| (priced(it.cost, it.loss), it.cost, it.from, it.pick));
            next.truncate(MAX_STATES);
            next.sort_unstable_by_key(|it| (it.cost, it.loss));
        }
        if next.is_empty() {
            return (None, is_exact);
        }
        stages.push(next);
    }
    // A bound below the limit may be that of a choice that costs less and loses more.
    let last = stages.last().into_iter().flatten().filter(|it| it.loss < best);
    let Some(mut state) = last.min_by_key(|it| (it.loss, it.cost)).copied() else {
        return (None, is_exact);
    };
    let mut at = vec![0; fronts.len()];
    for (stage, &item) in order.iter().enumerate().rev() {
        at[item] = state.pick as usize;
        if let Some(it) = stages.get(stage).and_then(|it| it.get(state.from as usize)) {
            state = *it;
        }
    }
    (Some(at), is_exact)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choice(cost: u64, loss: u64) -> Choice {
        Choice { cost, loss }
    }

    /// The least loss, and the least cost that has it.
    fn brute(items: &[Vec<Choice>], budget: u64) -> Option<(u64, u64)> {
        let Some((first, rest)) = items.split_first() else { return Some((0, 0)) };
        let each = first.iter().filter(|it| it.cost <= budget);
        each.filter_map(|it| {
            let (loss, cost) = brute(rest, budget - it.cost)?;
            Some((loss + it.loss, cost + it.cost))
        })
        .min()
    }

    #[test]
    fn what_fits_is_taken() {
        let items = vec![vec![choice(2, 90), choice(4, 20), choice(8, 1)]; 3];
        let at = |budget| solve(&items, budget).unwrap();
        assert_eq!(at(24).loss, 3);
        assert_eq!((at(23).loss, at(23).cost), (22, 20));
        assert_eq!((at(12).loss, at(12).cost), (60, 12));
        assert_eq!(at(6).picks, [0, 0, 0]);
        assert_eq!(solve(&items, 5), Err(6));
        assert_eq!(solve(&[], 0).unwrap().picks, [0; 0]);
        // One that costs more and loses no less is never taken.
        let items = [vec![choice(4, 5), choice(2, 5), choice(9, 6)]];
        assert_eq!(solve(&items, 100).unwrap().picks, [1]);
    }

    fn items() -> impl Strategy<Value = Vec<Vec<Choice>>> {
        let one = (1u64..60, 0u64..1000).prop_map(|(cost, loss)| choice(cost, loss));
        prop::collection::vec(prop::collection::vec(one, 1..5), 1..7)
    }

    proptest! {
        #[test]
        fn no_choice_is_better(items in items(), budget in 0u64..250) {
            match (solve(&items, budget), brute(&items, budget)) {
                (Ok(found), Some((loss, _))) => {
                    prop_assert_eq!(found.loss, loss);
                    prop_assert!(found.cost <= budget && found.is_exact);
                    let sums = items.iter().zip(&found.picks).map(|(it, at)| it[*at]);
                    let (cost, loss) = sums.fold((0, 0), |s, it| (s.0 + it.cost, s.1 + it.loss));
                    prop_assert_eq!((cost, loss), (found.cost, found.loss));
                }
                (Err(least), None) => {
                    let each = items.iter().map(|it| it.iter().map(|it| it.cost).min().unwrap());
                    prop_assert_eq!(least, each.sum::<u64>());
                }
                (found, want) => prop_assert!(false, "{found:?} {want:?}"),
            }
        }
    }

    /// Weights of a large model, of a few sizes, with losses that differ by their place.
    fn large(count: usize, seed: u64) -> Vec<Vec<Choice>> {
        let mut rng = qcc_pass::Rng::new(seed, "items");
        (0..count)
            .map(|_| {
                let size = [331_776u64, 110_592, 884_736][rng.range(0..3)];
                let loss = (-6.0 * rng.f64()).exp();
                [2u64, 4, 8]
                    .map(|bits| {
                        let cost = size * bits / 8 + size / 32 * 4;
                        let loss = loss * f64::powi(4.2, -(bits as i32)) * (0.5 + rng.f64());
                        choice(cost, (loss * 1e11) as u64)
                    })
                    .into()
            })
            .collect()
    }

    #[test]
    fn a_thousand_budgets_are_not_exceeded() {
        let mut rng = qcc_pass::Rng::new(3, "budgets");
        for round in 0..1000 {
            let items = large(rng.range(1..60), round);
            let least: u64 = items.iter().map(|it| it[0].cost).sum();
            let most: u64 = items.iter().map(|it| it[2].cost).sum();
            let budget = least - least / 16 + rng.below(most - least + least / 8);
            match solve(&items, budget) {
                Ok(it) => {
                    assert!(it.cost <= budget && it.is_exact && budget >= least, "{round}");
                    let step = items.iter().map(|it| it[2].cost - it[0].cost).max().unwrap();
                    assert!(
                        it.cost + step > budget.min(most) || it.loss == 0,
                        "{round}: much is left"
                    );
                }
                Err(it) => assert!(it == least && budget < least, "{round}"),
            }
        }
    }

    #[test]
    fn a_path_goes_from_the_least_cost_to_the_least_loss() {
        let mut rng = qcc_pass::Rng::new(5, "paths");
        for round in 0..50 {
            let items = large(rng.range(1..60), round);
            let sum = |picks: &[usize]| {
                let each = items.iter().zip(picks).map(|(it, at)| it[*at]);
                each.fold((0, 0), |sum, it| (sum.0 + it.cost, sum.1 + it.loss))
            };
            let sums: Vec<(u64, u64)> = path(&items, 24).iter().map(|it| sum(it)).collect();
            assert!((2..=24).contains(&sums.len()), "{round}: {sums:?}");
            let least: u64 = items.iter().filter_map(|it| it.iter().map(|it| it.cost).min()).sum();
            let best: u64 = items.iter().filter_map(|it| it.iter().map(|it| it.loss).min()).sum();
            assert_eq!((sums[0].0, sums.last().unwrap().1), (least, best));
            assert!(sums.windows(2).all(|it| it[0].0 < it[1].0 && it[0].1 > it[1].1));
            for (cost, loss) in sums {
                assert_eq!(solve(&items, cost).unwrap().loss, loss, "{round}");
            }
        }
        assert_eq!(path(&[], 24).len(), 1);
    }

    /// The least loss by a table over all costs that are multiples of `unit`.
    fn by_table(items: &[Vec<Choice>], budget: u64, unit: u64) -> u64 {
        let mut best = vec![Some(0u64); (budget / unit) as usize + 1];
        for item in items {
            let at = |left: usize| {
                let each = item.iter().filter_map(|it| {
                    let before = left.checked_sub((it.cost / unit) as usize)?;
                    Some(best[before]? + it.loss)
                });
                each.min()
            };
            best = (0..best.len()).map(at).collect();
        }
        best.last().copied().flatten().unwrap()
    }

    #[test]
    fn a_table_of_all_costs_finds_nothing_better() {
        let mut rng = qcc_pass::Rng::new(4, "groups");
        for round in 0..12 {
            let items: Vec<Vec<Choice>> = (0..28)
                .map(|_| {
                    let size = [16_384u64, 8192, 49_152][rng.range(0..3)];
                    let loss = (-4.0 * rng.f64()).exp();
                    let mut choices = Vec::new();
                    for bits in [2u64, 3, 4, 8] {
                        for (at, group) in [32, 64, 128].into_iter().enumerate() {
                            let cost = size * bits / 8 + size / group * 5;
                            let less = 1.0 + 0.1 * at as f64 + 0.1 * rng.f64();
                            let loss = loss * less * f64::powi(4.2, -(bits as i32));
                            choices.push(choice(cost, (loss * 1e11) as u64));
                        }
                    }
                    choices
                })
                .collect();
            let least: u64 = items.iter().map(|it| it[2].cost).sum();
            let budget = (least + least * round / 8) / 64 * 64;
            let found = solve(&items, budget).unwrap();
            assert!(found.is_exact && found.cost <= budget);
            assert_eq!(found.loss, by_table(&items, budget, 64), "{round}");
        }
    }

    #[test]
    fn many_weights_are_solved_exactly() {
        let items = large(600, 1);
        let least: u64 = items.iter().map(|it| it[0].cost).sum();
        for share in [3, 20, 60] {
            let found = solve(&items, least + least * share / 40).unwrap();
            assert!(found.is_exact, "{share}");
        }
    }
}
