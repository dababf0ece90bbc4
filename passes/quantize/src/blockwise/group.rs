//! Blocks that are tuned side by side; with rounded inputs each by itself.
//!
//! What a block reads and gives in the float model comes first, block after block. The steps of a
//! block depend on nothing but that, so they give the same whatever runs beside them.

use std::time::Instant;

use qcc_pass::{Ctx, PassError};
use rayon::prelude::*;

use super::chain::{Chain, Results};
use super::joint::{self, Kind};
use super::told;
use super::tune::{Course, Objective};
use super::weights::Tuned;
use super::within::Times;
use super::{Inputs, Run};

/// A block that is tuned.
struct Job {
    at: usize,
    /// The samples in front of it.
    chain: Chain,
    /// What it gives in the float model, for each sample.
    results: Results,
    /// What its results are when samples run as one; `None` where they do not.
    joined: Option<Vec<Kind>>,
    tuned: Vec<Tuned>,
    /// Whether there are steps to make; an earlier run may have made them.
    is_open: bool,
}

/// Steps of a block, none where it was finished before; or why it has none.
type Steps = Result<Option<Course>, String>;

impl Run<'_> {
    /// The next blocks, as many as there is memory for, from `first` on: which one comes then.
    pub(super) fn group(&mut self, ctx: &mut Ctx<'_>, first: usize) -> Result<usize, PassError> {
        let is_apart = self.options.inputs == Inputs::Float;
        let (mut jobs, mut next) = (Vec::with_capacity(self.held.blocks), first);
        while next < self.outline.blocks.len() && jobs.len() < self.held.blocks {
            ctx.check_cancelled()?;
            let job = self.prepare(ctx, next)?;
            next += 1;
            if is_apart {
                self.advance(ctx, &job)?;
                if job.tuned.is_empty() {
                    continue;
                }
            }
            jobs.push(job);
        }
        let (run, told) = (&*self, &*ctx);
        let each = jobs.par_iter_mut().with_max_len(1).map(|it| run.steps(told, it));
        let found: Vec<Result<Steps, PassError>> = each.collect();
        let mut failed = None;
        for (job, found) in jobs.into_iter().zip(found) {
            match found {
                Ok(found) => self.finish(ctx, job, found)?,
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        failed.map_or(Ok(()), Err)?;
        let entry = self.chain.entry(&self.outline.graph);
        self.kept.go_on(first..next, &entry, ctx);
        Ok(next)
    }

    /// What a block gives in the float model, and what its weights start from.
    fn prepare(&mut self, ctx: &mut Ctx<'_>, at: usize) -> Result<Job, PassError> {
        let reads = &self.outline.reads[at];
        let before = self.finished(ctx, at);
        let joined = self.forward(ctx, at).joined();
        let (results, squares) =
            self.forward(ctx, at).float(joined.as_deref(), reads, self.weights)?;
        for (idx, it) in &squares {
            let row = ctx.record.weight(&self.weights[*idx].name);
            row.activations = it.magnitudes.record();
        }
        let is_open = before.is_none() && !reads.is_empty();
        let tuned = self.start(at, &squares, before)?;
        Ok(Job { at, chain: self.chain.clone(), results, joined, tuned, is_open })
    }

    /// Times of the first block that can be tuned; `None` without any.
    pub(super) fn times(mut self, ctx: &mut Ctx<'_>) -> Result<Option<Times>, PassError> {
        for at in 0..self.outline.blocks.len() {
            ctx.check_cancelled()?;
            let began = Instant::now();
            let job = self.prepare(ctx, at)?;
            let prepared = began.elapsed();
            if job.is_open
                && let Ok(step) = self.objective(&job).probe(&job.tuned, ctx, self.options.batch)?
            {
                // Once more with the weights that are found, and trials.
                let fixed = (prepared * 5 / 2, self.chain.len());
                return Ok(Some(Times { fixed, step }));
            }
            self.advance(ctx, &job)?;
        }
        Ok(None)
    }

    fn objective<'b>(&'b self, job: &'b Job) -> Objective<'b> {
        let block = &self.outline.blocks[job.at];
        let joined = job.joined.as_deref();
        Objective {
            graph: &self.outline.graph,
            block,
            chain: &job.chain,
            shares: &self.shares,
            wanted: &job.results,
            at: job.at,
            joined: joined.filter(|it| joint::are_rows(it, block.outputs.len())),
        }
    }

    /// The steps of a block.
    fn steps(&self, ctx: &Ctx<'_>, job: &mut Job) -> Result<Steps, PassError> {
        if !job.is_open || self.steps == 0 {
            return Ok(Ok(None));
        }
        let mut tuned = std::mem::take(&mut job.tuned);
        let steps = (self.steps, self.options.batch, self.options.select);
        let found = self.objective(job).tune(&mut tuned, ctx, steps);
        job.tuned = tuned;
        let found = found?;
        if found.is_err() {
            job.tuned.iter_mut().for_each(Tuned::restart);
        }
        Ok(found.map(Some))
    }

    /// Takes and keeps what was found for a block. Where that is nothing, later blocks read what the
    /// weights gave that the steps began with: what they become by themselves comes after all blocks.
    fn finish(&mut self, ctx: &mut Ctx<'_>, job: Job, found: Steps) -> Result<(), PassError> {
        if self.options.inputs == Inputs::Quantized {
            self.advance(ctx, &job)?;
        }
        match found {
            Err(why) => {
                self.leave(ctx, job.at, &why);
                self.kept.leave(job.at, &why, ctx);
                return Ok(());
            }
            Ok(course) => {
                if let Some(Course { curve, time, products }) = course {
                    ctx.count("signround.steps-ms", time.as_millis() as u64);
                    ctx.count("signround.products-ms", products.0.as_millis() as u64);
                    ctx.count("signround.products-mflop", products.1 / 1_000_000);
                    let row = ctx.record.block(&told::name_of(job.at));
                    row.steps = self.steps.into();
                    row.objective = curve;
                    row.weights = job.tuned.len();
                }
                let told = told::told(self.weights_of(job.at), job.at, ctx);
                self.kept.finish(job.at, &job.tuned, told, ctx)?;
            }
        }
        for it in job.tuned {
            self.take(ctx, it.index, &it.best)?;
        }
        Ok(())
    }

    /// Goes on behind a block.
    fn advance(&mut self, ctx: &Ctx<'_>, job: &Job) -> Result<(), PassError> {
        let (at, joined) = (job.at, job.joined.as_deref());
        let blocks = &self.outline.blocks;
        let is_read = at + 1 < blocks.len() && self.options.inputs == Inputs::Quantized;
        let rounded = (is_read && (self.chain.has_parted() || !job.tuned.is_empty()))
            .then(|| self.forward(ctx, at).rounded(joined, &job.tuned))
            .transpose()?;
        let (block, later) = (&blocks[at], &blocks[at + 1..]);
        let results = job.results.clone();
        self.chain.advance(&self.outline.graph, (block, later), joined, results, rounded);
        Ok(())
    }
}
