//! What the samples are at the boundary of a block: in the float model, and in that of the weights
//! that have been chosen so far.

use std::collections::{BTreeMap, BTreeSet};

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Value};
use qcc_pass::{PassError, SampleSource};
use qcc_tensor::{Store, Tensor};

use super::entry::Entry;
use super::few::Few;
use super::joint::Kind;
use super::part::Feed;
use crate::blocks::Block;

/// The values of one sample.
type Values = BTreeMap<Value, Tensor>;

/// What a block gives, for each sample: its results in their order.
pub(super) type Results = Vec<Vec<Tensor>>;

/// Smaller values stay where they are: a file for each would be too many.
const LEAST_KEPT: usize = 64 << 10;

/// The samples at the boundary of a block. A copy shares their values.
#[derive(Clone)]
pub(super) struct Chain {
    /// Inputs of the model, by name.
    given: Vec<Feed>,
    /// What the user counts the samples by.
    numbers: Vec<usize>,
    float: Vec<Values>,
    /// Empty while it is the same as `float`: until a weight has been rounded.
    quantized: Vec<Values>,
    /// Names of values that are not joined when samples run as one.
    same: BTreeSet<String>,
    store: Store,
}

/// Which of the two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Float,
    Quantized,
}

impl Chain {
    /// Reads the samples. Values are kept in `store`.
    pub(super) fn new(samples: &Few<'_>, store: &Store) -> Result<Self, PassError> {
        let mut given = Vec::with_capacity(samples.len());
        for idx in 0..samples.len() {
            given.push(samples.batch(idx)?.into_iter().collect());
        }
        let float = vec![Values::new(); given.len()];
        let (quantized, same) = (Vec::new(), BTreeSet::new());
        let numbers = (0..given.len()).map(|it| samples.number(it)).collect();
        Ok(Self { given, numbers, float, quantized, same, store: store.clone() })
    }

    /// Which of the samples of the run one is, from 0 on.
    pub(super) fn number(&self, sample: usize) -> usize {
        self.numbers.get(sample).copied().unwrap_or(sample)
    }

    /// The inputs of the model of the sample with the most bytes.
    pub(super) fn largest(&self) -> Option<&Feed> {
        let size = |it: &&Feed| it.values().map(|it| it.bytes().len()).sum::<usize>();
        self.given.iter().max_by_key(size)
    }

    /// Number of samples.
    pub(super) fn len(&self) -> usize {
        self.given.len()
    }

    /// Names of values that are not joined when samples run as one.
    pub(super) fn same(&self) -> &BTreeSet<String> {
        &self.same
    }

    /// What a block is given for some samples.
    pub(super) fn feeds(
        &self,
        graph: &Graph,
        block: &Block,
        samples: &[usize],
        side: Side,
    ) -> Vec<Feed> {
        samples.iter().map(|it| self.feed(graph, block, *it, side)).collect()
    }

    fn feed(&self, graph: &Graph, block: &Block, sample: usize, side: Side) -> Feed {
        let values = match side {
            Side::Quantized if self.has_parted() => &self.quantized[sample],
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
        graph: &Graph,
        (block, later): (&Block, &[Block]),
        kinds: Option<&[Kind]>,
        float: Results,
        quantized: Option<Results>,
    ) {
        if quantized.is_some() && self.quantized.is_empty() {
            self.quantized = self.float.clone();
        }
        let results = block.results();
        for (value, kind) in results.iter().zip(kinds.unwrap_or_default()) {
            if *kind == Kind::Same {
                self.same.insert(graph.value_name(*value).to_owned());
            }
        }
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

    /// All that is known behind a block, as an entry.
    pub(super) fn entry(&self, graph: &Graph) -> Entry {
        let none = Tensor::vector(Vec::<u8>::new());
        let mut entry: Entry =
            self.same.iter().map(|it| (format!("same/{it}"), none.clone())).collect();
        for (side, samples) in [("float", &self.float), ("quantized", &self.quantized)] {
            entry.push((format!("{side}/{}", samples.len()), none.clone()));
            for (sample, values) in samples.iter().enumerate() {
                let name = |it: &Value| format!("{side}/{sample}/{}", graph.value_name(*it));
                entry.extend(values.iter().map(|(value, it)| (name(value), it.clone())));
            }
        }
        entry
    }

    /// Goes on from an entry, with the values that `later` blocks read. Whether that can be done.
    pub(super) fn restore(&mut self, graph: &Graph, later: &[Block], entry: Entry) -> bool {
        let entry: BTreeMap<String, Tensor> = entry.into_iter().collect();
        let count = self.given.len();
        let side = |side: &str| {
            let read = later.iter().flat_map(|it| it.inputs.iter().chain(&it.side));
            let read: BTreeSet<Value> = read.copied().collect();
            (0..count)
                .map(|sample| {
                    let named = |it: &Value| {
                        let name = format!("{side}/{sample}/{}", graph.value_name(*it));
                        Some((*it, entry.get(&name)?.clone()))
                    };
                    read.iter().filter_map(named).collect::<Values>()
                })
                .collect::<Vec<Values>>()
        };
        if !entry.contains_key(&format!("float/{count}")) {
            return false;
        }
        self.float = side("float");
        let has_parted = entry.contains_key(&format!("quantized/{count}"));
        self.quantized = if has_parted { side("quantized") } else { Vec::new() };
        let same = entry.keys().filter_map(|it| it.strip_prefix("same/"));
        self.same = same.map(str::to_owned).collect();
        true
    }

    /// Puts the results of a sample where values are kept.
    pub(super) fn keep(&self, found: Vec<Tensor>) -> Result<Vec<Tensor>, PassError> {
        found.into_iter().map(|it| keep(&self.store, it)).collect()
    }
}

fn keep(store: &Store, tensor: Tensor) -> Result<Tensor, PassError> {
    let bytes = tensor.bytes();
    if bytes.len() < LEAST_KEPT || tensor.as_strings().is_some() {
        return Ok(tensor);
    }
    let mut buffer = store.take(bytes.len()).map_err(|error| {
        Diagnostic::error(codes::QCC0502, "there is no room for what the samples are in a block")
            .with_note(error.to_string())
            .with_help("raise --max-mem, take fewer samples (-n), or set TMPDIR to a folder with more space")
    })?;
    buffer.bytes_mut().copy_from_slice(bytes);
    Ok(Tensor::new(tensor.dtype(), tensor.dims().into(), buffer.freeze())?)
}
