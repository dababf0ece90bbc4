//! `allocate-bits`: gives each weight as many bits as a budget allows, so that the model is expected
//! to lose least.
//!
//! Replaces each `Quant` without numbers by one of other bits, and of another size of groups where there
//! are several to choose from. Needs: `select`. Keeps: grids and types of scales; what is named for a
//! weight. What a weight costs is the bytes that it takes in
//! the output, scales, zero points and padding included (`stored`); what it loses follows from one pass
//! of gradients (`loss`); the choice is the exact optimum of the two (`knapsack`), and never above the
//! budget. Weights that are tied get the same bits (`ties`).
//! Fails where the budget is below the least.

mod knapsack;
mod loss;
mod stored;
mod ties;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch, Value};
use qcc_ops::quant::{Layout, Quant};
use qcc_pass::{Ctx, FileSize, OptionInfo, OptionKind, PassError, PassInfo, Record};
use qcc_quant::spec::{Bits, GroupSize, WeightSpec};

use crate::choose::{self, Weight};
use crate::overrides::group;

use knapsack::{Choice, MAX_LOSS, Solution};
use ties::Group;

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "allocate-bits",
    summary: "choose the bits of each weight within a budget",
    options: &[
        OptionInfo {
            name: "bpw",
            kind: OptionKind::Float { min: 0.0, max: 64.0 },
            default: "auto",
            help: "stored bits for each weight, at most: the mean over all that are quantized",
        },
        OptionInfo {
            name: "target-size",
            kind: OptionKind::Int { min: 0, max: i64::MAX },
            default: "auto",
            help: "bytes of the output and its data files, at most",
        },
        OptionInfo {
            name: "layout",
            kind: OptionKind::Choice(&["nbits", "qdq", "dense"]),
            default: "nbits",
            help: "how weights are stored, which says what they take",
        },
        OptionInfo {
            name: "candidates",
            kind: OptionKind::Text,
            default: "auto",
            help: "bits to choose from, '2,4,8'; auto is all that the layout has fields for",
        },
        OptionInfo {
            name: "groups",
            kind: OptionKind::Text,
            default: "",
            help: "sizes of groups to choose from, '32,64,128'; none leaves those that the weights have",
        },
        OptionInfo {
            name: "tie",
            kind: OptionKind::Text,
            default: "",
            help: "patterns, one to a line: weights that one matches share their bits, where its parentheses hold the same",
        },
        OptionInfo {
            name: "set",
            kind: OptionKind::Text,
            default: "",
            help: "settings as select takes them: weights whose bits they name keep these",
        },
        OptionInfo {
            name: "samples",
            kind: OptionKind::Int { min: 1, max: 1 << 20 },
            default: "32",
            help: "samples that gradients are made of, at most",
        },
    ],
    run,
};

