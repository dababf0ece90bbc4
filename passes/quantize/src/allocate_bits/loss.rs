//! What the model is expected to lose when a weight is rounded to so many bits.
//!
//! A change `dW` of a weight loses `dW F dW / 2`, with `F = E[g g^T]` the Fisher information of the
//! float model: `g` are the gradients towards draws from what it gives ([`crate::whole`]). Of the
//! products of changes only those within a row of the weight are taken,
//! `sum over rows of E[(g_row dW_row)^2] / 2`: the rest has a mean near 0 and much noise. `dW` is that
//! of searched scales, without data.
//!
//! On the bundled model this is within a factor of 1.13 of what is lost when one weight alone is
//! rounded, from 2 to 8 bits; squares of single gradients by those of changes, the diagonal of F, are
//! within 1.18, `sum |g dW|` of first order (arXiv 2512.04746) within 7.2, the error of the weight
//! within 3.

use qcc_diag::{Diagnostic, codes};
use qcc_ir::Value;
use qcc_ops::quant::Numbers;
use qcc_pass::{Ctx, PassError, SampleError, SampleSource, Tap};
use qcc_quant::error::measure_codes;
use qcc_quant::rows::{FloatKind, WeightRows};
use qcc_quant::search::{SearchKind, search};
use qcc_quant::spec::WeightSpec;
use qcc_tensor::Tensor;
use rayon::prelude::*;

use crate::activations;
use crate::choose::Weight;
use crate::whole::{Target, Whole};

/// Rows that are read at once; sums are added in their order.
const ROWS: usize = 64;

/// A weight as it may become.
struct Rounded {
    weight: usize,
    numbers: Numbers,
    /// `|dW|^2`, and by `|W|^2`.
    squared: f64,
    relative: f64,
    loss: f64,
}

