//! From what a run told to the record that tables and JSON are made from.

use qcc::Output;
use qcc_pass::{Candidate, WeightRecord};
use qcc_report::{
    ActivationRow, BlockRow, BudgetRow, CandidateRow, EstimateRow, PassRow, RunRecord, SCHEMA,
    WeightRow,
};

/// The record of a run; input, output, sizes, options and notes are filled in by the caller.
pub(super) fn record(output: &Output, seed: u64) -> RunRecord {
    let record = output.record();
    RunRecord {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: SCHEMA,
        pipeline: output.pipeline().to_owned(),
        seed,
        weights: record.weights.iter().map(weight).collect(),
        passes: record
            .passes
            .iter()
            .map(|it| PassRow { name: it.name.to_owned(), patches: it.patches, notes: it.notes })
            .collect(),
        estimate: record
            .estimate
            .map(|it| EstimateRow { seconds: it.seconds, memory_bytes: it.memory_bytes }),
        budget: record
            .budget
            .as_ref()
            .map(|it| BudgetRow { points: it.points.clone(), chosen: it.chosen }),
        blocks: record
            .blocks
            .iter()
            .map(|it| BlockRow {
                name: it.name.clone(),
                steps: it.steps,
                objective: it.objective.clone(),
                weights: it.weights,
                obstacle: it.obstacle.clone(),
            })
            .collect(),
        ..RunRecord::default()
    }
}

fn weight(it: &WeightRecord) -> WeightRow {
    // A weight in float is written as it is.
    let (bpw, bytes_after, bytes_codes) = match it.bits {
        Some(_) => (it.bpw, it.bytes_after, it.bytes_codes),
        None => (float_bpw(it), it.bytes_before, 0),
    };
    WeightRow {
        name: it.name.clone(),
        sites: it.sites.clone(),
        op: it.op.clone(),
        k: it.k,
        n: it.n,
        pass: it.pass.to_owned(),
        bits: it.bits,
        group: it.group.clone(),
        grid: it.grid.clone(),
        layout: it.layout.clone(),
        bpw,
        bytes_before: it.bytes_before,
        bytes_after,
        bytes_codes,
        relative_error: it.relative_error,
        snr_db: it.snr_db,
        rtn_snr_db: it.rtn_snr_db,
        activations: it.activations.map(|it| ActivationRow {
            largest: it.largest,
            median: it.median,
            beyond: it.beyond,
        }),
        candidates: it.candidates.iter().map(candidate).collect(),
        reason_left_float: it.reason_left_float.clone(),
    }
}

fn candidate(it: &Candidate) -> CandidateRow {
    CandidateRow {
        bits: it.bits,
        group: it.group.clone(),
        bytes: it.bytes,
        loss: it.loss,
        chosen: it.is_chosen,
    }
}

fn float_bpw(it: &WeightRecord) -> f64 {
    let len = it.n as f64 * it.k as f64;
    if len > 0.0 { 8.0 * it.bytes_before as f64 / len } else { 0.0 }
}
