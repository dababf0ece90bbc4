//! The memory that tuning takes, from the shapes of the blocks, before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Bound, Plan, PlanOptions};
use qcc_ir::{Graph, Value};
use qcc_pass::PassError;
use qcc_tensor::{Dim, Pool};

use super::gradient::Gradients;
use super::outline::Outline;
use super::part::Feed;
use crate::blocks::Block;
use crate::choose::Weight;

/// For each weight of a block: the float one, the sum of its gradients, its offset, the rounded one
/// and its gradient, 4 bytes each; codes of the start, of the present and the best.
const BYTES_A_WEIGHT: u64 = 5 * 4 + 3;
/// The program itself, its tables, and scratch memory of products.
const BASE: u64 = 48 << 20;

/// Memory that tuning takes, in bytes. Mapped files do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Gradients of a block for one sample, with what that is given.
    pub(super) sample: u64,
    /// The weights of a block while they are tuned.
    pub(super) weights: u64,
    /// What stays: samples at the boundary of a block, codes that were chosen. It goes to files
    /// where the cap leaves no room.
    pub(super) kept: u64,
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
            // Both models, and what the block gives while what it read is still there.
            boundary = boundary.max(3 * bounds.values().map(bytes).sum::<u64>());
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
        most.kept = boundary * count as u64 + numbers.sum::<u64>();
        Some(most)
    }

    /// What a run takes whose steps hold `batch` samples at a time.
    pub(super) fn total(&self, batch: usize, cap: Option<u64>) -> u64 {
        let kept = cap.map_or(self.kept, |it| self.kept.min(it / 2));
        self.working(batch) + kept
    }

    /// What cannot lie in files.
    fn working(&self, batch: usize) -> u64 {
        BASE + self.weights + self.sample.saturating_mul(batch as u64)
    }

    /// How many samples of a step, all `batch` or one, are held at a time under a cap.
    ///
    /// # Errors
    /// When one is too much: names the least cap.
    pub(super) fn at_a_time(&self, batch: usize, cap: Option<u64>) -> Result<usize, PassError> {
        let Some(cap) = cap else { return Ok(batch) };
        if self.total(batch, Some(cap)) <= cap {
            return Ok(batch);
        }
        if self.total(1, Some(cap)) <= cap {
            return Ok(1);
        }
        let working = self.working(1);
        let least = (working + working.min(self.kept)).div_ceil(1 << 20);
        let text = format!("tuning of blocks needs {least} MiB, and may use {} MiB", cap >> 20);
        Err(Diagnostic::error(codes::QCC0501, text)
            .at("option --max-mem")
            .with_note("samples and codes lie in files already; each step holds one sample")
            .with_help(format!("raise it to {least}MiB, or take shorter samples with --seq-len"))
            .into())
    }
}

type Bounds = BTreeMap<String, Bound>;

/// Bytes of the gradients of a block for one sample.
fn step(graph: &Graph, block: &Block, weights: &[Value], mut inputs: Bounds) -> Option<u64> {
    let gradients = Gradients::new(graph, &block.outputs, weights).ok()?;
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
    let given: u64 = inputs.values().map(bytes).sum();
    let options = PlanOptions {
        outputs: Some(gradients.weights.clone()),
        pool: Pool::default(),
        ..PlanOptions::default()
    };
    let inputs: Vec<(String, Bound)> = inputs.into_iter().collect();
    let plan = Plan::new(&gradients.graph, &inputs, &options).ok()?;
    Some(plan.peak_bytes() as u64 + given)
}

/// A value by its shape in a plan; `None` for one that the plan does not compute.
fn bound(graph: &Graph, plan: &Plan, value: Value) -> Option<(String, Bound)> {
    let ty = plan.ty(value)?;
    let dims = ty.shape()?.iter().map(Dim::known).collect::<Option<Vec<_>>>()?;
    Some((graph.value_name(value).to_owned(), Bound::Shape(ty.dtype()?, dims)))
}

fn bytes(bound: &Bound) -> u64 {
    match bound {
        Bound::Shape(dtype, dims) => dtype.size_of(dims.iter().product()).unwrap_or(0) as u64,
        Bound::Value(tensor) => tensor.bytes().len() as u64,
        Bound::Open(..) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_takes_samples_one_at_a_time_and_then_names_what_would_do() {
        let needs = Needs { sample: 100 << 20, weights: 50 << 20, kept: 1 << 30 };
        assert_eq!(needs.at_a_time(8, None).unwrap(), 8);
        assert_eq!(needs.at_a_time(8, Some(4 << 30)).unwrap(), 8);
        assert_eq!(needs.at_a_time(8, Some(500 << 20)).unwrap(), 1);
        let error = needs.at_a_time(8, Some(300 << 20)).unwrap_err().to_string();
        assert!(error.contains("396 MiB"), "{error}");
        assert_eq!(needs.at_a_time(8, Some(396 << 20)).unwrap(), 1);
        let small = Needs { kept: 1 << 20, ..needs };
        assert_eq!(small.at_a_time(8, Some(199 << 20)).unwrap(), 1);
        assert!(small.at_a_time(8, Some(198 << 20)).is_err());
    }
}
