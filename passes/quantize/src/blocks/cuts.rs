//! Cuts: nodes that every main path from a source goes through on its way to the outputs.
//!
//! They are the post-dominators of the sources, as nodes: a node with two results that are both
//! read on, such as `SkipLayerNormalization` with its sum, is one cut of two values. In a decoder
//! each addition to the residual stream is a cut. An encoder and a decoder have cuts of their own:
//! what both lead to is no cut of the encoder until its paths have all come together.
//! On a graph without cycles one sweep finds the tree of immediate post-dominators: that of a node
//! is the deepest common ancestor, in the tree so far, of the nodes that read it.
//! Source: Cooper, Harvey and Kennedy, A simple, fast dominance algorithm, 2001.

use std::collections::{BTreeMap, BTreeSet};

use qcc_ir::NodeId;

use super::flow::Flow;

/// A row of cuts, each the next one that all paths from the one before go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// From the source on; `None`, which can only be last, stands for all outputs together.
    pub(super) cuts: Vec<Option<NodeId>>,
}

/// All cuts, as chains. Where several lead to one cut, the shortest way there is that of the
/// residual stream, and the others end before it.
pub(super) fn find(flow: &Flow<'_>) -> Vec<Chain> {
    let (tree, vertices) = post_dominators(flow);
    let number: BTreeMap<NodeId, usize> = vertices.iter().copied().zip(1..).collect();
    let id_of = |at: usize| at.checked_sub(1).and_then(|it| vertices.get(it)).copied();
    let mut is_cut = vec![false; vertices.len() + 1];
    is_cut[0] = flow.sinks.len() > 1;
    for source in &flow.sources {
        let mut at = number.get(source).copied().unwrap_or(0);
        while at != 0 && !is_cut[at] {
            is_cut[at] = true;
            at = tree.parent[at];
        }
    }
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); is_cut.len()];
    for at in (1..is_cut.len()).filter(|it| is_cut[*it]) {
        children[tree.parent[at]].push(at);
    }
    for list in &mut children {
        list.sort_by_key(|&it| id_of(it).map(|it| flow.position(it)));
    }
    let mut begins: Vec<usize> = if is_cut[0] { vec![0] } else { children[0].clone() };
    let mut chains = Vec::new();
    while let Some(last) = begins.pop() {
        let mut cuts = vec![id_of(last)];
        let mut at = last;
        loop {
            let next = nearest(flow, id_of(at), &children[at], &number, &id_of);
            begins.extend(children[at].iter().filter(|it| Some(**it) != next));
            let Some(next) = next else { break };
            cuts.push(id_of(next));
            at = next;
        }
        cuts.reverse();
        chains.push(Chain { cuts });
    }
    trim(flow, &mut chains);
    chains
}

/// Ends a chain where it first reads one that stands before it, as that which it joins does: from
/// there on it is inside a part of that one. So the inner values of a cross attention are no cuts,
/// although all that an encoder makes goes through them.
fn trim(flow: &Flow<'_>, chains: &mut Vec<Chain>) {
    let mut of = BTreeMap::new();
    for (idx, chain) in chains.iter().enumerate() {
        of.extend(chain.cuts.iter().flatten().map(|it| (*it, idx)));
    }
    // The first chain with a cut that each node depends on, itself included.
    let mut first: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (id, node) in flow.nodes().filter(|it| flow.live.get(it.0)) {
        let before = flow.main_operands(node).filter_map(|it| first.get(&it).copied());
        if let Some(it) = before.chain(of.get(&id).copied()).min() {
            first.insert(id, it);
        }
    }
    for (idx, chain) in chains.iter_mut().enumerate() {
        chain.cuts.retain(|it| it.is_none_or(|it| first.get(&it) == Some(&idx)));
    }
    chains.retain(|it| !it.cuts.is_empty());
}

