//! The steps of one block.

use std::time::{Duration, Instant};

use qcc_ir::{Graph, Value};
use qcc_pass::{Ctx, PassError};
use qcc_tensor::{Pool, Tensor};
use rayon::prelude::*;

use super::Select;
use super::chain::{Chain, Side};
use super::gradient::Gradients;
use super::joint::{self, Kind, Run};
use super::part::Part;
use super::shares::Shares;
use super::weights::Tuned;
use crate::activations;
use crate::blocks::Block;
use crate::held::Samples;
use crate::planned::Products;

/// Steps, with the error on samples that no step has seen, by that at the start.
pub(super) type Curve = Vec<(usize, f64)>;

/// What the steps of a block have come to.
pub(super) struct Course {
    pub(super) curve: Curve,
    /// Time of the steps, trials included.
    pub(super) time: Duration,
    /// Products of matrices within it.
    pub(super) products: Products,
}

/// How often a block is tried on samples that no step has seen.
pub(super) const TRIALS: u16 = 4;

/// What a block is tuned for: `sum share (out - wanted)^2` over its outputs.
pub(super) struct Objective<'a> {
    pub(super) graph: &'a Graph,
    pub(super) block: &'a Block,
    pub(super) chain: &'a Chain,
    pub(super) shares: &'a Shares,
    /// What the block gives in the float model, for each sample: its outputs first.
    pub(super) wanted: &'a [Vec<Tensor>],
    /// Number of the block.
    pub(super) at: usize,
    /// What the results are when samples run as one; `None` where they do not.
    pub(super) joined: Option<&'a [Kind]>,
}