/// The expected loss of each weight for each of `specs`, what it may become, in their order. A weight
/// with less than two is not looked at, and its losses are 0.
///
/// # Errors
/// When the run is cancelled, or there is no room for codes or for gradients.
pub(super) fn losses(
    root: &qcc_ir::Graph,
    ctx: &mut Ctx<'_>,
    pass: &'static str,
    weights: &[Weight],
    specs: &[Vec<WeightSpec>],
    samples: usize,
) -> Result<Vec<Vec<f64>>, PassError> {
    let open: Vec<usize> =
        (0..weights.len()).filter(|&it| specs.get(it).is_some_and(|it| it.len() > 1)).collect();
    let mut rounded: Vec<Rounded> = Vec::new();
    ctx.session.progress.start(pass, open.len() as u64);
    for &idx in &open {
        ctx.check_cancelled()?;
        for spec in &specs[idx] {
            rounded.push(round(ctx, idx, &weights[idx], spec)?);
        }
        ctx.session.progress.step(1, &weights[idx].name);
    }
    ctx.session.progress.finish();
    let has_gradient = match measure(root, ctx, pass, weights, &open, samples, &mut rounded) {
        Ok(it) => it,
        // Where there is no room, the result must not depend on that.
        Err(PassError::Diagnostic(error)) if error.code.family() != "05" => {
            let text = "bits are chosen by the errors of the weights alone";
            let mut note = Diagnostic::warning(codes::QCC0620, text).with_note(error.message);
            note.place = error.place;
            ctx.note(note);
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    without(&mut rounded, &has_gradient);
    let mut found: Vec<Vec<f64>> = specs.iter().map(|it| vec![0.0; it.len()]).collect();
    let mut next = rounded.iter();
    for idx in open {
        for (slot, it) in found[idx].iter_mut().zip(&mut next) {
            *slot = it.loss;
        }
    }
    Ok(found)
}

fn round(
    ctx: &Ctx<'_>,
    idx: usize,
    weight: &Weight,
    spec: &WeightSpec,
) -> Result<Rounded, PassError> {
    let rows = weight.rows()?;
    let codes = search(&rows, spec, SearchKind::Grid, None);
    let error = measure_codes(&rows, None, &codes).plain();
    let (relative, energy) = (error.relative().powi(2), energy(&rows));
    let numbers = Numbers::from_codes(&codes, &ctx.session.store).map_err(|error| {
        let text = format!("there is no room for the codes of '{}'", weight.name);
        Diagnostic::error(codes::QCC0502, text)
            .with_note(error.to_string())
            .with_help("set TMPDIR to a folder with more space")
    })?;
    Ok(Rounded { weight: idx, numbers, squared: relative * energy, relative, loss: 0.0 })
}

/// Runs `of` on chunks of rows, `(first row, their values)`, and adds what it gives in their order.
fn sum_rows(rows: &WeightRows<'_>, of: impl Fn(usize, &[f32]) -> f64 + Sync) -> f64 {
    let (n, k) = (rows.n(), rows.k());
    let parts: Vec<f64> = (0..n.div_ceil(ROWS))
        .into_par_iter()
        .map(|chunk| {
            let first = chunk * ROWS;
            let mut values = vec![0.0; (n - first).min(ROWS) * k];
            rows.read(first, &mut values);
            of(first, &values)
        })
        .collect();
    parts.iter().sum()
}

fn energy(rows: &WeightRows<'_>) -> f64 {
    sum_rows(rows, |_, values| values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
}

/// Adds up the losses; for each weight, whether it has gradients.
fn measure(
    root: &qcc_ir::Graph,
    ctx: &mut Ctx<'_>,
    pass: &'static str,
    weights: &[Weight],
    open: &[usize],
    samples: usize,
    rounded: &mut [Rounded],
) -> Result<Vec<bool>, PassError> {
    let Some((source, origin)) = activations::source(ctx) else {
        return Err(Diagnostic::error(codes::QCC0620, "there are no samples").into());
    };
    if origin == activations::Origin::Pseudo {
        activations::note_pseudo(ctx, pass, Some(source.as_ref()));
    }
    let session = ctx.session;
    let first = First { source: source.as_ref(), len: source.len().min(samples) };
    let taps: Vec<Tap> = open
        .iter()
        .map(|&idx| {
            let it = &weights[idx];
            let node = root.at(&it.scope).and_then(|graph| graph.node(it.node));
            let source = node.and_then(|it| it.inputs.first().copied().flatten());
            (it.scope.clone(), source.unwrap_or(Value { node: it.node, slot: 0 }))
        })
        .collect();
    let mut whole = Whole::new(root, session, &first, &taps)?;
    if let Some(bytes) = whole.memory(0)? {
        activations::must_fit("gradients of the model on a sample", bytes, session.max_mem)?;
    }
    let mut has_gradient = vec![false; weights.len()];
    for (at, &idx) in open.iter().enumerate() {
        match whole.left().get(&at) {
            None => has_gradient[idx] = true,
            Some(why) => by_error(ctx, &weights[idx], why),
        }
    }
    session.progress.start("gradients", first.len() as u64);
    whole.each(&[], Target::Drawn(0), &mut |found| {
        for (at, gradient) in &found.gradients {
            let Some(&idx) = open.get(*at) else { continue };
            let own = rounded.iter_mut().filter(|it| it.weight == idx);
            for it in own {
                it.loss += square(&weights[idx], gradient, &it.numbers)? / 2.0;
            }
        }
        session.progress.step(1, "");
        Ok(())
    })?;
    session.progress.finish();
    let count = first.len().max(1) as f64;
    for it in rounded.iter_mut() {
        it.loss /= count;
        // Gradients that overflow tell nothing.
        if !it.loss.is_finite() && std::mem::take(&mut has_gradient[it.weight]) {
            by_error(ctx, &weights[it.weight], "its gradients are not finite");
        }
    }
    // Where logits are so far apart that no draw differs, all are 0.
    let tells = |it: &Rounded| has_gradient[it.weight] && it.loss > 0.0;
    if !rounded.is_empty() && !rounded.iter().any(tells) {
        let text = "no weight has a gradient of what the model gives, or all are 0";
        return Err(Diagnostic::error(codes::QCC0620, text).into());
    }
    Ok(has_gradient)
}

/// Says that no gradient tells what the bits of a weight lose.
fn by_error(ctx: &mut Ctx<'_>, weight: &Weight, why: &str) {
    let text = format!("the bits of '{}' follow from its error", weight.name);
    ctx.note(Diagnostic::note(codes::QCC0620, text).with_note(why));
}

/// `sum over rows of (g_row dW_row)^2`.
fn square(weight: &Weight, gradient: &Tensor, numbers: &Numbers) -> Result<f64, PassError> {
    let rows = weight.rows()?;
    let wide = gradient.to_f32()?;
    let bytes = bytemuck::cast_slice(&wide);
    let (n, k) = (rows.n(), rows.k());
    let slopes = WeightRows::new(bytes, FloatKind::F32, n, k, rows.order())
        .map_err(|it| PassError::internal(it.to_string()))?;
    let view = numbers.view();
    Ok(sum_rows(&rows, |first, values| {
        let mut g = vec![0.0; values.len()];
        slopes.read(first, &mut g);
        let (mut codes, mut new) = (vec![0; k], vec![0.0; k]);
        let each = values.chunks_exact(k).zip(g.chunks_exact(k)).enumerate();
        each.map(|(row, (old, g))| {
            view.dequantize(first + row, &mut codes, &mut new);
            let pairs = new.iter().zip(old).zip(g);
            let sum: f64 = pairs.map(|((new, old), g)| f64::from(new - old) * f64::from(*g)).sum();
            sum * sum
        })
        .sum()
    }))
}

/// Weights without gradients get the loss that an error of theirs has in the others on average; where
/// none has gradients, that is the relative error of the weight.
fn without(rounded: &mut [Rounded], has_gradient: &[bool]) {
    let has = |it: &Rounded| has_gradient.get(it.weight).copied().unwrap_or(false);
    let with = || rounded.iter().filter(|it| has(it));
    let (loss, squared) = with().fold((0.0, 0.0), |sum, it| (sum.0 + it.loss, sum.1 + it.squared));
    let price = (squared > 0.0 && loss > 0.0).then(|| loss / squared);
    for it in rounded.iter_mut().filter(|it| !has(it)) {
        it.loss = price.map_or(it.relative, |price| price * it.squared);
    }
}

/// The first of some samples.
struct First<'a> {
    source: &'a dyn SampleSource,
    len: usize,
}

impl SampleSource for First<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, index: usize) -> Result<Vec<(String, Tensor)>, SampleError> {
        self.source.batch(index)
    }

    fn counted(&self, index: usize) -> Result<Option<Tensor>, SampleError> {
        self.source.counted(index)
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn is_text(&self) -> bool {
        self.source.is_text()
    }
}
