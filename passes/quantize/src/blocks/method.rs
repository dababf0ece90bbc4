//! How the weights of a block can be tuned.

use std::collections::BTreeSet;

use qcc_ir::{Graph, Value};

use super::Block;
use crate::blockwise;
use crate::sites::{Role, Site};

/// How the weights of a block can be tuned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// It has none that are tuned in a block: no weights, or the head of the model.
    None,
    /// Together, for what the block gives.
    Block,
    /// Each by itself: says which operator has no derivative.
    Layer(String),
}

impl Method {
    /// Of a block of `graph`, the copy that is differentiated; `sites` are its uses of weights.
    pub fn of(graph: &Graph, sites: &[Site], block: &Block) -> Self {
        let sites = block.weights.iter().filter_map(|it| sites.get(*it));
        let tuned = sites.filter(|it| !matches!(it.role, Role::Table | Role::Head));
        let tuned = tuned.filter(|it| it.weight.scope.0.is_empty()).map(|it| it.weight.source);
        let weights: BTreeSet<Value> = tuned.filter(|it| graph.constant(*it).is_some()).collect();
        let weights: Vec<Value> = weights.into_iter().collect();
        if weights.is_empty() {
            return Self::None;
        }
        match blockwise::obstacle(graph, &block.outputs, &weights) {
            None => Self::Block,
            Some(why) => Self::Layer(why),
        }
    }

    /// One word.
    pub fn text(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Block => "block",
            Self::Layer(_) => "layer",
        }
    }
}
