//! Names that are taken.

use std::collections::BTreeSet;

use crate::{Graph, Node, NodeId};

/// Names of nodes and values in every scope, so that no new name hides an old one.
#[derive(Debug)]
pub(crate) struct Names {
    values: BTreeSet<String>,
    nodes: BTreeSet<String>,
}

impl Names {
    pub(crate) fn of(graph: &Graph) -> Self {
        fn walk(graph: &Graph, names: &mut Names) {
            for (_, node) in graph.nodes() {
                names.nodes.insert(node.name.clone());
                names.values.extend(node.outputs.iter().map(|it| it.name.clone()));
                for region in &node.regions {
                    walk(&region.graph, names);
                }
            }
        }
        let mut names = Self { values: BTreeSet::new(), nodes: BTreeSet::new() };
        walk(graph, &mut names);
        names
    }

    pub(crate) fn unique_value(&mut self, name: &str) -> String {
        unique(&mut self.values, name)
    }

    pub(crate) fn unique_node(&mut self, name: &str) -> String {
        unique(&mut self.nodes, name)
    }

    /// Makes every name of a new graph unique, inside of its nodes as well.
    pub(crate) fn rename_inside(&mut self, graph: &mut Graph) {
        let ids: Vec<NodeId> = graph.nodes().map(|it| it.0).collect();
        for id in ids {
            let Some(node) = graph.node_mut(id) else { continue };
            if !node.name.is_empty() {
                node.name = self.unique_node(&node.name);
            }
            for output in node.outputs.iter_mut().filter(|it| !it.name.is_empty()) {
                output.name = self.unique_value(&output.name);
            }
            for region in &mut node.regions {
                self.rename_inside(&mut region.graph);
            }
        }
    }

    /// A removed node frees its own name; names of values stay taken, since a value that replaced
    /// one of them may carry it.
    pub(crate) fn release(&mut self, node: &Node) {
        self.nodes.remove(&node.name);
    }
}

fn unique(taken: &mut BTreeSet<String>, name: &str) -> String {
    let mut candidate = name.to_owned();
    let mut count = 1;
    while !taken.insert(candidate.clone()) {
        count += 1;
        candidate = format!("{name}_{count}");
    }
    candidate
}
