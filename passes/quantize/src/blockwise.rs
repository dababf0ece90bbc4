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

mod budget;
mod chain;
mod gradient;
mod joint;
mod part;
mod resume;
mod shares;
mod tune;
mod weights;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch, Scope, Value};
use qcc_pass::{Ctx, PassError, SampleSource, Session, WorkingCopy};
use qcc_quant::codes::Codes;
use qcc_tensor::Tensor;

use crate::activations::{self, Squares, Sums as _, in_float};
use crate::blocks::{Block, BlockOptions, blocks};
use crate::choose::{self, Weight};
use crate::sites::{Role, Site, find_sites};

use chain::{Chain, Results, Side};
use joint::Kind;
use part::Part;
use resume::Kept;
use shares::Shares;
use tune::Objective;
use weights::Tuned;

/// How blocks are tuned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Steps of each block.
    pub(crate) steps: Steps,
    /// Samples of each step.
    pub(crate) batch: usize,
}

/// How long a block is tuned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Steps {
    /// So many steps.
    Count(u16),
    /// As many as can be made for all blocks in this time.
    Within(Duration),
}

/// What became of the weights.
pub(crate) struct Outcome {
    /// Patches of those that were tuned.
    pub(crate) patches: Vec<Patch>,
    /// Those that were not: which, and why.
    pub(crate) left: BTreeMap<usize, String>,
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
    let sources: Vec<Option<(Scope, Value)>> =
        weights.iter().map(|it| constant(root, it)).collect();
    let taps: Vec<(Scope, Value)> = sources.iter().flatten().cloned().collect();
    let session = ctx.session;
    let copy = WorkingCopy::through(&in_float(root)?, &taps, &session.tuning_copy, session)?;
    let sites = find_sites(&copy.graph);
    let blocks = blocks(&copy.graph, &sites, &BlockOptions::default());
    let mut chain = Chain::new(samples, &session.store)?;
    let shares = Shares::read(samples)?;
    // Which blocks run on joined samples: those of a class do, or do not.
    let mut joins: BTreeMap<u64, Option<Vec<Kind>>> = BTreeMap::new();
    let mut outcome = Outcome {
        patches: Vec::new(),
        left: (0..weights.len()).map(|idx| (idx, "it is in no block".to_owned())).collect(),
    };
    // Which weight a constant of the copy is, until it has been tuned.
    let mut index: BTreeMap<Value, usize> = BTreeMap::new();
    for (idx, source) in sources.iter().enumerate() {
        if let Some((_, value)) = source.as_ref().and_then(|it| copy.tap(it)) {
            index.insert(*value, idx);
        }
    }
    // What differs in the logits is no measure of what is lost there: with its head tuned as a
    // block the bundled model has a KL of 0.0141, with the head by itself 0.0124.
    for site in sites.iter().filter(|it| it.role == Role::Head) {
        if let Some(idx) = index.remove(&site.weight.source) {
            outcome.left.insert(idx, "it is the head of the model".to_owned());
        }
    }
    let reads: Vec<Vec<Read>> =
        blocks.iter().map(|it| take_reads(&copy.graph, &sites, it, &mut index)).collect();
    let last = reads.iter().rposition(|it| !it.is_empty()).map_or(0, |it| it + 1);
    let (blocks, reads) = (&blocks[..last], &reads[..last]);
    let mut kept = Kept::new(session, &copy.graph, weights, samples, options)?;
    let begin = resumed(&kept, &mut chain, &copy.graph, (blocks, reads), weights);
    if begin > 0 {
        let text = format!("goes on at block {begin} of {}", blocks.len());
        ctx.note(Diagnostic::note(codes::QCC0508, text).at(format!("pass '{pass}'")));
    }
    let mut steps = match options.steps {
        Steps::Count(count) => Some(count),
        Steps::Within(_) => kept.steps(),
    };
    let (began, all) = (Instant::now(), blocks_with(reads));
    session.progress.start(pass, all * u64::from(steps.unwrap_or(0)));
    let reads_of_all = reads;
    for (at, (block, reads)) in blocks.iter().zip(reads).enumerate() {
        ctx.check_cancelled()?;
        let found = kept.codes(at, reads.iter().map(|it| (it.index, &weights[it.index])));
        if found.is_some() {
            let done = format!("block {at}, done before");
            session.progress.step(u64::from(steps.unwrap_or(0)), &done);
        }
        if let Some(found) = found.as_ref().filter(|_| at < begin) {
            for (it, codes) in reads.iter().zip(found) {
                outcome.take(root, ctx, pass, (it.index, weights), codes)?;
            }
            continue;
        }
        if at < begin {
            continue;
        }
        let (batch, block_began) = (options.batch, Instant::now());
        let run =
            BlockRun { graph: &copy.graph, block, chain: &chain, shares: &shares, session, batch };
        let joined = joins.entry(block.class).or_insert_with(|| run.joined()).as_deref();
        let (results, squares) = run.float(joined, reads, weights)?;
        let mut tuned = Vec::new();
        for it in reads {
            let d = squares.get(&it.index).and_then(Squares::mean);
            let name = copy.graph.value_name(it.weight).to_owned();
            let weight = (it.index, &weights[it.index]);
            tuned.push(Tuned::new(weight, (it.weight, name), d.as_deref())?);
        }
        let mut why = None;
        if let Some(found) = found {
            tuned.iter_mut().zip(found).for_each(|(it, codes)| it.take(codes));
        } else if !tuned.is_empty() {
            let objective = Objective {
                graph: &copy.graph,
                block,
                chain: &chain,
                shares: &shares,
                wanted: &results,
                at,
                joined: joined.filter(|it| joint::are_rows(it, block.outputs.len())),
            };
            // What was done so far comes once more, with the weights that are found, and trials.
            let fixed = block_began.elapsed() * 5 / 2;
            if let (None, Steps::Within(time)) = (steps, options.steps)
                && let Ok(step) = objective.probe(&tuned, ctx, batch)?
            {
                let left = time.saturating_sub(began.elapsed());
                let count = blocks_with(&reads_of_all[at..]) as usize;
                let chosen = budget::steps(left, count, fixed, step);
                steps = Some(chosen);
                kept.save_steps(chosen, ctx);
                let text = format!("there is time for {chosen} steps of each block");
                ctx.note(
                    Diagnostic::note(codes::QCC0610, text)
                        .at(format!("pass '{pass}'"))
                        .with_help(format!("iters={chosen} gives the same again")),
                );
                session.progress.start(pass, all * u64::from(chosen));
            }
            let steps = steps.unwrap_or(1);
            match objective.tune(&mut tuned, ctx, (steps, batch))? {
                Ok(curve) => {
                    let row = ctx.record.block(&format!("block {at}"));
                    row.steps = steps.into();
                    row.objective = curve;
                }
                Err(error) => why = Some(error),
            }
        }
        let is_read = at + 1 < blocks.len();
        let rounded = (is_read && (chain.has_parted() || !tuned.is_empty()))
            .then(|| run.rounded(joined, &tuned))
            .transpose()?;
        chain.advance(&copy.graph, (block, &blocks[at + 1..]), joined, results, rounded);
        if why.is_none() {
            kept.finish(at, &tuned, &chain.entry(&copy.graph), ctx)?;
        }
        for it in tuned {
            match &why {
                Some(why) => _ = outcome.left.insert(it.index, why.clone()),
                None => outcome.take(root, ctx, pass, (it.index, weights), &it.best)?,
            }
        }
    }
    session.progress.finish();
    Ok(outcome)
}

