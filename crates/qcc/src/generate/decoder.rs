//! A language model that is run on more and more tokens: one plan with open dimensions for runs of
//! any length, and the cache of keys and values between them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use qcc_data::{CacheShape, DataError, ModelInput, cache_pairs, inputs_after};
use qcc_exec::{Bound, ExecError, Label, Plan, PlanOptions, Profile};
use qcc_ir::{Graph, Type, Value};
use qcc_ops::group_query::GroupQueryAttention;
use qcc_tensor::{DType, Dim, Tensor, TensorError};

/// Tokens that a cache has room for besides those that need it now, at least.
const ROOM: usize = 64;

/// Tokens of a run from which on its memory is found out before it: from here on it may be more
/// than there is, and finding it out takes no time beside the run.
const LONG: usize = 2048;

/// Why a model cannot be run on tokens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    /// An input does not follow from the tokens.
    #[error("{0}")]
    Data(#[from] DataError),
    /// The graph cannot be run.
    #[error("it cannot be run: {0}")]
    Exec(#[from] ExecError),
    /// A tensor of the cache is not what it should be.
    #[error("{0}")]
    Tensor(#[from] TensorError),
    /// An output that the cache needs is not there.
    #[error("it gives no '{0}'")]
    NoOutput(String),
}

/// What earlier runs left to the next one.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// How many tokens it holds.
    tokens: usize,
    /// By name of the input.
    tensors: Vec<(String, Tensor)>,
    /// Most tokens that it will hold, as far as one knows.
    expected: usize,
}

impl Cache {
    /// An empty one, for this many tokens.
    pub(crate) fn expecting(tokens: usize) -> Self {
        Self { expected: tokens, ..Self::default() }
    }
}

type Planned = (Vec<(String, Bound)>, Plan);

/// A model that is run on tokens.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    graph: Cow<'a, Graph>,
    inputs: Vec<ModelInput>,
    sizes: Option<CacheShape>,
    pairs: Option<Vec<(String, String)>>,
    /// Whether the cache may be longer than what it holds.
    has_room: bool,
    options: PlanOptions,
    /// The plan that was used last. Buffers are its own, and go with it.
    planned: Option<Planned>,
    /// The longest run that has room in memory.
    fitting: usize,
}

impl<'a> Decoder<'a> {
    /// A decoder of a graph that is ready to be run. `inputs` are those that each run brings.
    pub(crate) fn new(
        graph: Cow<'a, Graph>,
        inputs: &[ModelInput],
        sizes: Option<CacheShape>,
        options: PlanOptions,
    ) -> Self {
        let outputs: Vec<&str> = graph.outputs().iter().map(|&it| graph.value_name(it)).collect();
        let pairs = cache_pairs(inputs, &outputs);
        let is_f32 = |name: &str| {
            let input = inputs.iter().find(|it| it.name == name);
            input.is_some_and(|it| it.dtype == Some(DType::F32))
        };
        let has_room = pairs
            .as_ref()
            .is_some_and(|pairs| pairs.iter().all(|it| is_f32(&it.0)) && is_shared(&graph, pairs));
        let inputs = inputs.to_vec();
        Self { graph, inputs, sizes, pairs, has_room, options, planned: None, fitting: LONG }
    }

    /// Inputs of the cache, and the outputs that they are fed with; `None` without a cache.
    pub(crate) fn pairs(&self) -> Option<&[(String, String)]> {
        self.pairs.as_deref()
    }

    /// Takes the cache for one that is as long as what it holds.
    #[cfg(test)]
    pub(crate) fn forget_room(&mut self) {
        self.has_room = false;
    }

    /// Runs whole rows.
    #[cfg(test)]
    pub(crate) fn forget_cache(&mut self) {
        self.pairs = None;
    }

    /// Time of each operator, where the options ask for it.
    pub(crate) fn profile(&self) -> Profile {
        self.planned.as_ref().map(|it| it.1.profile()).unwrap_or_default()
    }

