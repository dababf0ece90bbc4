//! Block-wise tuning: rounding and scales of all weights of a block at a time, by signs of the
//! gradients of the error of what the block gives.
//!
//! Blocks are tuned in their order. The samples run through the float model, which gives what a
//! block should give, and through that of the weights chosen so far, which gives what the block
//! will read. A block starts from scales searched with the mean squares of its inputs; every few
//! steps it is tried on samples that no step has seen, and the best that was tried is kept, the
//! start among them.
//!
//! Source: arXiv 2309.05516; the parameters and their update: [`qcc_quant::tuner`].

mod chain;
mod gradient;
mod part;
mod tune;
mod weights;

use std::collections::BTreeMap;

use qcc_ir::{Graph, Patch, Scope, Value};
use qcc_pass::{Ctx, PassError, SampleSource, WorkingCopy};

use crate::activations::{Squares, Sums as _, in_float};
use crate::blocks::{BlockOptions, blocks};
use crate::choose::{self, Weight};
use crate::sites::find_sites;

use chain::{Chain, Side};
use part::Part;
use tune::Objective;
use weights::Tuned;

/// How blocks are tuned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Steps of each block.
    pub(crate) steps: u16,
    /// Samples of each step.
    pub(crate) batch: usize,
}

/// What became of the weights.
pub(crate) struct Outcome {
    /// Patches of those that were tuned.
    pub(crate) patches: Vec<Patch>,
    /// Those that were not: which, and why.
    pub(crate) left: Vec<(usize, String)>,
}

/// Tunes the weights, block after block.
///
/// # Errors
/// When the model cannot run on the samples, or the run is cancelled.
pub(crate) fn tune(
    root: &Graph,
    ctx: &mut Ctx<'_>,
    pass: &'static str,
    weights: &[Weight],
    samples: &dyn SampleSource,
    options: Options,
) -> Result<Outcome, PassError> {
    let sources = sources(root, weights);
    let taps: Vec<(Scope, Value)> = sources.iter().flatten().cloned().collect();
    let session = ctx.session;
    let copy = WorkingCopy::through(&in_float(root)?, &taps, &session.tuning_copy, session)?;
    let graph = &copy.graph;
    // Which weight a constant of the copy is.
    let mut index: BTreeMap<Value, usize> = BTreeMap::new();
    for (idx, source) in sources.iter().enumerate() {
        let value = source.as_ref().and_then(|it| copy.tap(it)).filter(|it| it.0.0.is_empty());
        if let Some((_, value)) = value {
            index.insert(*value, idx);
        }
    }
    let sites = find_sites(graph);
    let found = blocks(graph, &sites, &BlockOptions::default());
    let mut chain = Chain::new(samples)?;
    let mut outcome = Outcome { patches: Vec::new(), left: Vec::new() };
    let mut reason: BTreeMap<usize, String> = BTreeMap::new();
    let work = found.iter().filter(|it| !it.weights.is_empty()).count() as u64;
    ctx.session.progress.start(pass, work * u64::from(options.steps));
    for (at, block) in found.iter().enumerate() {
        ctx.check_cancelled()?;
        let mut chosen: BTreeMap<usize, (Value, Value)> = BTreeMap::new();
        for &site in &block.weights {
            let Some(site) = sites.get(site) else { continue };
            let Some(&idx) = index.get(&site.weight.source) else { continue };
            let left = graph.node(site.node).and_then(|it| it.inputs.first().copied().flatten());
            if let Some(left) = left {
                chosen.insert(idx, (site.weight.source, left));
            }
        }
        let results: Vec<Value> = block.outputs.iter().chain(&block.others).copied().collect();
        let tapped: Vec<Value> = chosen.values().map(|it| it.1).collect();
        let mut squares: BTreeMap<usize, Squares> = BTreeMap::new();
        for (&idx, _) in &chosen {
            squares.insert(idx, Squares::new(weights[idx].quant.form.k));
        }
        let mut part = Part::new(graph, results.clone(), tapped, &session.pool);
        let mut wanted = Vec::with_capacity(chain.len());
        for sample in 0..chain.len() {
            let feed = chain.feed(graph, block, sample, Side::Float);
            let mut failed = None;
            let outputs = part.run(&feed, &mut |value, tensor| {
                for (idx, (_, left)) in &chosen {
                    if let (true, Some(sum)) = (*left == value, squares.get_mut(idx)) {
                        let added =
                            tensor.to_f32().map_err(PassError::from).and_then(|it| sum.add(&it));
                        failed = failed.take().or(added.err());
                    }
                }
            });
            let outputs = outputs.map_err(crate::activations::error)?;
            failed.map_or(Ok(()), Err)?;
            wanted.push(outputs);
        }
        let mut tuned = Vec::new();
        for (&idx, (value, _)) in &chosen {
            let name = graph.value_name(*value).to_owned();
            let d = squares.get(&idx).and_then(Squares::mean);
            tuned.push(Tuned::new(
                (idx, &weights[idx]),
                (*value, name),
                d.as_deref(),
                options.steps,
            )?);
        }
        if !tuned.is_empty() {
            let objective = Objective { graph, block, chain: &chain, wanted: &wanted, at };
            if let Err(why) = objective.tune(&mut tuned, ctx, options)? {
                reason.extend(tuned.iter().map(|it| (it.index, why.clone())));
            }
            chain.part();
        }
        if chain.has_parted() {
            let mut part = Part::new(graph, results.clone(), Vec::new(), &session.pool);
            let rounded = tuned.iter().map(|it| Ok((it.name.clone(), it.best()?)));
            let rounded = rounded.collect::<Result<Vec<_>, PassError>>()?;
            for sample in 0..chain.len() {
                let mut feed = chain.feed(graph, block, sample, Side::Quantized);
                feed.extend(rounded.iter().cloned());
                let outputs = part.run(&feed, &mut |_, _| ()).map_err(crate::activations::error)?;
                chain.put(sample, Side::Quantized, &results, outputs);
            }
        }
        for (sample, outputs) in wanted.into_iter().enumerate() {
            chain.put(sample, Side::Float, &results, outputs);
        }
        chain.keep_for(&found[at + 1..]);
        for it in tuned {
            if reason.contains_key(&it.index) {
                continue;
            }
            let weight = &weights[it.index];
            let (numbers, error) = choose::numbers(ctx, weight, &it.best)?;
            outcome.patches.push(choose::patch(root, ctx, weight, numbers, error, pass)?);
            index.remove(&it.value);
        }
    }
    ctx.session.progress.finish();
    let reached = |idx: &usize| index.values().any(|it| it == idx);
    for idx in 0..weights.len() {
        let why = reason.remove(&idx);
        let is_open = sources[idx].is_none() || reached(&idx);
        if why.is_some() || is_open {
            let why = why.unwrap_or_else(|| "it is in no block".to_owned());
            outcome.left.push((idx, why));
        }
    }
    Ok(outcome)
}

/// The constant of each weight of the outermost graph.
fn sources(root: &Graph, weights: &[Weight]) -> Vec<Option<(Scope, Value)>> {
    let of = |it: &Weight| {
        let node = root.at(&it.scope)?.node(it.node)?;
        let source = node.inputs.first().copied().flatten()?;
        it.scope.0.is_empty().then(|| (it.scope.clone(), source))
    };
    weights.iter().map(of).collect()
}
