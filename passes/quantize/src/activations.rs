//! Statistics of the inputs of weights, from running the float model.
//!
//! Calibration samples are used when there are any, else pseudo samples. The float graph runs once
//! for each sample; what the products read is added up as it is computed and is never kept. Where
//! the sums of all weights would need too much memory, the samples run several times, each time for
//! as many weights as fit.

mod magnitudes;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use qcc_diag::{Diagnostic, codes};
use qcc_exec::{Bound, ExecError, Plan, PlanOptions};
use qcc_ir::{Graph, Patch, Scope, Value};
use qcc_pass::{Ctx, PassError, SampleSource, StandIn, WorkingCopy};
use qcc_quant::gram::Gram;
use qcc_tensor::Tensor;

use crate::choose::Weight;
use crate::finite;
use crate::room::PROGRAM;
use crate::sites::{Place, Role, find_sites};

pub(crate) use magnitudes::Seen;

/// Sums over the tokens of an input.
pub(crate) trait Sums {
    /// Sums of no tokens, for rows of `k` inputs.
    fn new(k: usize) -> Self;
    /// Adds tokens, `f32[M, K]`.
    fn add(&mut self, x: &[f32]) -> Result<(), PassError>;
    /// Bytes of one sum.
    fn size_bytes(k: usize) -> u64;
    /// Bytes that it takes at the most to choose the numbers of a weight from its sum, beside that.
    fn solving_bytes(_k: usize) -> u64 {
        0
    }
}

impl Sums for Gram {
    fn new(k: usize) -> Self {
        Self::new(k)
    }

    fn add(&mut self, x: &[f32]) -> Result<(), PassError> {
        self.add(x).map_err(|it| PassError::internal(it.to_string()))
    }

    fn size_bytes(k: usize) -> u64 {
        8 * (k * k) as u64
    }

    /// The damped moments twice, their factor in f64 and twice what is divided by its diagonal.
    fn solving_bytes(k: usize) -> u64 {
        18 * (k * k) as u64
    }
}

/// Sums of squares of each input.
#[derive(Clone, Debug)]
pub(crate) struct Squares {
    tokens: u64,
    sum: Vec<f64>,
}

impl Squares {
    /// Mean square of each input, `[K]`; `None` without tokens, or when one is not finite.
    pub(crate) fn mean(&self) -> Option<Vec<f32>> {
        if self.tokens == 0 {
            return None;
        }
        let mean: Vec<f32> = self.sum.iter().map(|it| (it / self.tokens as f64) as f32).collect();
        mean.iter().all(|it| it.is_finite()).then_some(mean)
    }

    /// Inputs whose mean square is not finite.
    pub(crate) fn non_finite(&self) -> usize {
        let tokens = self.tokens.max(1) as f64;
        self.sum.iter().filter(|it| !((*it / tokens) as f32).is_finite()).count()
    }
}

impl Sums for Squares {
    fn new(k: usize) -> Self {
        Self { tokens: 0, sum: vec![0.0; k] }
    }

    fn add(&mut self, x: &[f32]) -> Result<(), PassError> {
        for row in x.chunks_exact(self.sum.len().max(1)) {
            for (sum, &x) in self.sum.iter_mut().zip(row) {
                *sum += f64::from(x) * f64::from(x);
            }
            self.tokens += 1;
        }
        Ok(())
    }

    fn size_bytes(k: usize) -> u64 {
        8 * k as u64
    }
}

/// Adds what a product reads, without the tokens that do not count: `counted` is 0 for those, and
/// has no meaning where it is not as long as there are rows.
pub(crate) fn add<S: Sums>(
    sum: &mut S,
    tensor: &Tensor,
    counted: Option<&[f32]>,
) -> Result<(), PassError> {
    let x = tensor.to_f32()?;
    let k = tensor.dims().last().copied().unwrap_or(1).max(1);
    match counted.filter(|it| it.len() == x.len() / k) {
        None => sum.add(&x),
        Some(counted) => {
            let rows = x.chunks_exact(k).zip(counted).filter(|it| *it.1 != 0.0);
            sum.add(&rows.flat_map(|it| it.0).copied().collect::<Vec<f32>>())
        }
    }
}

