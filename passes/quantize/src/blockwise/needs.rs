//! The memory that tuning takes, from the shapes of the blocks, before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Bound, Plan, PlanOptions};
use qcc_ir::{Graph, Value};
use qcc_pass::{Ctx, PassError, Session};
use qcc_tensor::{DType, Dim, Pool, Store};

use super::gradient::Gradients;
use super::outline::Outline;
use super::part::Feed;
use crate::blocks::Block;
use crate::choose::Weight;
use crate::room::{PROGRAM, bytes};

/// For each weight of a block: the float one, the sum of its gradients, its offset, the rounded one
/// and its gradient, 4 bytes each; codes of the start, of the present and the best.
const BYTES_A_WEIGHT: u64 = 5 * 4 + 3;

/// Without a cap blocks are tuned side by side as long as that takes no more.
const MAX_SIDE_BY_SIDE_BYTES: u64 = 4 << 30;

/// Memory that tuning takes, in bytes. Mapped files do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Gradients of a block for one sample, with what that is given.
    pub(super) sample: u64,
    /// The weights of a block while they are tuned.
    pub(super) weights: u64,
    /// What the samples are at one side of a block, in one of the models. It goes to files where
    /// the cap leaves no room, and so do codes.
    pub(super) boundary: u64,
    /// Codes that were chosen.
    pub(super) codes: u64,
    /// How many blocks have weights to be tuned.
    pub(super) blocks: u64,
}

/// What is held at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Samples of a step: all of it, or one.
    pub(super) samples: usize,
    /// Blocks that are tuned side by side.
    pub(super) blocks: usize,
}

impl Held {
    /// The most that fits: of steps of `batch` samples, and at most `blocks` side by side. Without
    /// `needs` nobody knows, and it is one block. Without a cap four fifths of what the machine has
    /// to spare are kept to as far as that goes.
    ///
    /// # Errors
    /// As [`Needs::at_a_time`].
    pub(super) fn of(
        needs: Option<Needs>,
        (batch, blocks): (usize, usize),
        session: &Session,
    ) -> Result<Self, PassError> {
        let Some(needs) = needs else { return Ok(Self { samples: batch, blocks: 1 }) };
        let held = needs.at_a_time(batch, blocks, session.max_mem)?;
        Ok(match (session.max_mem, session.free_mem) {
            (None, Some(free)) => needs.within(held, free / 5 * 4),
            _ => held,
        })
    }
}

impl Needs {
    /// What the largest of the blocks needs, for `count` samples like `sample`; `None` when that
    /// cannot be told before they run.
    pub(super) fn of(
        outline: &Outline,
        weights: &[Weight],
        sample: &Feed,
        count: usize,
    ) -> Option<Self> {
        let graph = &outline.graph;
        let given: Bounds = sample.iter().map(|it| (it.0.clone(), Bound::like(it.1))).collect();
        let mut wanted: BTreeSet<Value> = BTreeSet::new();
        for block in &outline.blocks {
            wanted.extend(block.inputs.iter().chain(&block.side).chain(&block.outputs));
        }
        wanted.retain(|it| !given.contains_key(graph.value_name(*it)));
        let outputs = Some(wanted.into_iter().collect());
        let options = PlanOptions { outputs, ..PlanOptions::default() };
        let whole = Plan::new(graph, &given.clone().into_iter().collect::<Vec<_>>(), &options);
        let whole = whole.ok()?;
        let mut most = Self::default();
        let (mut seen, mut boundary) = (BTreeSet::new(), 0);
        for (block, reads) in outline.blocks.iter().zip(&outline.reads) {
            let read = block.inputs.iter().chain(&block.side).chain(&block.outputs);
            let bounds: Bounds = read.filter_map(|it| bound(graph, &whole, *it)).collect();
            boundary = boundary.max(bounds.values().map(bytes).sum::<u64>());
            most.blocks += u64::from(!reads.is_empty());
            if reads.is_empty() || !seen.insert(block.class) {
                continue;
            }
            let values: Vec<Value> = reads.iter().map(|it| it.weight).collect();
            let own = values.iter().filter_map(|it| graph.constant(*it));
            let own = own.map(|it| it.len() as u64 * BYTES_A_WEIGHT).sum();
            most.weights = most.weights.max(own);
            let inputs = given.iter().chain(&bounds);
            let inputs = inputs.map(|it| (it.0.clone(), it.1.clone())).collect();
            most.sample = most.sample.max(step(graph, block, &values, inputs)?);
        }
        let numbers = weights.iter().map(|it| {
            let bits = u64::from(it.quant.spec.bits.get().next_power_of_two());
            it.tensor.len() as u64 * bits / 8
        });
        most.boundary = boundary * count as u64;
        most.codes = numbers.sum::<u64>();
        Some(most)
    }

