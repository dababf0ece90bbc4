//! How the weights of a block can be tuned.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Each by itself: says which operator has no derivative, or that other blocks read them too.
    Layer(String),
}

/// Why a weight that more than one block reads is tuned by itself: a block would choose it for what
/// that block gives alone.
pub(crate) const SHARED: &str = "several blocks read it";

/// Weights that products of more than one block read.
pub(crate) fn shared(sites: &[Site], blocks: &[Block]) -> BTreeSet<Value> {
    let mut read: BTreeMap<Value, BTreeSet<usize>> = BTreeMap::new();
    for (at, block) in blocks.iter().enumerate() {
        for weight in tuned(sites, block) {
            read.entry(weight).or_default().insert(at);
        }
    }
    read.into_iter().filter(|it| it.1.len() > 1).map(|it| it.0).collect()
}

/// The weights of the outermost graph that the products of a block read, the head left out.
fn tuned<'a>(sites: &'a [Site], block: &'a Block) -> impl Iterator<Item = Value> + 'a {
    let sites = block.weights.iter().filter_map(|it| sites.get(*it));
    let tuned = sites.filter(|it| !matches!(it.role, Role::Table | Role::Head));
    tuned.filter(|it| it.weight.scope.0.is_empty()).map(|it| it.weight.source)
}

impl Method {
    /// Of each of the `blocks` of `graph`, the copy that is differentiated; `sites` are its uses of
    /// weights.
    pub fn each(graph: &Graph, sites: &[Site], blocks: &[Block]) -> Vec<Self> {
        let shared = shared(sites, blocks);
        blocks.iter().map(|it| Self::of(graph, sites, it, &shared)).collect()
    }

    fn of(graph: &Graph, sites: &[Site], block: &Block, shared: &BTreeSet<Value>) -> Self {
        let constant = |it: &Value| graph.constant(*it).is_some();
        let weights: BTreeSet<Value> = tuned(sites, block).filter(constant).collect();
        let own: Vec<Value> = weights.difference(shared).copied().collect();
        if weights.is_empty() {
            return Self::None;
        }
        if own.is_empty() {
            return Self::Layer("several blocks read its weights".to_owned());
        }
        match blockwise::obstacle(graph, &block.outputs, &own) {
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