/// Where activations come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Calibration samples.
    Measured,
    /// Pseudo samples, text that the model wrote among them.
    Pseudo,
}

/// The samples that a pass uses: those of the user, else text of the model, else pseudo samples;
/// `None` when there are none.
pub(crate) fn source(ctx: &Ctx<'_>) -> Option<(Arc<dyn SampleSource>, Origin)> {
    let session = ctx.session;
    match (&session.samples, &session.own_text) {
        (None, Some(text)) => Some((text.clone(), Origin::Pseudo)),
        _ => quick_source(ctx),
    }
}

/// As [`source`], without text that takes longer to write than the pass takes: it gains little from
/// it.
pub(crate) fn quick_source(ctx: &Ctx<'_>) -> Option<(Arc<dyn SampleSource>, Origin)> {
    let session = ctx.session;
    let pseudo = || session.pseudo_samples.clone().map(|it| (it, Origin::Pseudo));
    session.samples.clone().map(|it| (it, Origin::Measured)).or_else(pseudo)
}

/// Sums that are alive at one time take at most this, unless the session caps memory lower.
const MAX_SUMS_BYTES: u64 = 4 << 30;

/// Whether `what` takes no more than the cap, in bytes beside the program.
///
/// # Errors
/// QCC0501 with what it takes.
pub(crate) fn must_fit(what: &str, bytes: u64, cap: Option<u64>) -> Result<(), PassError> {
    let needed = PROGRAM + bytes;
    let Some(cap) = cap.filter(|it| *it < needed) else { return Ok(()) };
    let (needed, cap) = (needed.div_ceil(1 << 20), cap >> 20);
    let text = format!("{what} needs {needed} MiB, and may use {cap} MiB");
    Err(Diagnostic::error(codes::QCC0501, text)
        .at("option --max-mem")
        .with_help(format!("raise it to {needed}MiB, or take shorter samples with --seq-len"))
        .into())
}