/// How many blocks have weights to be tuned.
fn blocks_with(reads: &[Vec<Read>]) -> u64 {
    reads.iter().filter(|it| !it.is_empty()).count() as u64
}

impl Outcome {
    /// Codes of a weight.
    fn take(
        &mut self,
        root: &Graph,
        ctx: &mut Ctx<'_>,
        pass: &'static str,
        (idx, weights): (usize, &[Weight]),
        codes: &Codes,
    ) -> Result<(), PassError> {
        self.left.remove(&idx);
        let weight = &weights[idx];
        let (numbers, error) = choose::numbers(ctx, weight, codes)?;
        self.patches.push(choose::patch(root, ctx, weight, numbers, error, pass)?);
        Ok(())
    }
}

/// How many blocks need not be run, since what is behind them is kept: the chain is there then.
fn resumed(
    kept: &Kept,
    chain: &mut Chain,
    graph: &Graph,
    (blocks, reads): (&[Block], &[Vec<Read>]),
    weights: &[Weight],
) -> usize {
    let whole = blocks.len().saturating_sub(1);
    let begin = (0..whole).rev().find(|&at| {
        let of = |reads: &Vec<Read>, block: usize| {
            kept.codes(block, reads.iter().map(|it| (it.index, &weights[it.index]))).is_some()
        };
        let Some(entry) = kept.load(at, resume::Part::Chain) else { return false };
        reads[..=at].iter().enumerate().all(|(block, it)| it.is_empty() || of(it, block))
            && chain.restore(graph, &blocks[at + 1..], entry)
    });
    begin.map_or(0, |it| it + 1)
}

/// The constant of a weight of the outermost graph.
fn constant(root: &Graph, weight: &Weight) -> Option<(Scope, Value)> {
    let node = root.at(&weight.scope)?.node(weight.node)?;
    let source = node.inputs.first().copied().flatten()?;
    weight.scope.0.is_empty().then(|| (weight.scope.clone(), source))
}

