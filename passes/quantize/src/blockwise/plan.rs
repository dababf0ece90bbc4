//! What the tuning of blocks follows from, as a plan: the model, the weights, the samples and the
//! options. Threads and memory are no part of it, since they change no byte. The plan of a run says
//! all of it, for a reader too; what is the same for all blocks is the base of their
//! [keys](super::keys).

use std::collections::BTreeMap;

use qcc_pass::{PassError, Plan, SampleSource};

use super::{Options, Start, Steps};
use crate::choose::Weight;

/// Raised when the same inputs give other results than before.
const RESULTS: u32 = 6;

/// What all blocks follow from, but for the number of steps, which may be found on the way.
pub(super) fn base(
    seed: u64,
    samples: &dyn SampleSource,
    options: Options,
) -> Result<Plan, PassError> {
    Ok(Plan::new([
        ("qcc", format!("{}, results {RESULTS}", env!("CARGO_PKG_VERSION"))),
        ("samples", format!("{}: {}", samples.len(), values(samples)?)),
        ("seed", seed.to_string()),
        ("batch", options.batch.to_string()),
        ("rate", options.rate.map_or("auto".to_owned(), |it| it.to_string())),
        ("inputs", format!("{:?}", options.inputs).to_lowercase()),
        ("scales", format!("{:?}", options.scales).to_lowercase()),
        ("select", format!("{:?}", options.select).to_lowercase()),
    ]))
}

/// The plan of a run, with a hash of its model.
pub(super) fn plan(base: &Plan, model: String, weights: &[Weight], options: Options) -> Plan {
    let steps = match options.steps {
        Steps::Count(count) => count.to_string(),
        Steps::Within(time) => format!("within {} s", time.as_secs_f64()),
    };
    let numbers = match options.start {
        Start::Searched => "searched".to_owned(),
        Start::Given => format!("given {}", given(weights)),
    };
    base.with([
        ("model", model),
        ("weights", forms(weights)),
        ("names", names(weights)),
        ("steps", steps),
        ("start", numbers),
    ])
}

/// How many weights have which form.
fn forms(weights: &[Weight]) -> String {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for it in weights {
        let spec = it.quant.spec;
        let text = format!("{} bits {:?} groups of {}", spec.bits, spec.grid, spec.group);
        *count.entry(text.to_lowercase()).or_default() += 1;
    }
    let each: Vec<String> = count.iter().map(|(form, count)| format!("{count} x {form}")).collect();
    each.join(", ")
}

/// BLAKE3 of which weight has which form.
fn names(weights: &[Weight]) -> String {
    let mut hash = blake3::Hasher::new();
    for it in weights {
        let text = format!("{} {:?} {:?}\n", it.name, it.quant.spec, it.quant.form);
        hash.update(text.as_bytes());
    }
    hash.finalize().to_hex().to_string()
}

/// BLAKE3 of the numbers that weights have.
fn given(weights: &[Weight]) -> String {
    let mut hash = blake3::Hasher::new();
    for numbers in weights.iter().filter_map(|it| it.quant.numbers.as_ref()) {
        let view = numbers.view();
        let scales = bytemuck::cast_slice(view.scales);
        for bytes in [view.codes, scales, view.zeros] {
            hash.update(bytes);
        }
    }
    hash.finalize().to_hex().to_string()
}

/// BLAKE3 of all samples.
fn values(samples: &dyn SampleSource) -> Result<String, PassError> {
    let mut hash = blake3::Hasher::new();
    for sample in 0..samples.len() {
        let counted = samples.counted(sample)?.map(|it| ("counted".to_owned(), it));
        for (name, tensor) in samples.batch(sample)?.into_iter().chain(counted) {
            hash.update(format!("{name} {:?} {:?}", tensor.dtype(), tensor.dims()).as_bytes());
            hash.update(tensor.bytes());
        }
    }
    Ok(hash.finalize().to_hex().to_string())
}