    /// What a run takes: beyond a half of the cap, what stays goes to files.
    pub(super) fn total(&self, held: Held, cap: Option<u64>) -> u64 {
        let in_memory = cap.map_or(Store::DEFAULT_BUDGET, |it| it / 2);
        self.working(held) + self.kept(held.blocks).min(in_memory)
    }

    /// What takes no more than `room`, if anything does: `held`, one block, or one block with one
    /// sample.
    fn within(&self, held: Held, room: u64) -> Held {
        let alone = Held { blocks: 1, ..held };
        let least = Held { samples: 1, blocks: 1 };
        let fits = |it: &Held| self.total(*it, None) <= room;
        [held, alone].into_iter().find(fits).unwrap_or(least)
    }

    /// What stays. One block: both models, and what it gives while what it read is still there. Of
    /// several each has what it reads and gives.
    fn kept(&self, blocks: usize) -> u64 {
        self.boundary.saturating_mul(2 + blocks as u64) + self.codes
    }

    /// What cannot lie in files.
    fn working(&self, held: Held) -> u64 {
        let block = self.weights + self.sample.saturating_mul(held.samples as u64);
        PROGRAM + block.saturating_mul(held.blocks as u64)
    }

    /// What is held at a time under a cap: as many blocks as fit with all `batch` samples of a
    /// step, at most `blocks` of them; else one block with one sample.
    ///
    /// # Errors
    /// When that is too much: names the least cap.
    fn at_a_time(&self, batch: usize, blocks: usize, cap: Option<u64>) -> Result<Held, PassError> {
        let most = usize::try_from(self.blocks).unwrap_or(usize::MAX).min(blocks).max(1);
        let limit = cap.unwrap_or(MAX_SIDE_BY_SIDE_BYTES);
        let fits = |held: &Held| self.total(*held, cap) <= limit;
        let several = (2..=most).rev().map(|blocks| Held { samples: batch, blocks });
        let alone = Held { samples: batch, blocks: 1 };
        if let Some(held) = several.chain([alone]).find(fits) {
            return Ok(held);
        }
        let Some(cap) = cap else { return Ok(alone) };
        let least = Held { samples: 1, blocks: 1 };
        if fits(&least) {
            return Ok(least);
        }
        let working = self.working(least);
        let least = (working + working.min(self.kept(1))).div_ceil(1 << 20);
        let text = format!("tuning of blocks needs {least} MiB, and may use {} MiB", cap >> 20);
        Err(Diagnostic::error(codes::QCC0501, text)
            .at("option --max-mem")
            .with_note("samples and codes lie in files already; each step holds one sample")
            .with_help(format!("raise it to {least}MiB, or take shorter samples with --seq-len"))
            .into())
    }
}

/// Warns, once in a run, that nobody knows whether the cap holds.
pub(super) fn note_unknown(ctx: &mut Ctx<'_>, pass: &'static str) {
    let text = "what tuning takes is not known before it runs, so it may take more than --max-mem";
    let warning = Diagnostic::warning(codes::QCC0501, text).at(format!("pass '{pass}'"));
    let is_told = |it: &Diagnostic| it.code == warning.code && it.message == warning.message;
    if !ctx.record.notes.iter().any(is_told) {
        ctx.warn(
            warning.with_help("give shapes that are known, or shorter samples with --seq-len"),
        );
    }
}

type Bounds = BTreeMap<String, Bound>;

/// Bytes of the gradients of a block for one sample; of what it gives where it has no gradients.
fn step(graph: &Graph, block: &Block, weights: &[Value], mut inputs: Bounds) -> Option<u64> {
    let Ok(gradients) = Gradients::new(graph, &block.outputs, weights) else {
        block.outputs.iter().for_each(|it| _ = inputs.remove(graph.value_name(*it)));
        return run(graph, inputs, block.results());
    };
    for (output, (wanted, share)) in
        block.outputs.iter().zip(gradients.wanted.iter().zip(&gradients.shares))
    {
        let Some(Bound::Shape(dtype, mut dims)) = inputs.remove(graph.value_name(*output)) else {
            return None;
        };
        inputs.insert(wanted.clone(), Bound::Shape(dtype, dims.clone()));
        if let Some(last) = dims.last_mut() {
            *last = 1;
        }
        inputs.insert(share.clone(), Bound::Shape(dtype, dims));
    }
    run(&gradients.graph, inputs, gradients.weights)
}