    /// Inputs for tokens `[batch, length]` behind `past` others, without the cache unless it is
    /// empty.
    pub(crate) fn feed(
        &self,
        ids: &Tensor,
        past: usize,
    ) -> Result<BTreeMap<String, Tensor>, DecodeError> {
        Ok(inputs_after(&self.inputs, ids, past, self.sizes)?.into_iter().collect())
    }

    /// Runs on tokens `[batch, length]` that follow those of the cache, and keeps their keys and
    /// values there: the other outputs. Without a cache the tokens are all that there are.
    pub(crate) fn run(
        &mut self,
        ids: &Tensor,
        cache: &mut Cache,
    ) -> Result<Vec<(String, Tensor)>, DecodeError> {
        let length = ids.dims().last().copied().unwrap_or(0);
        let past = if self.pairs.is_some() { cache.tokens } else { 0 };
        let mut feed = self.feed(ids, past)?;
        let batch = ids.dims().first().copied().unwrap_or(0);
        let bound = self.bound(batch, &feed);
        if self.planned.as_ref().is_none_or(|it| it.0 != bound) {
            self.planned = None; // its memory goes first
            let plan = Plan::new(&self.graph, &bound, &self.options)?;
            self.planned = Some((bound, plan));
        }
        self.check(length, &feed)?;
        let Some((_, plan)) = &self.planned else { return Ok(Vec::new()) };
        if past > 0 {
            if self.has_room {
                cache.grow(plan, past + length)?;
            }
            feed.extend(cache.tensors.drain(..));
        }
        let mut outputs = plan.run_giving(feed)?;
        if let Some(pairs) = &self.pairs {
            cache.tensors.clear();
            for (input, output) in pairs {
                let at = outputs.iter().position(|it| it.0 == *output);
                let at = at.ok_or_else(|| DecodeError::NoOutput(output.clone()))?;
                cache.tensors.push((input.clone(), outputs.swap_remove(at).1));
            }
            cache.tokens = past + length;
        }
        Ok(outputs)
    }

    /// That a long run has room in memory. The plan for runs of any length does not know; one for
    /// this length does.
    fn check(&mut self, length: usize, feed: &BTreeMap<String, Tensor>) -> Result<(), ExecError> {
        if length <= self.fitting {
            return Ok(());
        }
        let bound: Vec<_> = feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
        // With a cache in use its length is missing here, and only new tokens run.
        if let Ok(plan) = Plan::new(&self.graph, &bound, &PlanOptions::default()) {
            plan.fits()?;
        }
        self.fitting = length + ROOM;
        Ok(())
    }

    /// What a plan for runs of any length is told: a dimension is open if it differs between runs
    /// of different lengths. Where the length is fixed, the shapes of the feed.
    fn bound(&self, batch: usize, feed: &BTreeMap<String, Tensor>) -> Vec<(String, Bound)> {
        let known = |(bound, _): &Planned| {
            let is_same = |(name, bound): &(String, Bound)| match (bound, feed.get(name)) {
                (Bound::Open(_, dims), Some(it)) => {
                    let pairs = dims.iter().zip(it.dims());
                    pairs.into_iter().all(|(dim, size)| dim.known().is_none_or(|it| it == *size))
                }
                (Bound::Shape(_, dims), Some(it)) => dims == it.dims(),
                // The cache comes later.
                _ => true,
            };
            bound.iter().all(is_same)
        };
        if let Some(planned) = self.planned.as_ref().filter(|it| known(it)) {
            return planned.0.clone();
        }
        self.open(batch).unwrap_or_else(|| {
            feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect()
        })
    }