/// A product of a block that reads a weight to be tuned.
struct Read {
    /// Which weight.
    index: usize,
    weight: Value,
    /// The other operand.
    left: Value,
}

/// The products of a block, one for each weight, which is in no later block then.
fn take_reads(
    graph: &Graph,
    sites: &[Site],
    block: &Block,
    index: &mut BTreeMap<Value, usize>,
) -> Vec<Read> {
    let mut found: BTreeMap<usize, Read> = BTreeMap::new();
    for site in block.weights.iter().filter_map(|&it| sites.get(it)) {
        let weight = site.weight.source;
        let left = graph.node(site.node).and_then(|it| it.inputs.first().copied().flatten());
        if let (Some(&index), Some(left)) = (index.get(&weight), left) {
            found.entry(index).or_insert(Read { index, weight, left });
        }
    }
    found.values().for_each(|it| _ = index.remove(&it.weight));
    found.into_values().collect()
}

/// A block that runs on all samples.
struct BlockRun<'a> {
    graph: &'a Graph,
    block: &'a Block,
    chain: &'a Chain,
    shares: &'a Shares,
    session: &'a Session,
    /// How many samples run as one, where they can.
    batch: usize,
}

impl BlockRun<'_> {
    /// What the results are when samples run as one; `None` where they do not.
    fn joined(&self) -> Option<Vec<Kind>> {
        let samples: Vec<usize> = (0..self.chain.len().min(self.batch)).collect();
        let feeds = self.chain.feeds(self.graph, self.block, &samples, Side::Float);
        joint::kinds(&mut self.part(Vec::new()), &feeds, self.chain.same())
    }

    /// What the block gives in the float model, and the squares of what its products read.
    fn float(
        &self,
        joined: Option<&[Kind]>,
        reads: &[Read],
        weights: &[Weight],
    ) -> Result<(Results, BTreeMap<usize, Squares>), PassError> {
        let mut squares: BTreeMap<usize, Squares> = reads
            .iter()
            .map(|it| (it.index, Squares::new(weights[it.index].quant.form.k)))
            .collect();
        let mut failed = None;
        let mut part = self.part(reads.iter().map(|it| it.left).collect());
        let found =
            self.all(&mut part, joined, Side::Float, &[], &mut |samples, value, tensor| {
                let rows = tensor.dims().iter().rev().skip(1).product();
                let counted = self.shares.rows(samples, rows);
                for it in reads.iter().filter(|it| it.left == value) {
                    let Some(sum) = squares.get_mut(&it.index) else { continue };
                    let added = activations::add(sum, tensor, counted.as_deref());
                    failed = failed.take().or(added.err());
                }
            })?;
        failed.map_or(Ok(()), Err)?;
        Ok((found, squares))
    }

    /// What the block gives with the weights that were chosen.
    fn rounded(&self, joined: Option<&[Kind]>, tuned: &[Tuned]) -> Result<Results, PassError> {
        let weights = tuned.iter().map(|it| Ok((it.name.clone(), it.best()?)));
        let weights = weights.collect::<Result<Vec<_>, PassError>>()?;
        self.all(&mut self.part(Vec::new()), joined, Side::Quantized, &weights, &mut |_, _, _| ())
    }

    fn part(&self, tapped: Vec<Value>) -> Part<'_> {
        Part::new(self.graph, self.block.results(), tapped, &self.session.pool)
    }

    /// Runs all samples. `weights` stand in for those of the graph.
    fn all(
        &self,
        part: &mut Part<'_>,
        joined: Option<&[Kind]>,
        side: Side,
        weights: &[(String, Tensor)],
        sink: &mut dyn FnMut(&[usize], Value, &Tensor),
    ) -> Result<Results, PassError> {
        let samples: Vec<usize> = (0..self.chain.len()).collect();
        let mut found = Vec::with_capacity(samples.len());
        for samples in samples.chunks(joined.map_or(1, |_| self.batch.max(1))) {
            if self.session.cancel.is_set() {
                return Err(PassError::Cancelled);
            }
            let feeds = self.chain.feeds(self.graph, self.block, samples, side);
            let mut rest = samples;
            for mut run in joint::runs(feeds, self.chain.same()) {
                run.feed.extend(weights.iter().cloned());
                let (these, others) = rest.split_at(run.count);
                rest = others;
                let results = part.run(&run.feed, &mut |value, it| sink(these, value, it));
                let results = results.map_err(activations::error)?;
                let each = joint::results(results, joined.unwrap_or_default(), run.count);
                for it in each.map_err(activations::error)? {
                    found.push(self.chain.keep(it)?);
                }
            }
        }
        Ok(found)
    }
}
