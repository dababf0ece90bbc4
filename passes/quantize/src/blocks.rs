//! Blocks: the layers of a model, found from its graph alone.
//!
//! No names and no table of models: `flow` tells the main path from what only helps it, `cuts`
//! finds the nodes that all of it goes through, and `layers` what repeats between them. Every
//! node that depends on the main path is in one block, and blocks run in their order: given its
//! [`Block::inputs`] and [`Block::side`], a part of a graph computes what later ones read.
//!
//! Types should have been inferred, and functions inlined: a call is one node. Regions of `If`,
//! `Loop` and `Scan` are not looked into; their node is in a block as a whole.

mod assign;
mod class;
mod cuts;
mod flow;
mod layers;
mod make;
mod method;
mod split;
#[cfg(test)]
mod tests;

use qcc_ir::{Graph, NodeId, Value};

use crate::sites::Site;

pub use method::Method;
pub(crate) use method::{SHARED, shared};

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A layer, or a part of one that is too large.
    Layer,
    /// What comes before the first layer: embeddings, convolutions of a patch.
    Before,
    /// What comes after the last layer: the last norm, a head.
    After,
    /// One product, or more that nothing can be put between, in a row that does not repeat.
    Single,
}

impl Kind {
    /// One word.
    pub fn text(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Before => "before",
            Self::After => "after",
            Self::Single => "single",
        }
    }
}

/// A part of the outermost graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it is.
    pub kind: Kind,
    /// Which layer of the model, from 0, in the order of blocks. Blocks share one when it was too
    /// large.
    pub layer: Option<usize>,
    /// Operators, in topological order. Those that follow from constants alone are in no block.
    pub nodes: Vec<NodeId>,
    /// Values of the main path that it reads: results of earlier blocks, and float inputs.
    pub inputs: Vec<Value>,
    /// Other values that it reads, constants left out: masks, positions, rotary tables, caches,
    /// shapes. They are inputs of the graph, or follow from them without any block, or are among
    /// [`Block::others`] of an earlier one.
    pub side: Vec<Value>,
    /// Values of the main path that later blocks read, or that the model ends with.
    pub outputs: Vec<Value>,
    /// Other values of it that are read outside: further outputs of the graph, and shapes.
    pub others: Vec<Value>,
    /// Which of the uses of weights are in it, its regions included.
    pub weights: Vec<usize>,
    /// Nodes that multiply by weights, quantized ones too.
    pub products: Vec<NodeId>,
    /// Elements of the weights that are multiplied by. Tables are not counted.
    pub params: u64,
    /// Structural class: equal for blocks of the same operators, put together alike, with weights
    /// of the same types.
    pub class: u64,
}

impl Block {
    /// All that is read outside: [`Block::outputs`], then [`Block::others`].
    pub fn results(&self) -> Vec<Value> {
        self.outputs.iter().chain(&self.others).copied().collect()
    }
}

/// How blocks are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOptions {
    /// Most elements of the weights of a block. One with more is split where at most three values
    /// cross; a single product is left as it is.
    pub max_params: u64,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self { max_params: 64 << 20 }
    }
}

/// Finds the blocks of the outermost graph, in an order in which they can run. `sites` are its
/// uses of weights, by [`find_sites`](crate::find_sites).
pub fn blocks(graph: &Graph, sites: &[Site], options: &BlockOptions) -> Vec<Block> {
    make::blocks(&flow::Flow::of(graph, sites), sites, options)
}
