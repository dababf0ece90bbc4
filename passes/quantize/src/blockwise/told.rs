//! What the record says of a finished block, kept beside its codes.

use qcc_pass::{ActivationRecord, Ctx};
use qcc_tensor::Tensor;

use super::entry::Entry;
use super::tune::Curve;
use crate::choose::Weight;

/// Name of the errors of a block by step: `f64[n, 2]`.
const CURVE: &str = "curve";

/// Errors of a block, and how large the inputs of its weights are, as entries.
pub(super) fn told<'a>(
    weights: impl Iterator<Item = &'a Weight>,
    block: usize,
    ctx: &Ctx<'_>,
) -> Entry {
    let mut entry = Entry::new();
    let mut add = |name: String, dims: Vec<usize>, values: Vec<f64>| {
        // Of a shape that fits, always.
        entry.extend(Tensor::from_vec(dims, values).ok().map(|it| (name, it)));
    };
    let row = ctx.record.blocks.iter().find(|it| it.name == name_of(block));
    if let Some(row) = row.filter(|it| !it.objective.is_empty()) {
        let pairs = row.objective.iter().flat_map(|&(step, error)| [step as f64, error]);
        add(CURVE.to_owned(), vec![row.objective.len(), 2], pairs.collect());
    }
    for (idx, weight) in weights.enumerate() {
        let row = ctx.record.weights.iter().find(|it| it.name == weight.name);
        if let Some(it) = row.and_then(|it| it.activations) {
            add(format!("activations.{idx}"), vec![3], vec![it.largest, it.median, it.beyond]);
        }
    }
    entry
}

/// Puts into the record what an entry says.
pub(super) fn tell<'a>(
    entry: &Entry,
    weights: impl Iterator<Item = &'a Weight>,
    (block, steps): (usize, u16),
    ctx: &mut Ctx<'_>,
) {
    let weights: Vec<&Weight> = weights.collect();
    let get = |name: &str| entry.iter().find(|it| it.0 == name)?.1.as_slice::<f64>().ok();
    if let Some(values) = get(CURVE) {
        let curve: Curve =
            values.as_chunks::<2>().0.iter().map(|it| (it[0] as usize, it[1])).collect();
        let row = ctx.record.block(&name_of(block));
        (row.steps, row.objective) = (steps.into(), curve);
        row.weights = weights.len();
    }
    for (idx, weight) in weights.into_iter().enumerate() {
        if let Some(&[largest, median, beyond]) = get(&format!("activations.{idx}")).as_deref() {
            let told = ActivationRecord { largest, median, beyond };
            ctx.record.weight(&weight.name).activations = Some(told);
        }
    }
}

/// Puts into the record that the `count` weights of a block are tuned one at a time, and why.
pub(super) fn apart(block: usize, count: usize, why: &str, ctx: &mut Ctx<'_>) {
    let row = ctx.record.block(&name_of(block));
    (row.weights, row.obstacle) = (count, Some(why.to_owned()));
}

/// What the record calls a block.
pub(super) fn name_of(block: usize) -> String {
    format!("block {block}")
}
