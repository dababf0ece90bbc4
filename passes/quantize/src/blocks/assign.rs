//! Which node belongs to which part, when the ends of the parts are known.
//!
//! A node goes to the first part that reads it; one that nothing reads, such as a cache that is an
//! output, to the last part that it reads. What does not depend on the main path, masks say, goes
//! to a part only if no other one reads it.

use std::collections::BTreeMap;

use qcc_ir::NodeId;

use super::flow::Flow;
use crate::per_node::PerNode;

/// The part of each node, by rank: parts run in that order.
pub(super) type Ranks = PerNode<Option<u32>>;

/// Puts every node that varies into a part, or into none. `fixed` has the nodes whose part is
/// known, and `end` the part that computes the sinks that are not among them.
pub(super) fn assign(flow: &Flow<'_>, fixed: &BTreeMap<NodeId, u32>, end: Option<u32>) -> Ranks {
    let mut ranks = Ranks::new(flow.graph);
    for &id in &flow.sinks {
        ranks.set(id, end);
    }
    for (id, node) in flow.nodes().rev() {
        if let Some(&rank) = fixed.get(&id) {
            ranks.set(id, Some(rank));
        }
        let Some(rank) = ranks.get(id).filter(|_| flow.touched.get(id)) else { continue };
        for value in node.uses().filter(|it| flow.touched.get(it.node)) {
            let first = ranks.get(value.node).map_or(rank, |it| it.min(rank));
            ranks.set(value.node, Some(first));
        }
    }
    for (id, node) in flow.nodes().filter(|it| flow.touched.get(it.0)) {
        if ranks.get(id).is_none() {
            ranks.set(id, node.uses().filter_map(|it| ranks.get(it.node)).max());
        }
    }
    keep_shapes(flow, fixed, &mut ranks);
    take_side(flow, &mut ranks);
    ranks
}

/// A shape is taken where the value is made, unless the part that reads the shape reads the value
/// too: a part must not need a tensor of another one for its shape alone.
fn keep_shapes(flow: &Flow<'_>, fixed: &BTreeMap<NodeId, u32>, ranks: &mut Ranks) {
    let mut read: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
    for (id, node) in flow.nodes().filter(|it| flow.main.get(it.0)) {
        let Some(rank) = ranks.get(id) else { continue };
        for operand in flow.main_operands(node).filter(|&it| ranks.get(it) != Some(rank)) {
            read.entry(operand).or_default().push(rank);
        }
    }
    for (id, node) in flow.nodes() {
        let is_shape = flow.touched.get(id) && !flow.main.get(id) && !fixed.contains_key(&id);
        let Some(rank) = ranks.get(id).filter(|_| is_shape) else { continue };
        let mains = node.uses().map(|it| it.node).filter(|&it| flow.main.get(it));
        let is_missing = |it: &NodeId| {
            ranks.get(*it) != Some(rank) && !read.get(it).is_some_and(|it| it.contains(&rank))
        };
        let made = mains.filter(is_missing).filter_map(|it| ranks.get(it)).max();
        if let Some(made) = made {
            let others = node.uses().filter_map(|it| ranks.get(it.node)).max();
            ranks.set(id, Some(others.map_or(made, |it| it.max(made))));
        }
    }
}

/// Side values that one part alone reads.
fn take_side(flow: &Flow<'_>, ranks: &mut Ranks) {
    for (id, node) in flow.nodes().rev() {
        let is_side = flow.varies.get(id) && !flow.touched.get(id) && node.op().is_some();
        if !is_side || flow.graph.values_of(id).any(|it| flow.graph.is_output(it)) {
            continue;
        }
        let readers = flow.graph.values_of(id).flat_map(|it| flow.graph.users(it));
        let mut parts = readers.map(|it| ranks.get(it));
        let first = parts.next().flatten();
        if first.is_some() && parts.all(|it| it == first) {
            ranks.set(id, first);
        }
    }
}