/// Runs the samples and hands each weight the sums of its inputs, as soon as they are whole, with
/// the range of weights that are at a time; `None` for weights that multiply nothing, such as
/// tables. How large inputs are goes into the record.
pub(crate) fn for_each<S: Sums>(
    root: &Graph,
    ctx: &mut Ctx<'_>,
    weights: &[Weight],
    samples: &dyn SampleSource,
    mut then: impl FnMut(usize, &Range<usize>, Option<&S>, &mut Ctx<'_>) -> Result<(), PassError>,
) -> Result<(), PassError> {
    let inputs = inputs_of(root, weights);
    let taps: BTreeSet<Place> = inputs.iter().flatten().cloned().collect();
    let taps: Vec<Place> = taps.into_iter().collect();
    let mut copy = WorkingCopy::of(&in_float(root)?, &taps, ctx.session)?;
    copy.notes.drain(..).for_each(|it| ctx.note(it));
    let cap = ctx.session.max_mem.map_or(MAX_SUMS_BYTES, |it| (it / 2).min(MAX_SUMS_BYTES));
    let mut first = 0;
    while first < weights.len() {
        // Weights with the same inputs share one sum.
        let mut sums: BTreeMap<&[Place], Seen<S>> = BTreeMap::new();
        let (mut size, mut solving) = (0, 0);
        let mut last = first;
        while let Some(weight) = weights.get(last) {
            let places = inputs[last].as_slice();
            let k = weight.quant.form.k;
            if !places.is_empty() && !sums.contains_key(places) {
                size += Seen::<S>::size_bytes(k);
                if size > cap && last > first {
                    break;
                }
                solving = solving.max(Seen::<S>::solving_bytes(k));
                sums.insert(places, Seen::new(k));
            }
            last += 1;
        }
        if !sums.is_empty() {
            run(&copy, ctx, samples, &mut sums, size + solving)?;
        }
        for (idx, places) in inputs.iter().enumerate().take(last).skip(first) {
            let found = sums.get(places.as_slice());
            if let Some(it) = found {
                ctx.record.weight(&weights[idx].name).activations = it.magnitudes.record();
            }
            then(idx, &(first..last), found.map(|it| &it.sums), ctx)?;
        }
        first = last;
    }
    Ok(())
}

/// For each weight, the values that its products read.
fn inputs_of(root: &Graph, weights: &[Weight]) -> Vec<Vec<Place>> {
    let index: BTreeMap<Place, usize> = weights
        .iter()
        .enumerate()
        .map(|(idx, it)| ((it.scope.clone(), Value { node: it.node, slot: 0 }), idx))
        .collect();
    let mut inputs: Vec<BTreeSet<Place>> = vec![BTreeSet::new(); weights.len()];
    for site in find_sites(root) {
        let source = (site.weight.scope.clone(), site.weight.source);
        let (Some(&idx), true) = (index.get(&source), site.role != Role::Table) else { continue };
        let node = root.at(&site.scope).and_then(|it| it.node(site.node));
        if let Some(left) = node.and_then(|it| it.inputs.first().copied().flatten()) {
            inputs[idx].insert((site.scope.clone(), left));
        }
    }
    inputs.into_iter().map(|it| it.into_iter().collect()).collect()
}

/// The graph with every chosen weight in float again.
pub(crate) fn in_float(root: &Graph) -> Result<Graph, PassError> {
    let mut graph = root.clone();
    let mut patches = Vec::new();
    for weight in crate::choose::weights(root) {
        let inner = root.at(&weight.scope).and_then(|it| it.node(weight.node));
        let source = inner.and_then(|it| it.inputs.first().copied().flatten());
        if let Some(source) = source {
            let mut patch = Patch::within("float", weight.scope.clone());
            patch.replace(Value { node: weight.node, slot: 0 }, source);
            patches.push(patch);
        }
    }
    graph.apply(patches)?;
    Ok(graph)
}

/// Runs the samples; sums, and what is made of them, have `held` bytes.
fn run<S: Sums>(
    copy: &WorkingCopy,
    ctx: &Ctx<'_>,
    samples: &dyn SampleSource,
    sums: &mut BTreeMap<&[Place], S>,
    held: u64,
) -> Result<(), PassError> {
    // What each value of the copy stands for in the graph; several values may have become one.
    let stands_for = copy.by_value();
    let moved = |it: &Place| {
        let lost = || PassError::internal("an input of a product is not in the working copy");
        copy.tap(it).cloned().ok_or_else(lost)
    };
    let taps = sums.keys().flat_map(|it| it.iter()).map(moved);
    let taps = taps.collect::<Result<BTreeSet<Place>, PassError>>()?;
    // A value inside a branch is seen when the node that holds the branch runs.
    let tapped = taps
        .iter()
        .map(|(scope, value)| match scope.0.first() {
            None => *value,
            Some(step) => Value { node: step.node, slot: 0 },
        })
        .collect::<BTreeSet<Value>>();
    let taps: Vec<(Scope, Value)> = taps.into_iter().collect();
    let options = PlanOptions {
        outputs: Some(Vec::new()),
        tapped: tapped.into_iter().collect(),
        pool: ctx.session.pool.clone(),
        profile: false,
    };
    ctx.session.progress.start("activations", samples.len() as u64);
    let mut plan: Option<(Vec<(String, Bound)>, Plan)> = None;
    for idx in 0..samples.len() {
        ctx.check_cancelled()?;
        let feed: BTreeMap<String, Tensor> = samples.batch(idx)?.into_iter().collect();
        let bound: Vec<(String, Bound)> =
            feed.iter().map(|(name, it)| (name.clone(), Bound::like(it))).collect();
        let plan = match &mut plan {
            Some((shapes, plan)) if *shapes == bound => &*plan,
            plan => {
                let new = Plan::new(&copy.graph, &bound, &options).map_err(error)?;
                let bytes = new.peak_bytes() as u64 + held;
                let what = "running the model on a sample, with sums of what weights read,";
                must_fit(what, bytes, ctx.session.max_mem)?;
                &plan.insert((bound, new)).1
            }
        };
        let counted =
            samples.counted(idx)?.map(|it| it.to_f32().map(Cow::into_owned)).transpose()?;
        let (mut failed, mut bad) = (None, None);
        let mut sink = |scope: &Scope, value: Value, tensor: &Tensor| {
            match finite::is_finite(tensor, counted.as_deref()) {
                Ok(true) => {}
                Ok(false) => _ = bad.get_or_insert_with(|| (scope.clone(), value)),
                Err(error) => _ = failed.get_or_insert(error),
            }
            let originals = stands_for.get(&(scope.clone(), value)).into_iter().flatten();
            for place in originals {
                for (_, sum) in sums.iter_mut().filter(|it| it.0.contains(place)) {
                    let added = add(sum, tensor, counted.as_deref());
                    if let Err(error) = added {
                        failed.get_or_insert(error);
                    }
                }
            }
        };
        plan.run_scoped(&feed, &taps, &mut sink).map_err(error)?;
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some((scope, value)) = bad {
            let step = scope.0.first();
            let value = step.map_or(value, |it| Value { node: it.node, slot: 0 });
            return Err(finite::error(&copy.graph, &feed, value, idx));
        }
        ctx.session.progress.step(1, "");
    }
    ctx.session.progress.finish();
    Ok(())
}

pub(crate) fn error(error: ExecError) -> PassError {
    Diagnostic::from(error)
        .with_help("-O rtn, and -O 'kl{weights=none}', do not run the model")
        .into()
}

/// Says, once for a pass, that pseudo samples stand in for calibration.
pub(crate) fn note_pseudo(
    ctx: &mut Ctx<'_>,
    pass: &'static str,
    samples: Option<&dyn SampleSource>,
) {
    ctx.record.stand_in = Some(match samples {
        Some(it) => StandIn::Samples(it.describe()),
        None => StandIn::Weights(pass),
    });
    let text = match samples {
        Some(it) => format!("{pass} has no calibration samples and uses {}", it.describe()),
        None => format!("{pass} has no samples and uses the weights alone"),
    };
    let help = match samples {
        Some(it) if it.is_text() => "--calib FILE gives samples",
        _ => "--calib FILE gives samples: gptq and signround lose less with them",
    };
    let note = Diagnostic::note(codes::QCC0605, text).with_help(help);
    // Blocks and what is left of them are one pass.
    if !ctx.record.notes.contains(&note) {
        ctx.note(note);
    }
}

/// Pseudo samples are a help, not what the user asked for: when the model cannot be run on them, the
/// pass goes on with the weights alone and says so.
///
/// # Errors
/// The error itself when the samples are the user's, the run was stopped, or there is no room: the
/// result must not depend on that.
pub(crate) fn do_without(
    ctx: &mut Ctx<'_>,
    pass: &'static str,
    origin: Origin,
    error: PassError,
) -> Result<(), PassError> {
    match error {
        PassError::Diagnostic(error) if origin == Origin::Pseudo && error.code.family() != "05" => {
            ctx.record.stand_in = Some(StandIn::Weights(pass));
            let text = format!("{pass} cannot run the model and uses the weights alone");
            let mut warning = Diagnostic::warning(codes::QCC0605, text).with_note(error.message);
            warning.place = error.place;
            ctx.note(warning.with_help("--calib FILE gives samples that the model takes"));
            Ok(())
        }
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_do_not_count_are_left_out() {
        let x = Tensor::from_vec(vec![1, 3, 2], vec![1.0f32, 2.0, 30.0, 40.0, 5.0, 6.0]).unwrap();
        let mean = |counted: Option<&[f32]>| {
            let mut sum = Squares::new(2);
            add(&mut sum, &x, counted).unwrap();
            sum.mean().unwrap()
        };
        assert_eq!(mean(Some(&[1.0, 0.0, 1.0])), [13.0, 20.0]);
        assert_eq!(mean(Some(&[0.0])), mean(None));
    }
}
