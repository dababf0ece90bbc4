//! A table beside a graph.

use qcc_ir::{Graph, NodeId};

/// A table of one entry for each node.
#[derive(Clone, Debug)]
pub(crate) struct PerNode<T>(Vec<T>);

impl<T: Copy + Default> PerNode<T> {
    pub(crate) fn new(graph: &Graph) -> Self {
        Self(vec![T::default(); graph.id_bound()])
    }

    pub(crate) fn get(&self, id: NodeId) -> T {
        self.0.get(id.index()).copied().unwrap_or_default()
    }

    pub(crate) fn set(&mut self, id: NodeId, value: T) {
        if let Some(slot) = self.0.get_mut(id.index()) {
            *slot = value;
        }
    }
}