fn run(root: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let bpw = ctx.options.opt_float("bpw");
    let target = ctx.options.opt_int("target-size").and_then(|it| u64::try_from(it).ok());
    let weights = choose::weights(root);
    if weights.is_empty() || bpw.is_none() && target.is_none() {
        return Ok(Vec::new());
    }
    let layout = stored::layout(ctx.options.text("layout"))
        .ok_or_else(|| PassError::internal("a layout without a name"))?;
    let (set, tie) = (ctx.options.text("set"), ctx.options.text("tie"));
    let groups = ties::groups(root, &weights, (set, tie))?;
    let sizes = sizes(ctx.options.text("groups"))?;
    let named = candidates(ctx.options.text("candidates"))?;
    let specs = specs(&weights, &groups, layout, (named.as_deref(), &sizes))?;
    let samples = usize::try_from(ctx.options.int("samples")).unwrap_or(1);
    let mut plan =
        Plan { weights: &weights, groups, layout, specs, losses: vec![Vec::new(); weights.len()] };
    let elements: u64 = weights.iter().map(|it| it.tensor.len() as u64).sum();
    let mut budget = bpw.map_or(u64::MAX, |bpw| bytes_of(bpw, elements));
    let too_small = |least| too_small(least, elements, sizes.len() > 1);
    // What is too small for any bits is known before the model is run.
    let least = knapsack::solve(&plan.items(), 0).err().unwrap_or(0);
    let narrowest = knapsack::solve(&plan.items(), least).map_err(too_small)?;
    if least > budget {
        return Err(too_small(least));
    }
    let file = target.map(|target| file_size(ctx).map(|size| (target, size))).transpose()?;
    if let Some((target, size)) = &file {
        let least = plan.size(root, ctx, size.as_ref(), &plan.chosen(&narrowest))?;
        if least > *target {
            return Err(too_large(least, *target));
        }
    }
    plan.losses = loss::losses(root, ctx, INFO.name, &weights, &plan.specs, samples)?;
    let items = plan.items();
    let mut solution = knapsack::solve(&items, budget).map_err(too_small)?;
    if let Some((target, size)) = file {
        // The rest of the file hardly depends on the bits, so this ends after a few rounds.
        loop {
            ctx.check_cancelled()?;
            let found = plan.size(root, ctx, size.as_ref(), &plan.chosen(&solution))?;
            if found <= target {
                break;
            }
            budget = solution.cost.saturating_sub(found - target);
            solution = knapsack::solve(&items, budget).map_err(|least| {
                too_large((least + found).saturating_sub(solution.cost), target)
            })?;
        }
    }
    let chosen = plan.chosen(&solution);
    tell(ctx, &plan, &solution, &chosen, elements);
    told::record(ctx.record, &plan, &items, &solution);
    let mut patches = Vec::with_capacity(weights.len());
    for (weight, spec) in weights.iter().zip(&chosen) {
        record(ctx.record, weight, layout, spec);
        patches.extend(patch(root, weight, *spec));
    }
    Ok(patches)
}

/// The largest whole number of bytes that is at most `bpw` bits for each of the elements.
fn bytes_of(bpw: f64, elements: u64) -> u64 {
    let count = elements.max(1) as f64;
    let mut bytes = (bpw * count / 8.0).floor().max(0.0) as u64;
    while bytes > 0 && 8.0 * bytes as f64 / count > bpw {
        bytes -= 1;
    }
    bytes
}

/// What tells the size of the output.
fn file_size(ctx: &Ctx<'_>) -> Result<Arc<dyn FileSize>, PassError> {
    ctx.session.file_size.clone().ok_or_else(|| {
        Diagnostic::error(codes::QCC0302, "a target size needs an output whose size is known")
            .at(format!("pass '{}'", INFO.name))
            .with_help("give the budget as bpw")
            .into()
    })
}

fn too_large(least: u64, target: u64) -> PassError {
    let text = format!("the smallest file has about {least} bytes, not {target}");
    Diagnostic::error(codes::QCC0312, text)
        .at("option --target-size")
        .with_help("larger groups, --embeddings and --lm-head make it smaller")
        .into()
}

fn too_small(least: u64, elements: u64, chooses_groups: bool) -> PassError {
    // Rounded up, so that what is named is enough.
    let least = (8.0 * least as f64 / elements.max(1) as f64 * 1e4).ceil() / 1e4;
    let text = format!("the weights take at least {least} bits each");
    Diagnostic::error(codes::QCC0312, text)
        .at("option --bpw")
        .with_help(if chooses_groups {
            "groups of several sizes were looked at already; --sym takes less beside the codes"
        } else {
            "larger groups (-g 64, -g 128) and --sym take less beside the codes"
        })
        .into()
}

/// The bits to choose from; `None` for all that pay.
fn candidates(text: &str) -> Result<Option<Vec<Bits>>, PassError> {
    if text == "auto" {
        return Ok(None);
    }
    let each = text.split(',').map(|it| it.trim().parse().ok().and_then(Bits::new));
    let mut found = each.collect::<Option<Vec<Bits>>>().ok_or_else(|| {
        Diagnostic::error(codes::QCC0304, format!("'{text}' is no list of bits"))
            .at("option --candidates")
            .with_help("write a list such as 2,4,8")
    })?;
    found.sort_unstable();
    found.dedup();
    Ok(Some(found))
}

