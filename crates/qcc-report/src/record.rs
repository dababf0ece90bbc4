//! The record of a run, as JSON reads and writes it.

use std::collections::BTreeMap;

use qcc_diag::Diagnostic;
use serde::{Deserialize, Serialize};

/// Number of the fields below. Fields are only added under one number; a record with a larger
/// one is not read.
pub const SCHEMA: u32 = 1;

/// What a run did. Two equal runs give equal records, but for [`environment`](Self::environment).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of qcc.
    pub version: String,
    /// [`SCHEMA`]; 0 in records from before it was counted.
    #[serde(default)]
    pub schema: u32,
    /// The model, as the user named it.
    pub input: String,
    /// The output; `None` when nothing was written.
    pub output: Option<String>,
    /// The options that may change the output, as command line, configuration and defaults gave
    /// them. One that is repeatable has a line for each value.
    pub options: BTreeMap<String, String>,
    /// The pipeline with every option.
    pub pipeline: String,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Size of the model with its data files, in bytes.
    pub bytes_before: u64,
    /// Size of the output; `None` when nothing was written.
    pub bytes_after: Option<u64>,
    /// One row for each weight, in the order in which passes met them.
    pub weights: Vec<WeightRow>,
    /// Notes and warnings in the order in which they came.
    pub notes: Vec<Note>,
    /// One row for each pass that ran, in order.
    pub passes: Vec<PassRow>,
    /// One row for each block that was tuned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockRow>,
    /// What tuning takes, told in advance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<EstimateRow>,
    /// Values and codes of the weights with the lowest SNR, lowest first; only where asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histograms: Vec<Histogram>,
    /// Where the errors are, of the weights with the lowest SNR; only where asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heat_maps: Vec<HeatMap>,
    /// What other budgets would have lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetRow>,
    /// How good the output is, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// What the output had to fulfill.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
    /// Time and memory; only where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// The metadata that say how the output was made, `qcc.source.xxh128` and so on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provenance: BTreeMap<String, String>,
}

/// What was done to one weight.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightRow {
    /// Name of the initializer.
    pub name: String,
    /// Where it is used: names of the nodes.
    pub sites: Vec<String>,
    /// Operator of the sites.
    pub op: String,
    /// Number of inputs.
    pub k: usize,
    /// Number of outputs.
    pub n: usize,
    /// The pass that chose the numbers; empty while none did.
    pub pass: String,
    /// Width of a code; `None` in float.
    pub bits: Option<u8>,
    /// Group size, as options spell it.
    pub group: String,
    /// The grid, as options spell it.
    pub grid: String,
    /// The layout it is written in; empty while none is chosen.
    pub layout: String,
    /// Stored bits for each weight, scales and zero points included.
    pub bpw: f64,
    /// Size before, in bytes.
    pub bytes_before: u64,
    /// Size after, in bytes.
    pub bytes_after: u64,
    /// The part of it that is codes; the rest is scales and zero points. 0 in float.
    #[serde(default)]
    pub bytes_codes: u64,
    /// Norm of the error by norm of the weight.
    pub relative_error: Option<f64>,
    /// Signal by noise in the weight, in dB; `None` also when there is no noise.
    pub snr_db: Option<f64>,
    /// The same by plain rounding.
    pub rtn_snr_db: Option<f64>,
    /// How large what it is multiplied with is; `None` where no samples were run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<ActivationRow>,
    /// What it could become, where a budget let choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidateRow>,
    /// Why it was left in float; `None` when it was not.
    pub reason_left_float: Option<String>,
}

/// How large what a weight is multiplied with is, on samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActivationRow {
    /// The largest magnitude.
    pub largest: f64,
    /// The median of the largest magnitudes of groups of 32 inputs.
    pub median: f64,
    /// The share of values beyond 8 times the root mean square of their token.
    pub beyond: f64,
}

/// What a weight could become.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CandidateRow {
    /// Width of a code.
    pub bits: u8,
    /// Group size, as options spell it.
    pub group: String,
    /// Size of the weight, scales and zero points included, in bytes.
    pub bytes: u64,
    /// What the model is expected to lose by it.
    pub loss: f64,
    /// Whether it was chosen.
    pub chosen: bool,
}

/// What the model is expected to lose by the size of its weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BudgetRow {
    /// Sizes of all weights together, in bytes, with the least loss of any choice of that size.
    pub points: Vec<(u64, f64)>,
    /// The same of what was chosen.
    pub chosen: (u64, f64),
}

/// Where the error of a weight is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeatMap {
    /// Name of the weight.
    pub name: String,
    /// Number of outputs, that is rows.
    pub n: usize,
    /// Number of inputs.
    pub k: usize,
    /// Inputs of a group.
    pub group: usize,
    /// Rows of a cell; fewer in the last.
    pub cell_rows: usize,
    /// Groups of a cell; fewer in the last.
    pub cell_groups: usize,
    /// For each block of rows, for each block of groups: the root of the mean square of the error,
    /// by that of the whole weight.
    pub cells: Vec<Vec<f64>>,
}

