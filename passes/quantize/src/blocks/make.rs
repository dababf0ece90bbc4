//! From cuts to blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use qcc_ir::{Node, NodeId, Value};

use super::assign::{Ranks, assign};
use super::class::class;
use super::cuts::{self, Chain};
use super::flow::Flow;
use super::layers::{Segment, group};
use super::{Block, BlockOptions, Kind, split};
use crate::sites::Site;

/// Cuts that belong to one block.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// `None` stands for all outputs together.
    pub(super) cuts: Vec<Option<NodeId>>,
    pub(super) kind: Kind,
    /// Elements of its weights.
    pub(super) params: u64,
    /// Which group it is of, to number layers.
    pub(super) group: usize,
}

pub(super) fn blocks(flow: &Flow<'_>, sites: &[Site], options: &BlockOptions) -> Vec<Block> {
    let chains = cuts::find(flow);
    let segments = segments(flow, &chains);
    let mut parts = Vec::new();
    let mut n_groups = 0;
    for (chain, segments) in chains.into_iter().zip(&segments) {
        if segments.iter().all(|it| it.weights.is_empty()) {
            continue; // its nodes go where they are read
        }
        // Groups and their pieces have all segments in order.
        let mut cuts = chain.cuts.into_iter();
        for group in group(segments) {
            for range in bounded(segments, group.segments, options.max_params) {
                let params = segments[range.clone()].iter().map(|it| it.params);
                let params = params.fold(0, u64::saturating_add);
                let cuts = cuts.by_ref().take(range.len()).collect();
                parts.push(Part { cuts, kind: group.kind, params, group: n_groups });
            }
            n_groups += 1;
        }
    }
    // A part runs after what its last cut depends on; the end of all is no node.
    let last = |it: &Part| it.cuts.last().copied().flatten();
    parts.sort_by_key(|it| {
        let last = last(it);
        (last.is_none(), last.map(|it| flow.position(it)))
    });
    if parts.is_empty() {
        parts.push(Part { cuts: vec![None], kind: Kind::Single, params: 0, group: 0 });
    }
    let parts = split::split(flow, parts, options.max_params);
    let ranks = in_order(flow, assign(flow, &parts.fixed, parts.end));
    finish(flow, sites, &parts.parts, &ranks)
}

/// What lies before each cut of each chain.
fn segments(flow: &Flow<'_>, chains: &[Chain]) -> Vec<Vec<Segment>> {
    let mut cuts: Vec<NodeId> = chains.iter().flat_map(|it| &it.cuts).copied().flatten().collect();
    cuts.sort_by_key(|&it| flow.position(it));
    let fixed: BTreeMap<NodeId, u32> = cuts.iter().zip(0..).map(|(a, b)| (*a, b)).collect();
    let end = u32::try_from(cuts.len()).unwrap_or(u32::MAX);
    let ranks = assign(flow, &fixed, Some(end));
    let mut nodes: BTreeMap<u32, Vec<NodeId>> = BTreeMap::new();
    for &id in &flow.order {
        if let Some(rank) = ranks.get(id) {
            nodes.entry(rank).or_default().push(id);
        }
    }
    let rank_of = |cut: &Option<NodeId>| cut.and_then(|it| fixed.get(&it).copied()).unwrap_or(end);
    let chain_of: BTreeMap<u32, usize> = chains
        .iter()
        .enumerate()
        .flat_map(|(idx, chain)| chain.cuts.iter().map(move |it| (rank_of(it), idx)))
        .collect();
    let is_main = |it: &usize| chains[*it].cuts.len() > 1;
    let of = |idx: usize, before: Option<u32>, cut: &Option<NodeId>| {
        let rank = rank_of(cut);
        let nodes = nodes.get(&rank).map_or(&[][..], Vec::as_slice);
        let mut segment = segment(flow, nodes);
        // What only reads the cut, a pooling behind the last norm say, makes it no other segment.
        segment.class = class(flow, &leading_to(flow, nodes, *cut));
        let mut reads = BTreeSet::new();
        for node in nodes.iter().filter_map(|it| flow.graph.node(*it)) {
            let outside = flow.main_operands(node).filter_map(|it| ranks.get(it));
            reads.extend(outside.filter(|it| *it != rank));
        }
        let others = reads.iter().filter_map(|it| chain_of.get(it));
        segment.crosses = others.filter(|it| **it != idx).any(is_main);
        segment.is_residual = before.is_some_and(|before| {
            is_residual(flow, nodes, cut.as_ref(), |it| ranks.get(it) == Some(before))
        });
        segment
    };
    let all = chains.iter().enumerate().map(|(idx, chain)| {
        let before = std::iter::once(None).chain(chain.cuts.iter().map(Some));
        let pairs = before.zip(&chain.cuts);
        pairs.map(|(before, cut)| of(idx, before.map(rank_of), cut)).collect()
    });
    all.collect()
}

