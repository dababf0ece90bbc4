//! What the samples are at the boundary of a block: in the float model, and in that of the weights
//! that have been chosen so far.

use std::collections::{BTreeMap, BTreeSet};

use qcc_ir::{Graph, Value};
use qcc_pass::{PassError, SampleSource};
use qcc_tensor::Tensor;

use super::part::Feed;
use crate::blocks::Block;

/// The values of one sample.
type Values = BTreeMap<Value, Tensor>;

/// The samples at the boundary of a block.
pub(super) struct Chain {
    /// Inputs of the model, by name.
    given: Vec<Feed>,
    float: Vec<Values>,
    /// Empty while it is the same as `float`: until a weight has been rounded.
    quantized: Vec<Values>,
}

/// Which of the two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Float,
    Quantized,
}

impl Chain {
    /// Reads the samples.
    pub(super) fn new(samples: &dyn SampleSource) -> Result<Self, PassError> {
        let mut given = Vec::with_capacity(samples.len());
        for idx in 0..samples.len() {
            given.push(samples.batch(idx)?.into_iter().collect());
        }
        let float = vec![Values::new(); given.len()];
        Ok(Self { given, float, quantized: Vec::new() })
    }

    /// Number of samples.
    pub(super) fn len(&self) -> usize {
        self.given.len()
    }

    /// What a block is given for one sample.
    pub(super) fn feed(&self, graph: &Graph, block: &Block, sample: usize, side: Side) -> Feed {
        let values = match side {
            Side::Quantized if !self.quantized.is_empty() => &self.quantized[sample],
            _ => &self.float[sample],
        };
        let mut feed = self.given[sample].clone();
        for value in block.inputs.iter().chain(&block.side) {
            if let Some(tensor) = values.get(value) {
                feed.insert(graph.value_name(*value).to_owned(), tensor.clone());
            }
        }
        feed
    }

    /// Whether rounded weights have changed anything yet.
    pub(super) fn has_parted(&self) -> bool {
        !self.quantized.is_empty()
    }

    /// Goes on behind a block: what it gives in the float model, and in the other one where that
    /// differs. Drops what no later block reads.
    pub(super) fn advance(
        &mut self,
        block: &Block,
        later: &[Block],
        float: Vec<Vec<Tensor>>,
        quantized: Option<Vec<Vec<Tensor>>>,
    ) {
        if quantized.is_some() && self.quantized.is_empty() {
            self.quantized = self.float.clone();
        }
        let results = block.results();
        for (values, found) in self.float.iter_mut().zip(float) {
            values.extend(results.iter().copied().zip(found));
        }
        for (values, found) in self.quantized.iter_mut().zip(quantized.into_iter().flatten()) {
            values.extend(results.iter().copied().zip(found));
        }
        let read: BTreeSet<Value> =
            later.iter().flat_map(|it| it.inputs.iter().chain(&it.side)).copied().collect();
        for values in self.float.iter_mut().chain(&mut self.quantized) {
            values.retain(|value, _| read.contains(value));
        }
    }
}