/// A message of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// `note`, `warning` or `error`.
    pub severity: String,
    /// The code, `QCC0602` say.
    pub code: String,
    /// The line that stands alone.
    pub message: String,
    /// Where.
    pub place: Option<String>,
    /// What else is known.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Vec<String>,
}

/// Why a run failed, as JSON has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// The message.
    pub error: Note,
    /// What the process ends with.
    pub exit_code: u8,
}

/// What one pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRow {
    /// The pass.
    pub name: String,
    /// How many patches were applied.
    pub patches: usize,
    /// How many notes and warnings it put down.
    pub notes: usize,
}

/// What tuning takes, told in advance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EstimateRow {
    /// Wall time; `None` when no step was timed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The most memory, in bytes; mapped files do not count.
    pub memory_bytes: u64,
}

/// How a block was tuned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockRow {
    /// What the block is called.
    pub name: String,
    /// Steps that were taken.
    pub steps: usize,
    /// Steps with the error of the block's output by that of rounding to nearest.
    pub objective: Vec<(usize, f64)>,
    /// How many weights it has; 0 where that was not told.
    #[serde(default)]
    pub weights: usize,
    /// Why they were tuned one at a time; `None` where they were together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

/// How the values of a weight are distributed, and which codes they became.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Name of the weight.
    pub name: String,
    /// Least value.
    pub low: f64,
    /// Largest value.
    pub high: f64,
    /// How many values are in each of equal parts of `low ..= high`.
    pub floats: Vec<u64>,
    /// How many values became each code.
    pub codes: Vec<u64>,
    /// How many values are more than half a step outside of the grid of their group.
    pub clipped: u64,
}

/// How good a model is on samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The model, as the user named it; `None` where it is the output of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Samples that were run.
    #[serde(default)]
    pub samples: usize,
    /// Tokens that perplexity counts.
    #[serde(default)]
    pub tokens: u64,
    /// Perplexity.
    #[serde(default)]
    pub perplexity: Option<f64>,
    /// Perplexity of the model before.
    #[serde(default)]
    pub reference_perplexity: Option<f64>,
    /// Mean KL divergence from the model before, in nats for each token.
    #[serde(default)]
    pub kl_nats: Option<f64>,
    /// Share of tokens where both models rank the same one first.
    #[serde(default)]
    pub top1: Option<f64>,
    /// Agreement of each output with that of the model before.
    #[serde(default)]
    pub outputs: Vec<OutputQuality>,
    /// What the outputs had to fulfill.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

impl Quality {
    /// With what a later measurement found, in place of what both have.
    pub fn then(mut self, later: Self) -> Self {
        self.model = later.model.or(self.model);
        self.samples = later.samples;
        self.tokens = self.tokens.max(later.tokens);
        self.perplexity = later.perplexity.or(self.perplexity);
        self.reference_perplexity = later.reference_perplexity.or(self.reference_perplexity);
        self.kl_nats = later.kl_nats.or(self.kl_nats);
        self.top1 = later.top1.or(self.top1);
        if !later.outputs.is_empty() {
            self.outputs = later.outputs;
        }
        self.gates.extend(later.gates);
        self
    }
}

/// Agreement of an output with that of the model before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutputQuality {
    /// Name of the output.
    pub name: String,
    /// Signal by noise, in dB; `None` also when there is no noise.
    #[serde(default)]
    pub snr_db: Option<f64>,
    /// Cosine of both.
    #[serde(default)]
    pub cosine: Option<f64>,
    /// Largest difference.
    #[serde(default)]
    pub max_abs: Option<f64>,
    /// Elements that are not finite in one of both, or in both.
    #[serde(default)]
    pub not_finite_elements: u64,
}

/// What an output had to fulfill.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// The gate, as it was asked for.
    pub gate: String,
    /// What was measured, in words.
    pub found: String,
    /// Whether it holds.
    pub passed: bool,
}

/// What a run took. It differs from run to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Wall clock, in seconds.
    pub seconds: f64,
    /// The most memory that the process held, in bytes, without mapped files; `None` where it is
    /// not known.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    /// Threads that worked.
    #[serde(default)]
    pub threads: usize,
}

impl From<&Diagnostic> for Note {
    fn from(it: &Diagnostic) -> Self {
        Self {
            severity: it.severity.to_string(),
            code: it.code.to_string(),
            message: it.message.clone(),
            place: it.place.clone(),
            notes: it.notes.clone(),
            help: it.help.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_diag::codes;

    #[test]
    fn json_is_read_back() {
        let message = Diagnostic::warning(codes::QCC0607, "'w' holds NaN").with_help("mend it");
        let record = RunRecord {
            output: Some("m.q4.onnx".to_owned()),
            bytes_after: Some(7),
            options: BTreeMap::from([("bits".to_owned(), "4".to_owned())]),
            weights: vec![WeightRow { bits: Some(4), snr_db: Some(21.5), ..Default::default() }],
            notes: vec![Note::from(&message)],
            passes: vec![PassRow { name: "rtn".to_owned(), patches: 3, notes: 1 }],
            ..Default::default()
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains(r#""code":"QCC0607""#), "{text}");
        assert_eq!(serde_json::from_str::<RunRecord>(&text).unwrap(), record);
    }
}
