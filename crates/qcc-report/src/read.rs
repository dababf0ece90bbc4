//! Reading records back. They may come from anywhere, so what does not fit is named.

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::{ErrorRecord, Gate, OutputQuality, Quality, RunRecord, SCHEMA, Speed};

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// The record of a run.
    Run(Box<RunRecord>),
    /// What `qcc eval --json` or `qcc compare --json` found.
    Quality(Quality),
    /// What `qcc bench --json` found.
    Speed(Box<Speed>),
}

/// Why a document is not read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// It is not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// It is JSON, but of something else.
    #[error("it is JSON, but {0}")]
    Other(&'static str),
    /// A field does not fit.
    #[error("field '{field}': {what}")]
    Field {
        /// Path of the field, `weights[3].bits` say.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// It is of a newer qcc.
    #[error("its schema is {0}, and this qcc reads schemas up to {SCHEMA}")]
    Newer(u64),
    /// It is what is left of a run that failed.
    #[error("the run failed: {0}")]
    Failed(String),
}

/// Reads a document.
///
/// # Errors
/// Says what does not fit, and where.
pub fn read(bytes: &[u8]) -> Result<Document, ReadError> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|it| ReadError::Json(it.to_string()))?;
    let Value::Object(fields) = &value else {
        return Err(ReadError::Other("not an object"));
    };
    // Before the other fields: those of a newer schema may have other types.
    if let Some(schema) = fields.get("schema").and_then(Value::as_u64)
        && schema > u64::from(SCHEMA)
    {
        return Err(ReadError::Newer(schema));
    }
    if fields.contains_key("weights") && fields.contains_key("pipeline") {
        return Ok(Document::Run(typed(value)?));
    }
    if fields.contains_key("error") && fields.contains_key("exit_code") {
        let record: ErrorRecord = typed(value)?;
        return Err(ReadError::Failed(record.error.message));
    }
    if fields.contains_key("perplexity") || fields.contains_key("kl_nats") {
        return Ok(Document::Quality(typed(value)?));
    }
    if fields.contains_key("first_difference") && fields.contains_key("values") {
        return Ok(Document::Quality(typed::<Compared>(value)?.into()));
    }
    if fields.contains_key("limits") && fields.contains_key("layers") {
        return Ok(Document::Speed(typed(value)?));
    }
    Err(ReadError::Other(
        "neither the record of a run ('weights' and 'pipeline') nor of eval, compare or bench",
    ))
}

/// What is taken from `qcc compare --json`.
#[derive(Deserialize)]
struct Compared {
    /// The second model.
    #[serde(default)]
    b: Option<String>,
    samples: usize,
    values: Vec<ComparedValue>,
    gates: Vec<ComparedGate>,
}

#[derive(Deserialize)]
struct ComparedValue {
    #[serde(flatten)]
    quality: OutputQuality,
    output: bool,
}

#[derive(Deserialize)]
struct ComparedGate {
    gate: String,
    /// `null` where it is no number.
    limit: Option<f64>,
    output: String,
    figure: Option<f64>,
    passed: bool,
}

impl From<Compared> for Quality {
    fn from(it: Compared) -> Self {
        let number = |it: Option<f64>| it.map_or("no number".to_owned(), |it| it.to_string());
        let gate = |it: ComparedGate| Gate {
            gate: format!("{}:{}", it.gate, number(it.limit)),
            found: format!("{} in {}", number(it.figure), it.output),
            passed: it.passed,
        };
        let outputs = it.values.into_iter().filter(|it| it.output).map(|it| it.quality);
        Self {
            model: it.b,
            samples: it.samples,
            outputs: outputs.collect(),
            gates: it.gates.into_iter().map(gate).collect(),
            ..Self::default()
        }
    }
}