/// Of the cuts that come right before one, that with the fewest nodes between; of two such the
/// one that comes first: the other one may read it on its way.
fn nearest(
    flow: &Flow<'_>,
    cut: Option<NodeId>,
    before: &[usize],
    number: &BTreeMap<NodeId, usize>,
    id_of: &dyn Fn(usize) -> Option<NodeId>,
) -> Option<usize> {
    if before.len() < 2 {
        return before.first().copied();
    }
    let position = |it: &usize| id_of(*it).map(|it| flow.position(it));
    let ends: BTreeSet<usize> = before.iter().copied().collect();
    let mut seen = BTreeSet::new();
    let mut front: Vec<NodeId> = cut.map_or_else(|| flow.sinks.clone(), |it| vec![it]);
    while !front.is_empty() {
        let reached = |id: &NodeId| number.get(id).copied().filter(|it| ends.contains(it));
        let found: Vec<usize> = front.iter().filter_map(reached).collect();
        if let Some(best) = found.into_iter().min_by_key(position) {
            return Some(best);
        }
        let mut next = Vec::new();
        for id in front {
            let Some(node) = flow.graph.node(id) else { continue };
            for operand in flow.main_operands(node) {
                if seen.insert(operand) {
                    next.push(operand);
                }
            }
        }
        front = next;
    }
    before.iter().copied().max_by_key(position)
}

/// Ancestors in a tree that grows by leaves, in logarithmic time: each vertex knows its parent and
/// one ancestor further up. Vertex 0 is the root.
struct Tree {
    parent: Vec<usize>,
    jump: Vec<usize>,
    level: Vec<usize>,
}

impl Tree {
    fn new() -> Self {
        Self { parent: vec![0], jump: vec![0], level: vec![0] }
    }

    fn add(&mut self, parent: usize) {
        let far = self.jump[parent];
        let is_even =
            self.level[parent] - self.level[far] == self.level[far] - self.level[self.jump[far]];
        self.jump.push(if is_even { self.jump[far] } else { parent });
        self.parent.push(parent);
        self.level.push(self.level[parent] + 1);
    }

    fn common(&self, a: usize, b: usize) -> usize {
        let (mut low, mut high) = if self.level[a] < self.level[b] { (b, a) } else { (a, b) };
        while self.level[low] > self.level[high] {
            let far = self.jump[low];
            low = if self.level[far] >= self.level[high] { far } else { self.parent[low] };
        }
        while low != high {
            let is_apart = self.jump[low] != self.jump[high];
            let up = if is_apart { &self.jump } else { &self.parent };
            (low, high) = (up[low], up[high]);
        }
        low
    }
}

/// The tree, and the node of each of its vertices but the root, which stands for all outputs.
fn post_dominators(flow: &Flow<'_>) -> (Tree, Vec<NodeId>) {
    let mut tree = Tree::new();
    let mut vertices = Vec::new();
    // Common ancestor of the readers seen so far.
    let mut above: BTreeMap<NodeId, usize> = flow.sinks.iter().map(|&it| (it, 0)).collect();
    for (id, node) in flow.nodes().rev().filter(|it| flow.live.get(it.0)) {
        tree.add(above.get(&id).copied().unwrap_or(0));
        vertices.push(id);
        let at = vertices.len();
        for operand in flow.main_operands(node) {
            let seen = above.get(&operand).copied();
            above.insert(operand, seen.map_or(at, |it| tree.common(it, at)));
        }
    }
    (tree, vertices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_ancestors_are_those_of_a_plain_walk() {
        let mut tree = Tree::new();
        for at in 1..200usize {
            tree.add(at - 1 - (at * 7919 % 5).min(at - 1));
        }
        let up = |mut at: usize| {
            let mut path = vec![at];
            while at != 0 {
                at = tree.parent[at];
                path.push(at);
            }
            path
        };
        for (a, b) in (0..200).flat_map(|a| (0..200).map(move |b| (a, b))) {
            let right = up(a).into_iter().find(|it| up(b).contains(it)).unwrap();
            assert_eq!(tree.common(a, b), right, "{a} {b}");
        }
    }
}
