//! The record of a run, as JSON reads and writes it.

use std::collections::BTreeMap;

use qcc_diag::Diagnostic;
use serde::{Deserialize, Serialize};

/// What a run did. Two equal runs give equal records: there is no time or machine in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Version of qcc.
    pub version: String,
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
    /// Norm of the error by norm of the weight.
    pub relative_error: Option<f64>,
    /// Signal by noise in the weight, in dB; `None` also when there is no noise.
    pub snr_db: Option<f64>,
    /// The same by plain rounding.
    pub rtn_snr_db: Option<f64>,
    /// Why it was left in float; `None` when it was not.
    pub reason_left_float: Option<String>,
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