impl Objective<'_> {
    /// Tunes; the inner error says why it cannot be done. The best codes are then those of a trial
    /// before, if there was one.
    pub(super) fn tune(
        &self,
        tuned: &mut [Tuned],
        ctx: &Ctx<'_>,
        (steps, samples, select): (u16, usize, Select),
    ) -> Result<Result<Course, String>, PassError> {
        let began = Instant::now();
        let values: Vec<Value> = tuned.iter().map(|it| it.value).collect();
        let gradients = match Gradients::new(self.graph, &self.block.outputs, &values) {
            Ok(it) => it,
            Err(why) => return Ok(Err(why)),
        };
        let pool = &ctx.session.pool;
        let mut backward = Part::new(&gradients.graph, gradients.weights.clone(), Vec::new(), pool);
        let mut forward = Part::new(self.graph, self.block.outputs.clone(), Vec::new(), pool);
        let rng = ctx.session.rng(&format!("signround block {}", self.at));
        let mut order = Samples::new(self.chain.len(), rng);
        let start = self.loss(&mut forward, &rounded(tuned, pool)?, &order.tried, samples)?;
        tuned.iter_mut().for_each(|it| it.begin(steps));
        let mut weights = rounded(tuned, pool)?;
        let mut least = start;
        let mut curve = vec![(0, 1.0)];
        for step in 1..=steps {
            ctx.check_cancelled()?;
            let batch = order.next(samples);
            for run in self.runs(&batch, &weights, Some(&gradients))? {
                let found = match backward.run(&run.feed, &mut |_, _| ()) {
                    Ok(found) => found,
                    Err(error) => return Ok(Err(error.to_string())),
                };
                for (it, gradient) in tuned.iter_mut().zip(found) {
                    it.add(gradient, pool)?;
                }
            }
            drop(weights);
            let moved: Vec<_> = tuned.par_iter_mut().map(Tuned::step).collect();
            for it in moved {
                if let Err(why) = it? {
                    return Ok(Err(why));
                }
            }
            weights = rounded(tuned, pool)?;
            let every = steps.div_ceil(TRIALS);
            if step % every == 0 || step == steps {
                let loss = self.loss(&mut forward, &weights, &order.tried, samples)?;
                if start > 0.0 {
                    curve.push((usize::from(step), loss / start));
                }
                let is_kept = match select {
                    Select::Held => loss < least,
                    Select::Last => step == steps,
                };
                if is_kept {
                    least = loss;
                    tuned.iter_mut().for_each(Tuned::keep);
                }
            }
            let ratio = if start > 0.0 { least / start } else { 1.0 };
            ctx.session
                .progress
                .step(1, &format!("block {}, error {ratio:.3} of the start", self.at));
        }
        let (first, second) = (backward.products(), forward.products());
        let products = (first.0 + second.0, first.1.saturating_add(second.1));
        Ok(Ok(Course { curve, time: began.elapsed(), products }))
    }

    /// How long the gradients of one step take; the inner error says why there are none.
    pub(super) fn probe(
        &self,
        tuned: &[Tuned],
        ctx: &Ctx<'_>,
        samples: usize,
    ) -> Result<Result<Duration, String>, PassError> {
        let values: Vec<Value> = tuned.iter().map(|it| it.value).collect();
        let gradients = match Gradients::new(self.graph, &self.block.outputs, &values) {
            Ok(it) => it,
            Err(why) => return Ok(Err(why)),
        };
        let wanted = gradients.weights.clone();
        let mut part = Part::new(&gradients.graph, wanted, Vec::new(), &ctx.session.pool);
        let batch: Vec<usize> = (0..self.chain.len().min(samples)).collect();
        let weights = rounded(tuned, &ctx.session.pool)?;
        let mut time = Duration::ZERO;
        // The first run plans and touches new memory.
        for _ in 0..2 {
            let began = Instant::now();
            for run in self.runs(&batch, &weights, Some(&gradients))? {
                if let Err(error) = part.run(&run.feed, &mut |_, _| ()) {
                    return Ok(Err(error.to_string()));
                }
            }
            time = began.elapsed();
        }
        Ok(Ok(time))
    }

    /// The block on some samples, given the `weights` and, for gradients, what its outputs should
    /// be.
    fn runs(
        &self,
        samples: &[usize],
        weights: &[(String, Tensor)],
        gradients: Option<&Gradients>,
    ) -> Result<Vec<Run>, PassError> {
        let mut feeds = self.chain.feeds(self.graph, self.block, samples, Side::Quantized);
        for (feed, sample) in feeds.iter_mut().zip(samples) {
            let Some(it) = gradients else { continue };
            let wanted = &self.wanted[*sample];
            feed.extend(it.wanted.iter().cloned().zip(wanted.iter().cloned()));
            for (name, wanted) in it.shares.iter().zip(wanted) {
                feed.insert(name.clone(), self.shares.of(*sample, wanted)?);
            }
        }
        let mut runs = if self.joined.is_some() {
            joint::runs(feeds, self.chain.same())
        } else {
            feeds.into_iter().map(|feed| Run { feed, count: 1 }).collect()
        };
        runs.iter_mut().for_each(|it| it.feed.extend(weights.iter().cloned()));
        Ok(runs)
    }

    /// The objective at some weights, over some samples.
    fn loss(
        &self,
        forward: &mut Part<'_>,
        weights: &[(String, Tensor)],
        samples: &[usize],
        batch: usize,
    ) -> Result<f64, PassError> {
        let mut loss = 0.0;
        for samples in samples.chunks(batch.max(1)) {
            let mut wanted = samples.iter().map(|it| (*it, &self.wanted[*it]));
            for run in self.runs(samples, weights, None)? {
                let found = forward.run(&run.feed, &mut |_, _| ());
                let found = found.map_err(activations::error)?;
                let each = joint::results(found, self.joined.unwrap_or_default(), run.count);
                let each = each.map_err(activations::error)?;
                for (found, (sample, wanted)) in each.iter().zip(&mut wanted) {
                    for (found, wanted) in found.iter().zip(wanted) {
                        loss += self.shares.distance(sample, found, wanted)?;
                    }
                }
            }
        }
        Ok(loss)
    }
}

fn rounded(tuned: &[Tuned], pool: &Pool) -> Result<Vec<(String, Tensor)>, PassError> {
    tuned.par_iter().map(|it| Ok((it.name.clone(), it.rounded(pool)?))).collect()
}