/// The sizes of groups to choose from, the largest last.
fn sizes(text: &str) -> Result<Vec<GroupSize>, PassError> {
    let each = text.split(',').map(str::trim).filter(|it| !it.is_empty());
    let found = each.map(group).collect::<Option<Vec<GroupSize>>>().ok_or_else(|| {
        Diagnostic::error(codes::QCC0304, format!("'{text}' is no list of group sizes"))
            .with_help("write a list such as 32,64,128")
    })?;
    Ok(found)
}

/// For each weight, what it may become. What a group may become is the same list for its weights.
fn specs(
    weights: &[Weight],
    groups: &[Group],
    layout: Layout,
    (named, sizes): (Option<&[Bits]>, &[GroupSize]),
) -> Result<Vec<Vec<WeightSpec>>, PassError> {
    let all = named.map_or_else(|| stored::widths(layout), <[Bits]>::to_owned);
    let mut found = vec![Vec::new(); weights.len()];
    for group in groups {
        let bits = group.bits.map_or_else(|| all.clone(), |it| vec![it]);
        let sizes: Vec<Option<GroupSize>> = match sizes {
            sizes if group.keeps_sizes || group.bits.is_some() || sizes.is_empty() => vec![None],
            sizes => sizes.iter().copied().map(Some).collect(),
        };
        for bits in bits {
            for &size in &sizes {
                let spec = |it: usize| {
                    let spec = weights[it].quant.spec;
                    WeightSpec { bits, group: size.unwrap_or(spec.group), ..spec }
                };
                let fits = |it: &usize| cost(layout, &weights[*it], &spec(*it)).is_some();
                if group.weights.iter().all(fits) {
                    group.weights.iter().for_each(|&it| found[it].push(spec(it)));
                }
            }
        }
        let first = group.weights.first().copied();
        if let Some(it) = first.filter(|&it| found[it].is_empty()) {
            let (name, layout) = (&weights[it].name, layout.name());
            let text = format!("'{name}' has no form in layout {layout} with these bits");
            return Err(Diagnostic::error(codes::QCC0305, text)
                .with_help("--format function takes 2 to 6 and 8 bits, and any group that is a multiple of 8")
                .into());
        }
    }
    Ok(found)
}

fn cost(layout: Layout, weight: &Weight, spec: &WeightSpec) -> Option<u64> {
    stored::stored(layout, weight.quant.form, spec)
}

/// All that is known before bits are chosen.
struct Plan<'a> {
    weights: &'a [Weight],
    groups: Vec<Group>,
    layout: Layout,
    /// For each weight, what it may become, and what is lost by that.
    specs: Vec<Vec<WeightSpec>>,
    losses: Vec<Vec<f64>>,
}

impl Plan<'_> {
    /// One item for each group. Losses are scaled, as only their ratios count.
    fn items(&self) -> Vec<Vec<Choice>> {
        let loss = |group: &Group, at: usize| self.loss(group, at);
        let choices = |group: &Group| group.weights.first().map_or(0, |&it| self.specs[it].len());
        let most =
            |group: &Group| (0..choices(group)).map(|at| loss(group, at)).fold(0.0, f64::max);
        let total: f64 = self.groups.iter().map(most).sum();
        let scale = if total > 0.0 { MAX_LOSS as f64 / 2.0 / total } else { 0.0 };
        let item = |group: &Group| {
            let one = |at: usize| {
                let each = group.weights.iter().map(|&it| {
                    let spec = self.specs[it].get(at);
                    spec.and_then(|spec| cost(self.layout, &self.weights[it], spec)).unwrap_or(0)
                });
                Choice { cost: each.sum(), loss: (loss(group, at) * scale).round() as u64 }
            };
            (0..choices(group)).map(one).collect()
        };
        self.groups.iter().map(item).collect()
    }

    /// What is lost by a choice of a group.
    fn loss(&self, group: &Group, at: usize) -> f64 {
        let each = group.weights.iter().filter_map(|&it| self.losses[it].get(at));
        each.filter(|it| it.is_finite()).sum()
    }

    /// What each weight becomes.
    fn chosen(&self, solution: &Solution) -> Vec<WeightSpec> {
        let mut chosen: Vec<WeightSpec> = self.weights.iter().map(|it| it.quant.spec).collect();
        for (group, &pick) in self.groups.iter().zip(&solution.picks) {
            for &it in &group.weights {
                chosen[it] = self.specs[it].get(pick).copied().unwrap_or(chosen[it]);
            }
        }
        chosen
    }

    /// The file with these bits.
    fn size(
        &self,
        root: &Graph,
        ctx: &Ctx<'_>,
        size: &dyn FileSize,
        chosen: &[WeightSpec],
    ) -> Result<u64, PassError> {
        let (mut graph, mut told) = (root.clone(), ctx.record.clone());
        let mut patches = Vec::new();
        for (weight, spec) in self.weights.iter().zip(chosen) {
            record(&mut told, weight, self.layout, spec);
            patches.extend(patch(root, weight, *spec));
        }
        graph.apply(patches)?;
        size.size_bytes(&graph, &told)
    }
}

