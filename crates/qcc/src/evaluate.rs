//! How well a model does: perplexity, and agreement with a reference model.

use std::collections::BTreeMap;
use std::sync::Arc;

use qcc_data::{Agreement, Difference, Perplexity, Samples};
use qcc_diag::Diagnostic;
use qcc_pass::{Cancel, Progress, SampleSource as _};
use qcc_tensor::{DType, Tensor};

use crate::runner::{Feed, Runner};
use crate::{Error, Model};

/// What was measured. Figures that the model does not allow are absent.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Samples that ran.
    pub samples: usize,
    /// Positions that perplexity counts.
    pub tokens: u64,
    /// Perplexity of the model: each row on its own, all positions but the first.
    pub perplexity: Option<f64>,
    /// Perplexity of the reference.
    pub reference_perplexity: Option<f64>,
    /// Mean KL divergence of the model from the reference, in nats for each position.
    pub kl_nats: Option<f64>,
    /// Share of positions where both rank the same token first.
    pub top1: Option<f64>,
    /// How far each output of floats is from that of the reference.
    pub outputs: Vec<OutputDistance>,
}

/// How far an output is from that of the reference. Figures are NaN where neither has a finite
/// element.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputDistance {
    /// Its name.
    pub name: String,
    /// Signal by noise, in decibels: infinite for equal outputs.
    pub snr_db: f64,
    /// Cosine of the angle between both.
    pub cosine: f64,
    /// Largest difference of one element.
    pub max_abs: f64,
    /// Elements that are not finite in one of them, or in both.
    pub not_finite: u64,
    /// All elements.
    pub elements: u64,
}

impl OutputDistance {
    fn new(name: String, it: &Difference) -> Self {
        Self {
            name,
            snr_db: it.snr_db(),
            cosine: it.cosine(),
            max_abs: it.max_abs(),
            not_finite: it.not_finite() + it.alike_not_finite(),
            elements: it.count(),
        }
    }
}

/// Runs a model, and a reference beside it, on samples.
///
/// # Errors
/// When a model cannot be run, or there is nothing to measure: no logits and no reference.
pub fn evaluate(
    model: &Model,
    reference: Option<&Model>,
    samples: &Samples,
    progress: &Arc<dyn Progress>,
    cancel: &Cancel,
) -> Result<Evaluation, Error> {
    let mut runner = Runner::new(model, cancel)?;
    let mut other = reference.map(|it| Runner::new(it, cancel)).transpose()?;
    let mut perplexity = Perplexity::new();
    let mut reference_perplexity = Perplexity::new();
    let mut agreement = Agreement::new();
    let mut outputs: BTreeMap<String, Difference> = BTreeMap::new();
    let mut has_logits = false;
    progress.start("eval", samples.len() as u64);
    for idx in 0..samples.len() {
        if cancel.is_set() {
            let code = qcc_diag::codes::QCC0509;
            return Err(Diagnostic::error(code, "interrupted").into());
        }
        let feed = samples.batch(idx).map_err(|it| Error::from(it.into_diagnostic()))?;
        let feed: Feed = feed.into_iter().collect();
        let got = runner.run(&feed, &[], &mut |_, _| {})?;
        let want = other.as_mut().map(|it| it.run(&feed, &[], &mut |_, _| {})).transpose()?;
        let ids = samples.tokens().and_then(|_| samples.ids(idx).ok());
        let length = ids.as_ref().and_then(|it| it.dims().last().copied());
        let logits = length.and_then(|it| logits(&got, it));
        if let (Some(at), Some(ids)) = (logits, &ids) {
            has_logits = true;
            perplexity.add(&got[at].1, ids).map_err(|it| Error::from(it.0))?;
            if let Some(want) = want.as_ref().and_then(|it| it.get(at)) {
                reference_perplexity.add(&want.1, ids).map_err(|it| Error::from(it.0))?;
                agreement.add(&want.1, &got[at].1).map_err(|it| Error::from(it.0))?;
            }
        }
        for ((name, got), (_, want)) in got.iter().zip(want.iter().flatten()) {
            if got.dtype().is_float() {
                let sum = outputs.entry(name.clone()).or_default();
                sum.add(want, got).map_err(|it| Error::from(it.0))?;
            }
        }
        progress.step(1, "");
    }
    progress.finish();
    if !has_logits && reference.is_none() {
        let text = "the model gives no logits for token ids, so it has no perplexity";
        return Err(Diagnostic::error(qcc_diag::codes::QCC0404, text)
            .with_help("--ref FLOAT.onnx compares its outputs with those of another model")
            .into());
    }
    let has_reference = has_logits && reference.is_some();
    Ok(Evaluation {
        samples: samples.len(),
        tokens: perplexity.count(),
        perplexity: has_logits.then(|| perplexity.value()),
        reference_perplexity: has_reference.then(|| reference_perplexity.value()),
        kl_nats: has_reference.then(|| agreement.kl()),
        top1: has_reference.then(|| agreement.top1()),
        outputs: outputs.into_iter().map(|(name, it)| OutputDistance::new(name, &it)).collect(),
    })
}

/// The output that is logits: floats `[batch, length, vocabulary]` for ids of that length.
pub(crate) fn logits(outputs: &[(String, Tensor)], length: usize) -> Option<usize> {
    let is_logits = |it: &Tensor| {
        let dims = it.dims();
        dims.len() == 3
            && matches!(it.dtype(), DType::F32 | DType::F16 | DType::BF16)
            && dims.get(1) == Some(&length)
    };
    let named = outputs.iter().position(|it| it.0 == "logits" && is_logits(&it.1));
    named.or_else(|| {
        let is_hidden = |name: &str| name.contains("hidden");
        outputs.iter().position(|it| is_logits(&it.1) && !is_hidden(&it.0))
    })
}