/// Operators that hold a whole attention.
const ATTENTION: &[&str] = &[
    "Attention",
    "QAttention",
    "MultiHeadAttention",
    "GroupQueryAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "DecoderMaskedMultiHeadAttention",
    "SparseAttention",
    "PagedAttention",
];

fn segment(flow: &Flow<'_>, nodes: &[NodeId]) -> Segment {
    let (mut out, mut products, mut softmaxes) = (Segment::default(), 0, 0);
    for &id in nodes {
        let Some(node) = flow.graph.node(id) else { continue };
        if let Some(product) = flow.products.get(&id) {
            out.weights.extend(product.dims.iter().cloned());
            out.params = out.params.saturating_add(product.params);
        }
        let name = node.op().map_or("", |it| it.name());
        out.attends |= ATTENTION.contains(&name);
        softmaxes += usize::from(name == "Softmax");
        let is_product = matches!(name, "MatMul" | "FusedMatMul" | "Einsum" | "MatMulInteger");
        products += usize::from(is_product && flow.main_operands(node).count() > 1);
    }
    out.attends |= softmaxes > 0 && products > 1;
    out.weights.sort();
    out
}

/// Those of `nodes`, in topological order, that a cut depends on; all where the cut is the end of
/// all.
fn leading_to(flow: &Flow<'_>, nodes: &[NodeId], cut: Option<NodeId>) -> Vec<NodeId> {
    let mut needed: BTreeSet<NodeId> = cut.into_iter().collect();
    for id in nodes.iter().rev() {
        if needed.contains(id) {
            needed.extend(flow.graph.node(*id).into_iter().flat_map(Node::uses).map(|it| it.node));
        }
    }
    nodes.iter().copied().filter(|it| cut.is_none() || needed.contains(it)).collect()
}

/// Whether the ways from a part, which `is_before` knows, to a cut differ in length, and one of
/// them is without products.
fn is_residual(
    flow: &Flow<'_>,
    nodes: &[NodeId],
    cut: Option<&NodeId>,
    is_before: impl Fn(NodeId) -> bool,
) -> bool {
    // Whether a node is reached from before it by a way with a product, and by one without.
    let mut ways: BTreeMap<NodeId, (bool, bool)> = BTreeMap::new();
    for &id in nodes.iter().filter(|it| flow.main.get(**it)) {
        let Some(node) = flow.graph.node(id) else { continue };
        let (mut with, mut without) = (false, false);
        for operand in flow.main_operands(node) {
            let found = ways.get(&operand).copied().unwrap_or((false, is_before(operand)));
            with |= found.0;
            without |= found.1;
        }
        if flow.products.contains_key(&id) {
            (with, without) = (with || without, false);
        }
        ways.insert(id, (with, without));
    }
    cut.and_then(|it| ways.get(it)).is_some_and(|it| it.0 && it.1)
}

/// Cuts a range of segments into pieces within the limit, where there are cuts.
fn bounded(segments: &[Segment], range: Range<usize>, max: u64) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let (mut start, mut sum) = (range.start, 0u64);
    for idx in range.clone() {
        let params = segments[idx].params;
        if params > 0 && sum > 0 && sum.saturating_add(params) > max {
            pieces.push(start..idx);
            (start, sum) = (idx, 0);
        }
        sum = sum.saturating_add(params);
    }
    pieces.push(start..range.end);
    pieces
}