    fn open(&self, batch: usize) -> Option<Vec<(String, Bound)>> {
        let at = |length: usize, past: usize| {
            let ids = Tensor::from_vec(vec![batch, length], vec![0i64; batch.checked_mul(length)?]);
            self.feed(&ids.ok()?, past).ok()
        };
        let token = qcc_data::token_input(&self.inputs).and_then(|at| self.inputs.get(at))?;
        if token.dims.as_ref().and_then(|it| it.last()).is_some_and(|it| it.known().is_some()) {
            return None;
        }
        let (base, longer) = (at(2, 0)?, at(3, 0)?);
        let later = if self.pairs.is_some() { at(2, 5)? } else { BTreeMap::new() };
        let mut bound = Vec::with_capacity(base.len());
        for (name, tensor) in base {
            let (longer, later) = (longer.get(&name)?, later.get(&name));
            let is_past = self.pairs.iter().flatten().any(|it| it.0 == name);
            let dim = |axis: usize, size: usize| {
                let of = |it: &Tensor| it.dims().get(axis).copied();
                let (b, c) = (of(longer), later.map(of));
                match size {
                    0 if is_past => Dim::symbol("past"),
                    _ if b != Some(size) && c.is_none_or(|it| it == Some(size)) => {
                        Dim::symbol("tokens")
                    }
                    _ if b != Some(size) => Dim::symbol("total"),
                    _ if c.is_none_or(|it| it == Some(size)) => Dim::Known(size),
                    _ => Dim::Unknown,
                }
            };
            let dims = tensor.dims().iter().enumerate().map(|(axis, &size)| dim(axis, size));
            bound.push((name, Bound::Open(tensor.dtype(), dims.collect())));
        }
        Some(bound)
    }
}

impl Cache {
    /// Makes room for so many tokens, and for more of them at once, so that few steps copy it:
    /// `[batch, heads, tokens, size]`.
    fn grow(&mut self, plan: &Plan, tokens: usize) -> Result<(), DecodeError> {
        for (name, tensor) in &mut self.tensors {
            let [batch, heads, held, size] = *tensor.dims() else { continue };
            if held >= tokens {
                continue;
            }
            // Not more than twice what there is, whatever is expected.
            let most = tokens.saturating_mul(2).saturating_add(ROOM);
            let room = self.expected.clamp(tokens, most);
            let want = [batch, heads, room, size];
            let Some(len) = qcc_tensor::checked_len(&want) else { continue };
            let full = |error: TensorError| ExecError::Node {
                node: Label { op: "the cache".into(), name: name.clone() },
                inputs: vec![Type::of(tensor).to_string()],
                error: Box::new(error.into()),
            };
            let mut buffer = plan.pool().take(len).map_err(full)?;
            {
                let old = tensor.to_f32()?;
                let rows = buffer.chunks_exact_mut((room * size).max(1));
                for (row, old) in rows.zip(old.chunks_exact((held * size).max(1))) {
                    let (kept, free) = row.split_at_mut(old.len());
                    kept.copy_from_slice(old);
                    free.fill(0.0);
                }
            }
            *tensor = plan.pool().tensor(want.to_vec(), buffer)?;
        }
        Ok(())
    }
}

/// Whether the caches are read and given by nothing but `GroupQueryAttention`, which is told how
/// many tokens they hold.
fn is_shared(graph: &Graph, pairs: &[(String, String)]) -> bool {
    let values: BTreeMap<&str, Value> = graph
        .inputs()
        .iter()
        .map(|&node| Value { node, slot: 0 })
        .map(|it| (graph.value_name(it), it))
        .collect();
    let given: BTreeMap<&str, Value> =
        graph.outputs().iter().map(|&it| (graph.value_name(it), it)).collect();
    pairs.iter().all(|(input, output)| {
        let (Some(&past), Some(&present)) =
            (values.get(input.as_str()), given.get(output.as_str()))
        else {
            return false;
        };
        let &[reader] = graph.users(past).as_slice() else { return false };
        let Some(node) = graph.node(reader) else { return false };
        let is_attention = node.op().is_some_and(|it| it.is::<GroupQueryAttention>().is_some());
        let slot = [3, 4].into_iter().find(|&at| node.inputs.get(at) == Some(&Some(past)));
        is_attention
            && present.node == reader
            && slot.is_some_and(|it| present.slot as usize + 2 == it)
    })
}
