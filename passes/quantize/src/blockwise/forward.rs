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
    pub(super) fn rounded(
        &self,
        joined: Option<&[Kind]>,
        tuned: &[Tuned],
    ) -> Result<Results, PassError> {
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