/// The `Quant` of a weight as it was chosen.
fn patch(root: &Graph, weight: &Weight, spec: WeightSpec) -> Option<Patch> {
    let graph = root.at(&weight.scope)?;
    let node = graph.node(weight.node)?;
    if spec == weight.quant.spec {
        return None;
    }
    let old = Value { node: weight.node, slot: 0 };
    let op = Arc::new(Quant { spec, form: weight.quant.form, numbers: None, by: String::new() });
    let mut patch = Patch::within(INFO.name, weight.scope.clone());
    patch.at(weight.node);
    let new = patch.op1(&node.name, op, node.inputs.clone(), graph.ty(old).clone());
    patch.replace(old, new);
    Some(patch)
}

fn record(record: &mut Record, weight: &Weight, layout: Layout, spec: &WeightSpec) {
    let bytes = cost(layout, weight, spec).unwrap_or(0);
    let row = record.weight(&weight.name);
    row.bits = Some(spec.bits.get());
    row.group = spec.group.to_string();
    row.bpw = 8.0 * bytes as f64 / weight.tensor.len().max(1) as f64;
}

/// Says what was chosen.
fn tell(
    ctx: &mut Ctx<'_>,
    plan: &Plan<'_>,
    solution: &Solution,
    chosen: &[WeightSpec],
    elements: u64,
) {
    let name = |it: &WeightSpec| format!("{} bits in groups of {}", it.bits, it.group);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    chosen.iter().for_each(|it| *counts.entry(name(it)).or_default() += 1);
    let list: Vec<String> =
        counts.iter().rev().map(|(name, count)| format!("{count} of {name}")).collect();
    let reached = 8.0 * solution.cost as f64 / elements.max(1) as f64;
    let text = format!("{reached:.3} bits are stored for each weight: {}", list.join(", "));
    let mut note = Diagnostic::note(codes::QCC0620, text).at(format!("pass '{}'", INFO.name));
    for (idx, weight) in plan.weights.iter().enumerate() {
        let mut each = plan.specs[idx].iter().zip(&plan.losses[idx]);
        let loss = each.find(|it| *it.0 == chosen[idx]).map_or(0.0, |it| *it.1);
        let what = name(&chosen[idx]);
        note = note.with_note(format!("'{}': {what}, expected loss {loss:.2e}", weight.name));
    }
    if !solution.is_exact {
        note = note.with_note("there may be a choice that loses a little less");
    }
    ctx.note(note);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read() {
        let bits = |text| candidates(text).map(|it| it.map(|it| it.len()));
        assert_eq!(bits("auto").unwrap(), None);
        assert_eq!(bits("8, 4,4").unwrap(), Some(2));
        assert!(bits("1").is_err() && bits("").is_err());
        assert_eq!(sizes("32, row").unwrap().len(), 2);
        assert!(sizes("").unwrap().is_empty() && sizes("x").is_err());
    }

    proptest! {
        #[test]
        fn a_mean_becomes_whole_bytes(bpw in 0.0f64..64.0, elements in 1u64..1 << 40) {
            let bytes = bytes_of(bpw, elements);
            prop_assert!(8.0 * bytes as f64 / elements as f64 <= bpw);
            prop_assert!(8.0 * (bytes + 2) as f64 / elements as f64 > bpw);
        }
    }
}
