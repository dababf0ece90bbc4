//! Block-wise tuning: rounding and scales of all weights of a block at a time, by signs of the
//! gradients of the error of what the block gives.
//!
//! Blocks are tuned in their order. The samples run through the float model, which gives what a
//! block should give, and through that of the weights chosen so far, which gives what the block
//! will read. A block starts from scales searched with the mean squares of its inputs; every few
//! steps it is tried on samples that no step has seen, and the best that was tried is kept, the
//! start among them. Blocks that read what they read in the float model do not wait for each other:
//! as many as there are threads are tuned at a time, where there is memory for that.
//!
//! Source: arXiv 2309.05516; the parameters and their update: [`qcc_quant::tuner`].

mod chain;
mod entry;
mod few;
mod forward;
mod gradient;
mod group;
mod joint;
mod keys;
mod needs;
mod outline;
mod part;
mod plan;
mod probe;
mod resume;
mod shares;
mod told;
mod tune;
mod weights;
mod within;

use std::collections::BTreeMap;
use std::time::Duration;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch, Value};
use qcc_pass::{Ctx, Estimate, PassError, SampleSource};
use qcc_quant::codes::Codes;
use qcc_quant::tuner::Scales;

pub(crate) use probe::probe;

use crate::activations::{Seen, Squares};
use crate::choose::{self, Weight};
use crate::held;

use chain::Chain;
use few::Few;
use forward::Forward;
use gradient::Gradients;
use keys::Parts;
use needs::{Held, Needs};
use outline::Outline;
use resume::Kept;
use shares::Shares;
use weights::Tuned;

/// How blocks are tuned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Steps of each block.
    pub(crate) steps: Steps,
    /// Rate of the first step; `None` is one over their number.
    pub(crate) rate: Option<f32>,
    /// Samples of each step.
    pub(crate) batch: usize,
    /// What a block reads while it is tuned.
    pub(crate) inputs: Inputs,
    /// What of the scales is tuned.
    pub(crate) scales: Scales,
    /// What weights start from.
    pub(crate) start: Start,
    /// Which step is kept.
    pub(crate) select: Select,
}

/// Which step of a block is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Select {
    /// That with the least error on samples that are held out, the start among them.
    Held,
    /// The last one, whatever its error.
    Last,
}

impl Options {
    /// How many blocks can be tuned at a time.
    fn blocks_at_most(&self, threads: usize) -> usize {
        match self.inputs {
            Inputs::Quantized => 1,
            Inputs::Float => threads.max(1),
        }
    }
}

/// What weights start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Scales that are searched with the mean squares of what the weight reads.
    Searched,
    /// The numbers that a pass before has chosen; searched scales for weights without.
    Given,
}

/// What a block reads while it is tuned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// What the blocks before it give with the weights that were chosen for them.
    Quantized,
    /// What they give in the float model.
    Float,
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

/// Why the gradients of `weights`, constants of a block that gives `outputs`, cannot be had; `None`
/// when they can.
pub(crate) fn obstacle(graph: &Graph, outputs: &[Value], weights: &[Value]) -> Option<String> {
    Gradients::new(graph, outputs, weights).err()
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
    let outline = Outline::new(root, weights, ctx.session)?;
    let keeps_work = ctx.session.work_dir.is_some();
    let parts = keeps_work.then(|| Parts::of(&outline, weights, options));
    let task = Task { root, pass, weights, samples, outline: &outline, parts };
    let steps = match options.steps {
        Steps::Count(steps) => steps,
        Steps::Within(time) => within::steps(&task, ctx, options, time)?,
    };
    let options = Options { steps: Steps::Count(steps), ..options };
    let kept = Kept::new(&task, ctx.session, options, steps)?;
    let run = Run::new(&task, ctx, (options, steps), kept)?;
    run.all(ctx, &Few::of(samples, options))
}

/// What is to be tuned.
struct Task<'a> {
    root: &'a Graph,
    pass: &'static str,
    weights: &'a [Weight],
    samples: &'a dyn SampleSource,
    outline: &'a Outline,
    /// What keys of finished blocks follow from; `None` when no work is kept.
    parts: Option<Parts>,
}

