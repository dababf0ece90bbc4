//! Which weights share their bits, and which have theirs already.

use std::collections::BTreeMap;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::Graph;
use qcc_pass::PassError;
use qcc_quant::spec::Bits;
use regex_lite::{Captures, Regex};

use crate::activations::in_float;
use crate::choose::Weight;
use crate::overrides::Override;
use crate::sites::{Role, Site, find_sites};

/// Weights that share their bits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// Which weights.
    pub(super) weights: Vec<usize>,
    /// Bits that they are to have, whatever the budget.
    pub(super) bits: Option<Bits>,
    /// Whether their groups keep the sizes that they have.
    pub(super) keeps_sizes: bool,
}

/// All weights in groups, in the order of the first of each.
///
/// `set` has the lines of `--set`: bits of it stay, as do those of tables and heads, which are
/// quantized only where their bits are named. `tie` has patterns, each of which groups the weights
/// that it matches by what its parentheses hold.
///
/// # Errors
/// When a pattern cannot be read or matches no weight, and when weights that are tied have bits that
/// differ and stay.
pub(super) fn groups(
    root: &Graph,
    weights: &[Weight],
    (set, tie): (&str, &str),
) -> Result<Vec<Group>, PassError> {
    // Marked weights are no sites any more, nor are heads told from other products.
    let float = in_float(root)?;
    let sites = find_sites(&float);
    let uses: Vec<Vec<Site>> = weights.iter().map(|it| uses(root, &sites, it)).collect();
    let mut overrides: Vec<Override> = lines(set).map(Override::parse).collect::<Result<_, _>>()?;
    let mut fixed = Vec::with_capacity(weights.len());
    let mut sized = Vec::with_capacity(weights.len());
    for uses in &uses {
        let mut is_fixed = uses.iter().any(|it| it.role != Role::Product);
        let mut is_sized = is_fixed;
        for it in &mut overrides {
            let matches = uses.iter().any(|site| it.pattern.matches(site));
            is_fixed |= matches && it.bits.is_some();
            is_sized |= matches && it.group.is_some();
        }
        sized.push(is_sized);
        fixed.push(is_fixed.then_some(weights[fixed.len()].quant.spec.bits));
    }
    // Each weight points at one before it of its group, or at itself.
    let mut first: Vec<usize> = (0..weights.len()).collect();
    for text in lines(tie) {
        let mut by_key: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        let regex = pattern(text)?;
        for (idx, uses) in uses.iter().enumerate() {
            let Some(key) = uses.iter().find_map(|it| key(&regex, it)) else { continue };
            let other = *by_key.entry(key).or_insert(idx);
            let (a, b) = (root_of(&first, other), root_of(&first, idx));
            first[a.max(b)] = a.min(b);
        }
        if by_key.is_empty() {
            let text = format!("--tie '{text}' matches no weight that is quantized");
            return Err(Diagnostic::error(codes::QCC0311, text)
                .at("option --tie")
                .with_help("qcc inspect MODEL --weights lists the names of the weights")
                .into());
        }
    }
    let mut found: BTreeMap<usize, Group> = BTreeMap::new();
    for (idx, &bits) in fixed.iter().enumerate() {
        let group = found.entry(root_of(&first, idx)).or_default();
        group.weights.push(idx);
        group.keeps_sizes |= sized[idx];
        if let (Some(a), Some(b)) = (group.bits, bits)
            && a != b
        {
            let name = &weights[idx].name;
            let text = format!("'{name}' has {b} bits, and a weight it is tied to has {a}");
            return Err(Diagnostic::error(codes::QCC0304, text)
                .at("option --tie")
                .with_help("give both the same bits, or leave one out of the pattern")
                .into());
        }
        group.bits = group.bits.or(bits);
    }
    Ok(found.into_values().collect())
}

fn root_of(first: &[usize], mut at: usize) -> usize {
    while first[at] != at {
        at = first[at];
    }
    at
}

/// Where a weight is read, under the name that it had before it was marked.
fn uses(root: &Graph, sites: &[Site], weight: &Weight) -> Vec<Site> {
    let node = root.at(&weight.scope).and_then(|it| it.node(weight.node));
    let source = node.and_then(|it| it.inputs.first().copied().flatten());
    let is_it = |it: &&Site| Some(it.weight.source) == source && it.weight.scope == weight.scope;
    let found = sites.iter().filter(is_it);
    found.map(|it| Site { name: weight.name.clone(), ..it.clone() }).collect()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').filter(|it| !it.is_empty())
}

fn pattern(text: &str) -> Result<Regex, Diagnostic> {
    Regex::new(&format!("^(?:{text})$")).map_err(|error| {
        Diagnostic::error(codes::QCC0304, format!("--tie '{text}': {error}"))
            .at("option --tie")
            .with_help("patterns are regular expressions; quote special characters with \\")
    })
}

/// What the parentheses of a pattern hold where it matches a site.
fn key(regex: &Regex, site: &Site) -> Option<Vec<String>> {
    let found = [&site.name, &site.label].into_iter().find_map(|it| regex.captures(it))?;
    Some(held(&found))
}

fn held(found: &Captures<'_>) -> Vec<String> {
    let each = found.iter().skip(1);
    each.map(|it| it.map_or(String::new(), |it| it.as_str().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_ties_by_what_its_parentheses_hold() {
        let held = |pattern_text: &str, name: &str| -> Option<Vec<String>> {
            let regex = pattern(pattern_text).unwrap();
            let found = regex.captures(name)?;
            Some(held(&found))
        };
        let layers = "layers[.]([0-9]+)[.](?:q|k)_proj";
        assert_eq!(held(layers, "layers.3.q_proj"), held(layers, "layers.3.k_proj"));
        assert_ne!(held(layers, "layers.3.q_proj"), held(layers, "layers.4.q_proj"));
        assert_eq!(held(layers, "model.layers.3.q_proj"), None, "the whole name must match");
        assert_eq!(held("a|b", "a"), held("a|b", "b"));
        assert_ne!(held("(a)|(b)", "a"), held("(a)|(b)", "b"));
        assert!(pattern("(").is_err());
    }

    #[test]
    fn roots_are_followed() {
        assert_eq!(root_of(&[0, 0, 1, 3], 2), 0);
        assert_eq!(root_of(&[0, 0, 1, 3], 3), 3);
    }
}