/// Blocks must not need what comes after them. Where one would, for a graph that has a shape of
/// which nothing is known here, all from the one to the other become one.
fn in_order(flow: &Flow<'_>, mut ranks: Ranks) -> Ranks {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for (id, node) in flow.nodes() {
        let Some(rank) = ranks.get(id) else { continue };
        let late = node.uses().filter_map(|it| ranks.get(it.node)).max();
        spans.extend(late.filter(|it| *it > rank).map(|it| (rank, it)));
    }
    spans.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (low, high) in spans {
        match merged.last_mut() {
            Some(last) if low <= last.1 => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    for &id in &flow.order {
        let Some(rank) = ranks.get(id) else { continue };
        if let Some(span) = merged.iter().find(|it| it.0 <= rank && rank <= it.1) {
            ranks.set(id, Some(span.1));
        }
    }
    ranks
}

fn finish(flow: &Flow<'_>, sites: &[Site], parts: &[Part], ranks: &Ranks) -> Vec<Block> {
    let graph = flow.graph;
    let mut nodes: Vec<Vec<NodeId>> = vec![Vec::new(); parts.len()];
    for (id, _) in flow.nodes().filter(|it| it.1.op().is_some()) {
        if let Some(list) = ranks.get(id).and_then(|it| nodes.get_mut(it as usize)) {
            list.push(id);
        }
    }
    let mut of_node: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (idx, site) in sites.iter().enumerate() {
        let holder = site.scope.0.first().map_or(site.node, |it| it.node);
        of_node.entry(holder).or_default().push(idx);
    }
    let mut layers: BTreeMap<usize, usize> = BTreeMap::new();
    let mut blocks = Vec::new();
    for (rank, (part, nodes)) in parts.iter().zip(nodes).enumerate() {
        if nodes.is_empty() {
            continue;
        }
        let is_here = |id: NodeId| ranks.get(id).is_some_and(|it| it as usize == rank);
        let (mut inputs, mut side) = (BTreeSet::new(), BTreeSet::new());
        let (mut outputs, mut others) = (BTreeSet::new(), BTreeSet::new());
        for &id in &nodes {
            let Some(node) = graph.node(id) else { continue };
            let is_op = |it: &Value| graph.node(it.node).is_some_and(|it| it.op().is_some());
            let outside = node.uses().filter(|it| !(is_here(it.node) && is_op(it)));
            for value in outside.filter(|it| flow.varies.get(it.node)) {
                let is_main = flow.is_main(value);
                if is_main {
                    inputs.insert(value)
                } else {
                    side.insert(value)
                };
            }
            for value in graph.values_of(id) {
                let is_output = graph.is_output(value);
                let is_read = graph.users(value).iter().any(|it| !is_here(*it));
                if !is_output && !is_read {
                    continue;
                }
                let is_main = flow.is_main(value) && (is_read || flow.sinks.contains(&id));
                if is_main {
                    outputs.insert(value)
                } else {
                    others.insert(value)
                };
            }
        }
        let layer = (part.kind == Kind::Layer).then(|| {
            let next = layers.len();
            *layers.entry(part.group).or_insert(next)
        });
        let products = nodes.iter().filter(|it| flow.products.contains_key(it));
        let products: Vec<NodeId> = products.copied().collect();
        let params = products.iter().filter_map(|it| flow.products.get(it));
        let params = params.fold(0u64, |sum, it| sum.saturating_add(it.params));
        let mut weights: Vec<usize> =
            nodes.iter().filter_map(|it| of_node.get(it)).flatten().copied().collect();
        weights.sort_unstable();
        blocks.push(Block {
            kind: part.kind,
            layer,
            class: class(flow, &nodes),
            inputs: inputs.into_iter().collect(),
            side: side.into_iter().collect(),
            outputs: outputs.into_iter().collect(),
            others: others.into_iter().collect(),
            weights,
            products,
            params,
            nodes,
        });
    }
    blocks
}
