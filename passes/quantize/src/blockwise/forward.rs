//! A block on all samples, without gradients.

use std::collections::BTreeMap;

use qcc_ir::{Graph, Value};
use qcc_pass::{PassError, Session};
use qcc_tensor::Tensor;

use super::chain::{Chain, Results, Side};
use super::joint::{self, Kind};
use super::outline::Read;
use super::part::Part;
use super::shares::Shares;
use super::weights::Tuned;
use crate::activations::{self, Seen, Squares, Sums as _};
use crate::blocks::Block;
use crate::choose::Weight;
use crate::finite;

/// A block that runs on all samples.
pub(super) struct Forward<'a> {
    pub(super) graph: &'a Graph,
    pub(super) block: &'a Block,
    pub(super) chain: &'a Chain,
    pub(super) shares: &'a Shares,
    pub(super) session: &'a Session,
    /// How many samples run as one, where they can.
    pub(super) batch: usize,
}

impl Forward<'_> {
    /// What the results are when samples run as one; `None` where they do not.
    pub(super) fn joined(&self) -> Option<Vec<Kind>> {
        let samples: Vec<usize> = (0..self.chain.len().min(self.batch)).collect();
        let feeds = self.chain.feeds(self.graph, self.block, &samples, Side::Float);
        joint::kinds(&mut self.part(Vec::new()), &feeds, self.chain.same())
    }

    /// What the block gives in the float model, and squares and magnitudes of what its products
    /// read.
    pub(super) fn float(
        &self,
        joined: Option<&[Kind]>,
        reads: &[Read],
        weights: &[Weight],
    ) -> Result<(Results, BTreeMap<usize, Seen<Squares>>), PassError> {
        let mut squares: BTreeMap<usize, Seen<Squares>> =
            reads.iter().map(|it| (it.index, Seen::new(weights[it.index].quant.form.k))).collect();
        let (mut failed, mut bad) = (None, None);
        let mut part = self.part(reads.iter().flat_map(|it| it.lefts.iter().copied()).collect());
        let found =
            self.all(&mut part, joined, Side::Float, &[], &mut |samples, value, tensor| {
                let rows = tensor.dims().iter().rev().skip(1).product();
                let counted = self.shares.rows(samples, rows);
                match finite::is_finite(tensor, counted.as_deref()) {
                    Ok(true) => {}
                    Ok(false) => _ = bad.get_or_insert_with(|| (Vec::from(samples), value)),
                    Err(error) => _ = failed.get_or_insert(error),
                }
                for it in reads.iter().filter(|it| it.lefts.contains(&value)) {
                    let Some(sum) = squares.get_mut(&it.index) else { continue };
                    let added = activations::add(sum, tensor, counted.as_deref());
                    failed = failed.take().or(added.err());
                }
            })?;
        failed.map_or(Ok(()), Err)?;
        match bad {
            Some((samples, value)) => Err(self.not_finite(&samples, value)?),
            None => self.check_outputs(&found).map(|()| (found, squares)),
        }
    }

    /// That what the block gives is finite.
    fn check_outputs(&self, found: &Results) -> Result<(), PassError> {
        for (sample, results) in found.iter().enumerate() {
            for (output, tensor) in self.block.outputs.iter().zip(results) {
                let rows = tensor.dims().iter().rev().skip(1).product();
                let counted = self.shares.rows(&[sample], rows);
                if !finite::is_finite(tensor, counted.as_deref())? {
                    return Err(self.not_finite(&[sample], *output)?);
                }
            }
        }
        Ok(())
    }

    /// The error for a value that is not finite for one of some samples.
    fn not_finite(&self, samples: &[usize], value: Value) -> Result<PassError, PassError> {
        let feed = |sample: usize| {
            self.chain.feeds(self.graph, self.block, &[sample], Side::Float).swap_remove(0)
        };
        // Samples that ran as one are looked at one by one.
        for &sample in samples.iter().take(samples.len().saturating_sub(1)) {
            let mut is_bad = false;
            let mut failed = None;
            let found = self.part(vec![value]).run(&feed(sample), &mut |_, tensor| {
                let rows = tensor.dims().iter().rev().skip(1).product();
                match finite::is_finite(tensor, self.shares.rows(&[sample], rows).as_deref()) {
                    Ok(it) => is_bad = !it,
                    Err(error) => failed = Some(error),
                }
            });
            found.map_err(activations::error)?;
            failed.map_or(Ok(()), Err)?;
            if is_bad {
                let number = self.chain.number(sample);
                return Ok(finite::error(self.graph, &feed(sample), value, number));
            }
        }
        let last = samples.last().copied().unwrap_or(0);
        Ok(finite::error(self.graph, &feed(last), value, self.chain.number(last)))
    }

    /// What the block gives with the weights that were chosen.
    pub(super) fn rounded(
        &self,
        joined: Option<&[Kind]>,
        tuned: &[Tuned],
    ) -> Result<Results, PassError> {
        let weights = tuned.iter().map(|it| Ok((it.name.clone(), it.best(&self.session.pool)?)));
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
