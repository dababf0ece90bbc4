//! Topological order that depends only on the graph: Kahn's algorithm, where of all nodes that are
//! ready the one that stands first in the source comes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::{Graph, Kind, Node, NodeId, Place};

/// What comes first of the nodes that are ready: captures, which come into being after the nodes
/// that read them, would else hold those back; then by place.
fn rank(node: &Node) -> (bool, Place) {
    (!matches!(node.kind, Kind::Capture), node.place)
}

impl Graph {
    /// All nodes, each after those whose outputs it reads. Ties go by place in the source, so the
    /// order of a valid file is kept. Nodes on a cycle, which the builder and patches refuse, are
    /// left out.
    pub fn topo(&self) -> Vec<NodeId> {
        let mut waits = vec![0usize; self.id_bound()];
        let mut readers: Vec<Vec<NodeId>> = vec![Vec::new(); self.id_bound()];
        let mut ready = BinaryHeap::new();
        for (id, node) in self.nodes() {
            for value in node.uses() {
                waits[id.index()] += 1;
                if let Some(list) = readers.get_mut(value.node.index()) {
                    list.push(id);
                }
            }
            if waits[id.index()] == 0 {
                ready.push(Reverse((rank(node), id)));
            }
        }
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse((_, id))) = ready.pop() {
            order.push(id);
            for &reader in &readers[id.index()] {
                waits[reader.index()] -= 1;
                if waits[reader.index()] == 0 {
                    ready.push(Reverse((rank(&self[reader]), reader)));
                }
            }
        }
        order
    }

    /// Some cycle, as nodes that each read the one before; `None` if there is none.
    pub(crate) fn cycle(&self) -> Option<Vec<NodeId>> {
        let mut on_cycle = vec![false; self.id_bound()];
        for (id, _) in self.nodes() {
            on_cycle[id.index()] = true;
        }
        for id in self.topo() {
            on_cycle[id.index()] = false;
        }
        // Each node that is left reads another one that is left: going back must come around.
        let mut path = vec![self.nodes().find(|(id, _)| on_cycle[id.index()])?.0];
        loop {
            let last = *path.last()?;
            let before = self[last].uses().find(|it| on_cycle[it.node.index()])?.node;
            if let Some(start) = path.iter().position(|&it| it == before) {
                let mut cycle = path.split_off(start);
                cycle.reverse();
                return Some(cycle);
            }
            path.push(before);
        }
    }
}
