//! Splits a part that is too large and has no cut inside: by depth on the main path, where at most
//! three values cross.
//!
//! All nodes of a depth stay together, so that the outcome does not depend on the order in which a
//! file has them.

use std::collections::BTreeMap;

use qcc_ir::NodeId;

use super::assign::assign;
use super::flow::Flow;
use super::make::Part;

/// Parts in the order in which they run, and what is known of their nodes.
pub(super) struct Parts {
    pub(super) parts: Vec<Part>,
    /// Part of each cut, and of each node on the main path of a part that was split.
    pub(super) fixed: BTreeMap<NodeId, u32>,
    /// Part of the sinks that are no cuts.
    pub(super) end: Option<u32>,
}

/// Most values that cross between pieces.
const MOST_VALUES: usize = 3;

pub(super) fn split(flow: &Flow<'_>, parts: Vec<Part>, max: u64) -> Parts {
    let whole = numbered(parts, &BTreeMap::new());
    if whole.parts.iter().all(|it| it.params <= max) {
        return whole;
    }
    let ranks = assign(flow, &whole.fixed, whole.end);
    let mut nodes: Vec<Vec<NodeId>> = vec![Vec::new(); whole.parts.len()];
    for &id in flow.order.iter().filter(|it| flow.main.get(**it)) {
        if let Some(list) = ranks.get(id).and_then(|it| nodes.get_mut(it as usize)) {
            list.push(id);
        }
    }
    let mut pieces: BTreeMap<usize, Vec<Vec<NodeId>>> = BTreeMap::new();
    for (idx, _) in whole.parts.iter().enumerate().filter(|it| it.1.params > max) {
        let depths = crossings(flow, &nodes[idx], max);
        if depths.is_empty() {
            continue;
        }
        let mut lists = vec![Vec::new(); depths.len() + 1];
        for &id in &nodes[idx] {
            let at = depths.partition_point(|&it| it < flow.depth.get(id));
            lists[at].push(id);
        }
        pieces.insert(idx, lists);
    }
    numbered(whole.parts, &pieces)
}

/// Gives each part, or each of its pieces, its number.
fn numbered(parts: Vec<Part>, pieces: &BTreeMap<usize, Vec<Vec<NodeId>>>) -> Parts {
    let mut out = Parts { parts: Vec::new(), fixed: BTreeMap::new(), end: None };
    for (idx, part) in parts.into_iter().enumerate() {
        let has_end = part.cuts.contains(&None);
        match pieces.get(&idx) {
            None => {
                let rank = out.parts.len() as u32;
                out.fixed.extend(part.cuts.iter().flatten().map(|it| (*it, rank)));
                out.parts.push(part);
            }
            Some(lists) => {
                for list in lists {
                    let rank = out.parts.len() as u32;
                    out.fixed.extend(list.iter().map(|it| (*it, rank)));
                    out.parts.push(part.clone());
                }
            }
        }
        if has_end {
            out.end = Some(out.parts.len().saturating_sub(1) as u32);
        }
    }
    out
}

/// Depths after which to split, so that pieces are within the limit where that can be.
fn crossings(flow: &Flow<'_>, nodes: &[NodeId], max: u64) -> Vec<u32> {
    // Depth of the last reader among the nodes, of each node and of each value from before.
    let mut last: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut levels: BTreeMap<u32, u64> = BTreeMap::new();
    for &id in nodes {
        let Some(node) = flow.graph.node(id) else { continue };
        let depth = flow.depth.get(id);
        for operand in flow.main_operands(node) {
            let entry = last.entry(operand).or_default();
            *entry = depth.max(*entry);
        }
        let params = flow.products.get(&id).map_or(0, |it| it.params);
        let level = levels.entry(depth).or_default();
        *level = level.saturating_add(params);
    }
    // How many values are open after each depth: one more from where each is made, one less from
    // where it was read for the last time.
    let mut change: BTreeMap<u32, i64> = BTreeMap::new();
    for (id, end) in &last {
        *change.entry(flow.depth.get(*id)).or_default() += 1;
        *change.entry(*end).or_default() -= 1;
    }
    let mut open = 0i64;
    let mut changes = change.into_iter().peekable();
    let (mut cuts, mut sum, mut candidate) = (Vec::new(), 0u64, None);
    let n_levels = levels.len();
    for (idx, (depth, params)) in levels.into_iter().enumerate() {
        let is_full = sum > 0 && params > 0 && sum.saturating_add(params) > max;
        if let Some((at, rest)) = candidate.take_if(|_| is_full) {
            cuts.push(at);
            sum = sum.saturating_sub(rest);
        }
        sum = sum.saturating_add(params);
        while let Some((_, delta)) = changes.next_if(|it| it.0 <= depth) {
            open += delta;
        }
        if sum > 0 && idx + 1 < n_levels && open <= MOST_VALUES as i64 {
            candidate = Some((depth, sum));
        }
    }
    cuts
}