/// All blocks, while they are tuned.
struct Run<'a> {
    root: &'a Graph,
    pass: &'static str,
    weights: &'a [Weight],
    options: Options,
    outline: &'a Outline,
    /// Steps of a block.
    steps: u16,
    kept: Kept,
    chain: Chain,
    held: Held,
    shares: Shares,
    /// What was found, by weight.
    patches: BTreeMap<usize, Patch>,
    /// Weights for which nothing was, and why.
    left: BTreeMap<usize, String>,
}

impl<'a> Run<'a> {
    /// Of the samples that the steps need.
    fn new(
        task: &Task<'a>,
        ctx: &mut Ctx<'_>,
        (options, steps): (Options, u16),
        kept: Kept,
    ) -> Result<Self, PassError> {
        let &Task { root, pass, weights, outline, .. } = task;
        let few = Few::of(task.samples, options);
        let chain = Chain::new(&few, &ctx.session.store)?;
        let cap = ctx.session.max_mem;
        let needs = chain.largest().and_then(|it| Needs::of(outline, weights, it, chain.len()));
        let most = options.blocks_at_most(ctx.session.threads);
        let held = Held::of(needs, (options.batch.min(chain.len()), most), ctx.session)?;
        if let Some(needs) = needs {
            let memory_bytes = needs.total(held, cap);
            ctx.record.expect(Estimate { seconds: None, memory_bytes });
        } else if cap.is_some() && chain.len() > 0 {
            needs::note_unknown(ctx, pass);
        }
        Ok(Self {
            root,
            pass,
            weights,
            options,
            outline,
            steps,
            kept,
            chain,
            held,
            shares: Shares::read(&few)?,
            patches: BTreeMap::new(),
            left: outline.left.clone(),
        })
    }

    /// All blocks, from the first that is not kept on.
    fn all(mut self, ctx: &mut Ctx<'_>, samples: &dyn SampleSource) -> Result<Outcome, PassError> {
        if self.outline.count_from(0) > 0 && self.options.select == Select::Held {
            held::note_few(ctx, self.pass, samples);
        }
        self.kept.begin(ctx);
        let begin = self.resume(ctx);
        self.announce(ctx, 0);
        (0..begin).try_for_each(|at| self.skip(ctx, at))?;
        let mut at = begin;
        while at < self.outline.blocks.len() {
            at = self.group(ctx, at)?;
        }
        ctx.session.progress.finish();
        Ok(Outcome { patches: self.patches.into_values().collect(), left: self.left })
    }

    /// Goes on where an earlier run stopped: how many blocks need not be run, since what is behind
    /// them is kept and the chain is there now.
    fn resume(&mut self, ctx: &mut Ctx<'_>) -> usize {
        let Outline { graph, blocks, reads, .. } = self.outline;
        let whole = blocks.len().saturating_sub(1);
        let begin = (0..whole).rev().find(|&at| {
            let Some(entry) = self.kept.load(at, resume::Part::Chain) else { return false };
            let is_done = |it: usize| reads[it].is_empty() || self.is_done(it);
            (0..=at).all(is_done) && self.chain.restore(graph, &blocks[at + 1..], entry)
        });
        let begin = begin.map_or(0, |it| it + 1);
        self.tell(ctx, begin);
        begin
    }

    /// Says where the run goes on, or that work is there which it cannot go on with.
    fn tell(&self, ctx: &mut Ctx<'_>, begin: usize) {
        let (count, all) = (self.outline.blocks.len(), self.outline.count_from(0));
        let done = (0..count).filter(|it| self.is_done(*it)).count();
        let are_there = format!("{done} of {all} blocks with weights are there already");
        let text = match (begin, done) {
            (0, 0) => None,
            // Nothing is kept of what the samples are behind a block: it is run, but not tuned.
            (0, _) => Some(are_there),
            (_, 0) => Some(format!("goes on at block {begin} of {count}")),
            _ => Some(format!("goes on at block {begin} of {count}; {are_there}")),
        };
        if let Some(text) = text {
            ctx.session.progress.say(self.pass, &text);
            let note = Diagnostic::note(codes::QCC0508, text);
            ctx.note(note.at(format!("pass '{}'", self.pass)));
        } else if let Some(other) = self.kept.other() {
            ctx.session.progress.say(self.pass, &format!("begins anew: {other}"));
        }
    }

