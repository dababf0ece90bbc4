//! What an evaluation gave, and what gates say of it: the lines, the record and the exit code that
//! `qcc eval` and `qcc quantize --eval` share.

use std::fmt::Write as _;

use qcc::{Error, Evaluation, Gate, OutputDistance, Verdict};
use qcc_diag::{Diagnostic, codes};
use qcc_report::{OutputQuality, Quality};

use super::exit::{Ended, say};

/// Figures of a model, with the verdicts of gates.
pub(super) struct Measured {
    result: Evaluation,
    verdicts: Vec<Verdict>,
}

impl Measured {
    /// Checks the gates.
    ///
    /// # Errors
    /// QCC0404 when the evaluation has not the figure of one.
    pub(super) fn new(result: Evaluation, gates: &[Gate]) -> Result<Self, Error> {
        let verdicts = gates.iter().map(|it| it.check_evaluation(&result));
        let verdicts = verdicts.collect::<Result<Vec<Verdict>, Error>>()?;
        Ok(Self { result, verdicts })
    }

    /// Whether a figure, or each output, is no number: of a model beside itself, since it gives none.
    pub(super) fn is_nothing(&self) -> bool {
        let it = &self.result;
        let has_nan = [it.perplexity, it.kl_nats].into_iter().flatten().any(f64::is_nan);
        has_nan || !it.outputs.is_empty() && it.outputs.iter().all(|it| it.max_abs.is_nan())
    }

    /// A line for each figure, and one for each gate.
    pub(super) fn lines(&self) -> String {
        let Evaluation { perplexity, reference_perplexity, kl_nats, top1, outputs, .. } =
            &self.result;
        let mut text = String::new();
        if let Some(value) = perplexity {
            let beside =
                reference_perplexity.map_or(String::new(), |it| format!("   reference {it:.4}"));
            let tokens = self.result.tokens;
            let _ = writeln!(text, "  perplexity   {value:.4} over {tokens} tokens{beside}");
        }
        if let (Some(kl), Some(top1)) = (kl_nats, top1) {
            let _ = writeln!(text, "  KL           {kl:.5} nats for each token");
            let _ = writeln!(text, "  same first   {:.2} %", 100.0 * top1);
        }
        for it in outputs {
            let OutputDistance { name, snr_db, cosine, max_abs, not_finite, elements } = it;
            let _ = write!(
                text,
                "  {name}   SNR {snr_db:.1} dB, cosine {cosine:.5}, largest difference {max_abs:.5}"
            );
            if *not_finite > 0 {
                let _ = write!(text, "; {not_finite} of {elements} elements are not finite");
            }
            text.push('\n');
        }
        for it in &self.verdicts {
            let word = if it.passed { "passed" } else { "failed" };
            let _ = writeln!(text, "  gate {}: {word} ({})", it.gate, it.gate.text(it.figure));
        }
        text
    }

    /// The figures as a record has them.
    pub(super) fn quality(&self) -> Quality {
        let it = &self.result;
        let finite = |it: f64| it.is_finite().then_some(it);
        let outputs = it.outputs.iter().map(|it| OutputQuality {
            name: it.name.clone(),
            snr_db: finite(it.snr_db),
            cosine: finite(it.cosine),
            max_abs: finite(it.max_abs),
            not_finite_elements: it.not_finite,
        });
        Quality {
            model: None,
            samples: it.samples,
            tokens: it.tokens,
            perplexity: it.perplexity.and_then(finite),
            reference_perplexity: it.reference_perplexity.and_then(finite),
            kl_nats: it.kl_nats.and_then(finite),
            top1: it.top1.and_then(finite),
            outputs: outputs.collect(),
            gates: Vec::new(),
        }
    }

    /// The verdicts as a record has them.
    pub(super) fn gates(&self) -> Vec<qcc_report::Gate> {
        let row = |it: &Verdict| qcc_report::Gate {
            gate: it.gate.to_string(),
            found: it.gate.text(it.figure),
            passed: it.passed,
        };
        self.verdicts.iter().map(row).collect()
    }

    /// Says which gates failed, and how the command ends.
    pub(super) fn ended(&self) -> Ended {
        let mut ended = Ended::Well;
        for it in self.verdicts.iter().filter(|it| !it.passed) {
            let text = format!(
                "{} of {} is {}",
                it.gate.metric.name(),
                it.output,
                it.gate.text(it.figure)
            );
            let error = Diagnostic::error(codes::QCC0802, text).at("option --fail-above");
            let help = if it.figure.is_nan() {
                "look at the values of the float model: qcc eval FLOAT.onnx, qcc inspect --weights"
            } else {
                "more bits, smaller groups or another recipe lose less"
            };
            say(&error.with_note(format!("asked for is {}", it.gate)).with_help(help));
            ended = Ended::Failed;
        }
        ended
    }
}