fn typed<T: for<'a> Deserialize<'a>>(value: Value) -> Result<T, ReadError> {
    serde_path_to_error::deserialize(value).map_err(|it| ReadError::Field {
        field: it.path().to_string(),
        what: it.inner().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WeightRow;
    use proptest::prelude::*;

    fn record() -> Value {
        let weights = vec![WeightRow { name: "w".to_owned(), bits: Some(4), ..Default::default() }];
        serde_json::to_value(RunRecord { schema: SCHEMA, weights, ..Default::default() }).unwrap()
    }

    fn check(value: &Value, want: &str) {
        let error = read(value.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn the_field_that_does_not_fit_is_named() {
        let mut value = record();
        value["weights"][0]["bits"] = Value::from("four");
        check(&value, "field 'weights[0].bits': invalid type: string \"four\", expected u8");
        let mut value = record();
        value["weights"][0].as_object_mut().unwrap().remove("op");
        check(&value, "field 'weights[0]': missing field `op`");
        let mut value = record();
        value["blocks"] = serde_json::json!([{"name": "b", "steps": 1, "objective": [[0]]}]);
        check(
            &value,
            "field 'blocks[0].objective[0]': invalid length 1, expected a tuple of size 2",
        );
    }

    #[test]
    fn a_newer_schema_is_said_before_anything_else() {
        let mut value = record();
        value["schema"] = Value::from(2);
        value["weights"] = Value::from("elsewhere");
        check(&value, "its schema is 2, and this qcc reads schemas up to 1");
    }

    #[test]
    fn older_records_lack_what_came_later() {
        let mut value = record();
        for field in ["schema", "blocks"] {
            value.as_object_mut().unwrap().remove(field);
        }
        value["weights"][0].as_object_mut().unwrap().remove("bytes_codes");
        let Document::Run(record) = read(value.to_string().as_bytes()).unwrap() else { panic!() };
        assert_eq!((record.schema, record.weights[0].bytes_codes), (0, 0));
    }

    #[test]
    fn other_documents_are_told_apart() {
        let quality = read(br#"{"samples": 3, "perplexity": 7.5}"#).unwrap();
        let want = Quality { samples: 3, perplexity: Some(7.5), ..Default::default() };
        assert_eq!(quality, Document::Quality(want));
        check(&serde_json::json!([1]), "it is JSON, but not an object");
        check(
            &serde_json::json!({"a": 1}),
            "it is JSON, but neither the record of a run ('weights' and 'pipeline') nor of eval, compare or bench",
        );
        let failed = ErrorRecord {
            error: crate::Note { message: "no room".to_owned(), ..Default::default() },
            exit_code: 1,
        };
        check(&serde_json::to_value(failed).unwrap(), "the run failed: no room");
        assert!(matches!(read(b"\x08\x01"), Err(ReadError::Json(_))));
    }

    #[test]
    fn a_comparison_gives_outputs_and_gates() {
        let value = serde_json::json!({
            "samples": 2,
            "first_difference": null,
            "values": [
                {"name": "h", "output": false, "snr_db": 30.5, "cosine": 0.9, "max_abs": 1.0},
                {"name": "logits", "output": true, "snr_db": 21.5, "cosine": 0.75, "max_abs": 0.5},
            ],
            "gates": [
                {"gate": "snr", "limit": 15, "output": "logits", "figure": 21.5, "passed": true},
                {"gate": "cosine", "limit": 0.8, "output": "logits", "figure": null, "passed": false},
            ],
        });
        let Document::Quality(it) = read(value.to_string().as_bytes()).unwrap() else { panic!() };
        let (snr_db, cosine, max_abs) = (Some(21.5), Some(0.75), Some(0.5));
        let name = "logits".to_owned();
        assert_eq!(
            it.outputs,
            [OutputQuality { name, snr_db, cosine, max_abs, not_finite_elements: 0 }]
        );
        let told: Vec<_> =
            it.gates.iter().map(|it| (it.gate.as_str(), it.found.as_str(), it.passed)).collect();
        let want =
            [("snr:15", "21.5 in logits", true), ("cosine:0.8", "no number in logits", false)];
        assert_eq!((it.samples, told), (2, want.to_vec()));
    }

    #[test]
    fn times_are_told_by_their_limits() {
        let mut value = serde_json::json!({
            "input": "m.onnx", "reference": null, "past": 0, "isa": "avx2",
            "limits": {"threads": 2, "read": [], "dot_ops_per_second": null},
            "whole": [{"rows": 1, "seconds": 0.5, "best_seconds": 0.4, "reference_seconds": null}],
            "layers": [{
                "name": "q", "count": 3, "k": 64, "n": [32], "bits": [4], "group": [32],
                "times": [{"rows": 1, "seconds": 0.25, "reference_seconds": 0.5, "share_of_limit": 1}],
            }],
        });
        let Document::Speed(it) = read(value.to_string().as_bytes()).unwrap() else { panic!() };
        assert_eq!((it.limits.threads, it.whole[0].seconds), (2, 0.5));
        assert_eq!(it.layers[0].times[0].reference_seconds, Some(0.5));
        value["layers"][0]["times"][0]["seconds"] = Value::Null;
        check(&value, "field 'layers[0].times[0].seconds': invalid type: null, expected f64");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