    /// Whether an earlier run has tuned a block, or found that it cannot be.
    fn is_done(&self, at: usize) -> bool {
        self.kept.finished(at, self.weights_of(at)).is_some() || self.kept.obstacle(at).is_some()
    }

    /// The codes of a block that an earlier run has tuned.
    fn finished(&self, ctx: &mut Ctx<'_>, at: usize) -> Option<Vec<Codes>> {
        let (codes, entry) = self.kept.finished(at, self.weights_of(at))?;
        told::tell(&entry, self.weights_of(at), (at, self.steps), ctx);
        let steps = u64::from(self.steps);
        ctx.session.progress.step(steps, &format!("block {at}, done before"));
        Some(codes)
    }

    fn weights_of(&self, at: usize) -> impl Iterator<Item = &Weight> {
        self.outline.reads[at].iter().map(|it| &self.weights[it.index])
    }

    /// Says how much there is to do, from block `first` on.
    fn announce(&self, ctx: &Ctx<'_>, first: usize) {
        let steps = self.outline.count_from(first) * u64::from(self.steps);
        ctx.session.progress.start(self.pass, steps);
    }

    /// Takes what an earlier run has found for a block.
    fn skip(&mut self, ctx: &mut Ctx<'_>, at: usize) -> Result<(), PassError> {
        let codes = self.finished(ctx, at);
        for (read, codes) in self.outline.reads[at].iter().zip(codes.iter().flatten()) {
            self.take(ctx, read.index, codes)?;
        }
        if let Some(why) = self.kept.obstacle(at) {
            self.leave(ctx, at, &why);
        }
        Ok(())
    }

    /// The weights of a block are tuned by themselves.
    fn leave(&mut self, ctx: &mut Ctx<'_>, at: usize, why: &str) {
        let reads = &self.outline.reads[at];
        told::apart(at, reads.len(), why, ctx);
        self.left.extend(reads.iter().map(|it| (it.index, why.to_owned())));
    }

    /// The weights of a block, with the codes that were found before, or else with searched scales.
    fn start(
        &self,
        at: usize,
        squares: &BTreeMap<usize, Seen<Squares>>,
        before: Option<Vec<Codes>>,
    ) -> Result<Vec<Tuned>, PassError> {
        let mut before = before.into_iter().flatten();
        let each = self.outline.reads[at].iter().map(|it| {
            let name = self.outline.graph.value_name(it.weight).to_owned();
            let (weight, graph) = ((it.index, &self.weights[it.index]), (it.weight, name));
            if let Some(codes) = before.next() {
                return Tuned::from_codes(weight, graph, codes, self.options);
            }
            let d = squares.get(&it.index).and_then(|it| it.sums.mean());
            Tuned::new(weight, graph, d.as_deref(), self.options)
        });
        each.collect()
    }

    fn forward<'b>(&'b self, ctx: &Ctx<'b>, at: usize) -> Forward<'b> {
        Forward {
            graph: &self.outline.graph,
            block: &self.outline.blocks[at],
            chain: &self.chain,
            shares: &self.shares,
            session: ctx.session,
            batch: self.held.samples,
        }
    }

    /// Codes of a weight.
    fn take(&mut self, ctx: &mut Ctx<'_>, idx: usize, codes: &Codes) -> Result<(), PassError> {
        self.left.remove(&idx);
        let weight = &self.weights[idx];
        let (numbers, error) = choose::numbers(ctx, weight, codes)?;
        let patch = choose::patch(self.root, ctx, weight, numbers, error, self.pass)?;
        weight.tensor.release(); // later blocks do not read it
        self.patches.insert(idx, patch);
        Ok(())
    }
}
