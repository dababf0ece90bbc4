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
        // The first block tells how many steps there is time for.
        let most = if self.pace.open().is_some() { 1 } else { self.held.blocks };
        let (mut jobs, mut next) = (Vec::with_capacity(most), first);
        while next < self.outline.blocks.len() && jobs.len() < most {
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
        let (mut failed, mut is_whole) = (None, true);
        for (job, found) in jobs.into_iter().zip(found) {
            match found {
                Ok(found) => is_whole &= self.finish(ctx, job, found)?,
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        failed.map_or(Ok(()), Err)?;
        if is_whole {
            let entry = self.chain.entry(&self.outline.graph);
            self.kept.go_on(first..next, &entry, ctx);
        }
        Ok(next)
    }

    /// What a block gives in the float model, and what its weights start from.
    fn prepare(&mut self, ctx: &mut Ctx<'_>, at: usize) -> Result<Job, PassError> {
        let (block, reads) = (&self.outline.blocks[at], &self.outline.reads[at]);
        let before = self.finished(ctx, at);
        let began = Instant::now();
        let kind = (block.class, block.results().len());
        let joined = match self.joins.get(&kind) {
            Some(known) => known.clone(),
            None => self.forward(ctx, at).joined(),
        };
        self.joins.insert(kind, joined.clone());
        let (results, squares) =
            self.forward(ctx, at).float(joined.as_deref(), reads, self.weights)?;
        for (idx, it) in &squares {
            let row = ctx.record.weight(&self.weights[*idx].name);
            row.activations = it.magnitudes.record();
        }
        let is_open = before.is_none() && !reads.is_empty();
        let tuned = self.start(at, &squares, before)?;
        let job = Job { at, chain: self.chain.clone(), results, joined, tuned, is_open };
        if is_open {
            self.find_pace(ctx, &job, began)?;
        }
        Ok(job)
    }

    /// Finds how many steps there is time for, while nobody knows. `began` is when the block did.
    fn find_pace(&mut self, ctx: &mut Ctx<'_>, job: &Job, began: Instant) -> Result<(), PassError> {
        let Some(time) = self.pace.open() else { return Ok(()) };
        // What was done so far comes once more, with the weights that are found, and trials.
        let fixed = began.elapsed() * 5 / 2;
        if let Ok(step) = self.objective(job).probe(&job.tuned, ctx, self.options.batch)? {
            let left = self.outline.count_from(job.at);
            let steps = self.pace.choose(time, left, (fixed, step), (&mut *ctx, self.pass));
            self.kept.save_steps(steps, ctx);
            self.announce(ctx, 0);
        }
        Ok(())
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
        if !job.is_open {
            return Ok(Ok(None));
        }
        let mut tuned = std::mem::take(&mut job.tuned);
        let steps = (self.pace.steps().max(1), self.options.batch, self.options.select);
        let found = self.objective(job).tune(&mut tuned, ctx, steps);
        job.tuned = tuned;
        Ok(found?.map(Some))
    }

    /// Takes and keeps what was found for a block; whether all of it was.
    fn finish(&mut self, ctx: &mut Ctx<'_>, job: Job, found: Steps) -> Result<bool, PassError> {
        if self.options.inputs == Inputs::Quantized {
            self.advance(ctx, &job)?;
        }
        match found {
            Err(why) => {
                told::apart(job.at, job.tuned.len(), &why, ctx);
                self.left.extend(job.tuned.iter().map(|it| (it.index, why.clone())));
                return Ok(false);
            }
            Ok(course) => {
                if let Some(Course { curve, time, products }) = course {
                    ctx.count("signround.steps-ms", time.as_millis() as u64);
                    ctx.count("signround.products-ms", products.0.as_millis() as u64);
                    ctx.count("signround.products-mflop", products.1 / 1_000_000);
                    let row = ctx.record.block(&told::name_of(job.at));
                    row.steps = self.pace.steps().max(1).into();
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
        Ok(true)
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
