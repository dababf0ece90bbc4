//! Paths into the regions of a graph.

use crate::{Graph, Kind, NodeId, Value};

/// One step inwards: a region of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// The node that holds the region.
    pub node: NodeId,
    /// Which of its regions.
    pub region: usize,
}

/// Where a graph lies inside the outermost one: the steps from outside in. Empty for the
/// outermost graph itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Scope(pub Vec<Step>);

impl Scope {
    /// The outermost graph.
    pub fn root() -> Self {
        Self::default()
    }

    /// A region inside this scope.
    #[must_use]
    pub fn inner(&self, node: NodeId, region: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step { node, region });
        Self(steps)
    }

    /// The scope around this one, and the step that leads back; `None` for the outermost.
    pub fn split_last(&self) -> Option<(Self, Step)> {
        let (&last, rest) = self.0.split_last()?;
        Some((Self(rest.to_vec()), last))
    }
}

impl Graph {
    /// Every graph: this one first, then the regions of its nodes in order, depth first.
    pub fn scopes(&self) -> Vec<Scope> {
        fn walk(graph: &Graph, scope: &Scope, all: &mut Vec<Scope>) {
            all.push(scope.clone());
            for id in graph.topo() {
                for (idx, region) in graph[id].regions.iter().enumerate() {
                    walk(&region.graph, &scope.inner(id, idx), all);
                }
            }
        }
        let mut all = Vec::new();
        walk(self, &Scope::root(), &mut all);
        all
    }

    /// The graph at a scope; `None` when it does not exist.
    pub fn at(&self, scope: &Scope) -> Option<&Graph> {
        scope.0.iter().try_fold(self, |graph, step| {
            graph.node(step.node)?.regions.get(step.region).map(|it| &it.graph)
        })
    }

    /// The graph at a scope, to be changed by patches.
    pub(crate) fn at_mut(&mut self, steps: &[Step]) -> Option<&mut Graph> {
        let mut graph = self;
        for step in steps {
            graph = &mut graph.node_mut(step.node)?.regions.get_mut(step.region)?.graph;
        }
        Some(graph)
    }

    /// Follows captures outwards to the value that they stand for.
    pub fn resolve(&self, scope: &Scope, value: Value) -> Option<(Scope, Value)> {
        let (mut scope, mut value) = (scope.clone(), value);
        loop {
            let graph = self.at(&scope)?;
            if !matches!(graph.node(value.node)?.kind, Kind::Capture) {
                return Some((scope, value));
            }
            let position = graph.captures().iter().position(|&it| it == value.node)?;
            let (outer, step) = scope.split_last()?;
            let holder = self.at(&outer)?.node(step.node)?;
            value = *holder.regions.get(step.region)?.captures.get(position)?;
            scope = outer;
        }
    }
}