/// Bytes of a run that gives `outputs`, what it is given included.
fn run(graph: &Graph, inputs: Bounds, outputs: Vec<Value>) -> Option<u64> {
    let given: u64 = inputs.values().map(bytes).sum();
    let options =
        PlanOptions { outputs: Some(outputs), pool: Pool::default(), ..PlanOptions::default() };
    let inputs: Vec<(String, Bound)> = inputs.into_iter().collect();
    let plan = Plan::new(graph, &inputs, &options).ok()?;
    Some(plan.peak_bytes() as u64 + given)
}

/// A value by its shape in a plan; `None` for one that the plan does not compute. Integers that
/// the plan knows stand for themselves: other shapes may follow from them.
fn bound(graph: &Graph, plan: &Plan, value: Value) -> Option<(String, Bound)> {
    let known = plan.known(value).filter(|it| it.dtype() == DType::I64);
    if let Some(it) = known {
        return Some((graph.value_name(value).to_owned(), Bound::Value(it.clone())));
    }
    let ty = plan.ty(value)?;
    let dims = ty.shape()?.iter().map(Dim::known).collect::<Option<Vec<_>>>()?;
    Some((graph.value_name(value).to_owned(), Bound::Shape(ty.dtype()?, dims)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_takes_samples_one_at_a_time_and_then_names_what_would_do() {
        let all = Held { samples: 8, blocks: 1 };
        let one = Held { samples: 1, blocks: 1 };
        let needs = Needs {
            sample: 100 << 20,
            weights: 50 << 20,
            boundary: 300 << 20,
            codes: 124 << 20,
            blocks: 3,
        };
        assert_eq!(needs.at_a_time(8, 1, None).unwrap(), all);
        assert_eq!(needs.at_a_time(8, 1, Some(4 << 30)).unwrap(), all);
        assert_eq!(needs.at_a_time(8, 1, Some(500 << 20)).unwrap(), one);
        let error = needs.at_a_time(8, 4, Some(300 << 20)).unwrap_err().to_string();
        assert!(error.contains("332 MiB"), "{error}");
        assert_eq!(needs.at_a_time(8, 4, Some(332 << 20)).unwrap(), one);
        let small = Needs { boundary: 0, codes: 1 << 20, ..needs };
        assert_eq!(small.at_a_time(8, 1, Some(167 << 20)).unwrap(), one);
        assert!(small.at_a_time(8, 1, Some(166 << 20)).is_err());
    }

    #[test]
    fn without_a_cap_the_machine_is_one_that_refuses_nothing() {
        let needs =
            Needs { sample: 100 << 20, weights: 50 << 20, boundary: 1 << 20, codes: 5, blocks: 3 };
        let held = |free_mem, max_mem| {
            let session = Session { free_mem, max_mem, ..Session::default() };
            Held::of(Some(needs), (8, 2), &session)
        };
        let [two, all, one] =
            [(8, 2), (8, 1), (1, 1)].map(|(samples, blocks)| Held { samples, blocks });
        assert_eq!(held(None, None).unwrap(), two);
        assert_eq!(held(Some(3 << 30), None).unwrap(), two);
        assert_eq!(held(Some(2 << 30), None).unwrap(), all);
        assert_eq!(held(Some(1 << 30), None).unwrap(), one);
        assert_eq!(held(Some(1), None).unwrap(), one);
        assert_eq!(held(Some(1), Some(3 << 30)).unwrap(), two);
    }

    #[test]
    fn blocks_are_side_by_side_where_there_is_memory_for_it() {
        let needs =
            Needs { sample: 1 << 20, weights: 2 << 20, boundary: 1 << 20, codes: 5, blocks: 3 };
        let total = |blocks| needs.total(Held { samples: 8, blocks }, None);
        assert_eq!(total(1), PROGRAM + (13 << 20) + 5);
        assert_eq!(total(3), PROGRAM + (35 << 20) + 5);
        for (threads, cap, blocks) in [
            (1, None, 1),
            (2, None, 2),
            (9, None, 3),
            (9, Some(total(3)), 3),
            (9, Some(total(3) - 1), 2),
            (9, Some(total(2) - 1), 1),
        ] {
            let held = needs.at_a_time(8, threads, cap).unwrap();
            assert_eq!(held, Held { samples: 8, blocks }, "{threads} {cap:?}");
        }
        let large = Needs { weights: MAX_SIDE_BY_SIDE_BYTES / 2, ..needs };
        assert_eq!(large.at_a_time(8, 2, None).unwrap().blocks, 1);
        assert_eq!(Held::of(None, (8, 9), &Session::default()).unwrap().blocks, 1);
    }
}
