//! `tune-scales`: trains the scales of all weights for what the whole model gives.
//!
//! Replaces a `Quant` with numbers by one with the same codes and other scales. The loss is that of
//! [`whole`](crate::whole): KL to the logits of the float model, or the relative squared error of the
//! outputs of a model without logits. Every few steps the model is tried on samples that no step has
//! seen; the best that was tried is kept, the beginning among them. With `norms` the vectors that
//! norms multiply by are trained as well, and constants replaced.
//! Needs: a pass that chose numbers, and samples. Keeps: codes and zero points.
//! Source: the second phase of EfficientQAT (arXiv 2407.11062), which trains scales end to end.

mod adam;
mod norms;
mod pace;
pub mod probe;
mod scaled;

use std::time::Duration;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch};
use qcc_ops::quant::decoded;
use qcc_pass::{Ctx, Estimate, OptionInfo, OptionKind, PassError, PassInfo, Tap};
use qcc_tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::activations::{self, Origin};
use crate::choose::{self, Weight};
use crate::held::{self, Samples};
use crate::room::PROGRAM;
use crate::whole::{Target, Whole};

use norms::Norm;
use pace::{Times, Work};
use scaled::Scaled;

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "tune-scales",
    summary: "train the scales of all weights for what the whole model gives, codes as they are",
    options: &[
        OptionInfo {
            name: "iters",
            kind: OptionKind::Int { min: 0, max: 10_000 },
            default: "0",
            help: "steps; 0 leaves the scales as they are",
        },
        OptionInfo {
            name: "batch",
            kind: OptionKind::Int { min: 1, max: 1024 },
            default: "4",
            help: "samples of a step",
        },
        OptionInfo {
            name: "rate",
            kind: OptionKind::Float { min: 0.0, max: 1.0 },
            default: "auto",
            help: "how far the first step moves a scale, as a part of it; auto is 0.04 / 2^bits",
        },
        OptionInfo {
            name: "budget",
            kind: OptionKind::Float { min: 0.0, max: 1e9 },
            default: "auto",
            help: "seconds from the beginning of the run in which the steps are to be done, fewer where need be; auto is no limit",
        },
        OptionInfo {
            name: "norms",
            kind: OptionKind::Bool,
            default: "false",
            help: "train the weights of norms as well, which are then others than in the float model",
        },
    ],
    run,
};

/// Numbers that are trained.
trait Trained: Send + Sync {
    /// Which of the values of the whole model.
    fn index(&self) -> usize;

    /// How far the first step moves a number, as a part of it.
    fn rate(&self) -> f32;

    /// The value as the graph reads it.
    fn tensor(&self) -> Result<Tensor, PassError>;

    /// Adds the derivatives of one sample by the value, `f32` of its shape.
    fn add(&mut self, gradient: &Tensor) -> Result<(), PassError>;

    /// Moves by `rate` against the gradients that were added up, the `step`th time, from 1 on.
    /// Whether all of them were finite; nothing moves otherwise.
    fn step(&mut self, rate: f32, step: i32) -> bool;

    /// The numbers now are the best ones.
    fn keep(&mut self);
}

/// How often the model is tried on samples that no step has seen.
const TRIALS: u16 = 5;

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let steps = steps(ctx);
    let weights = choose::weights(graph);
    if steps == 0 || !weights.iter().any(Scaled::fits) {
        return Ok(Vec::new());
    }
    let Some((samples, origin)) = activations::source(ctx) else {
        let text = "the scales stay as they are: there are no samples of what the model reads";
        ctx.note(
            Diagnostic::warning(codes::QCC0402, text)
                .at(format!("pass '{}'", INFO.name))
                .with_help("--calib names samples"),
        );
        return Ok(Vec::new());
    };
    if origin == Origin::Pseudo {
        activations::note_pseudo(ctx, INFO.name, Some(samples.as_ref()));
    }
    let mut taps: Vec<Tap> = weights.iter().filter_map(|it| source(graph, it)).collect();
    if taps.len() < weights.len() {
        return Err(PassError::internal("a weight reads nothing"));
    }
    let trains_norms = ctx.options.flag("norms");
    let mut norms = if trains_norms { Norm::all(graph, taps.len())? } else { Vec::new() };
    taps.extend(norms.iter().map(Norm::tap));
    if trains_norms && norms.is_empty() {
        let text = "there are no norms to train: nothing is multiplied by a vector of weights";
        let note = Diagnostic::warning(codes::QCC0304, text).at(format!("pass '{}'", INFO.name));
        ctx.note(note.with_help("leave out --tune-norms"));
    }
    let session = ctx.session;
    let mut whole = Whole::new(graph, session, samples.as_ref(), &taps)?;
    for (idx, why) in whole.left() {
        let text = match weights.get(*idx) {
            Some(it) => format!("the scales of '{}' stay as they are: {why}", it.name),
            None => {
                let norm = norms.get(*idx - weights.len()).map_or("", |it| &it.name);
                format!("the norm '{norm}' stays as it is: {why}")
            }
        };
        ctx.note(Diagnostic::note(codes::QCC0606, text));
    }
    if !has_room(&whole, ctx, &weights)? {
        return Ok(Vec::new());
    }
    // All weights are as they were chosen, those whose scales stay too.
    let mut scaled = Vec::with_capacity(weights.len());
    for (idx, it) in weights.iter().enumerate() {
        match Scaled::new(idx, it).filter(|_| !whole.left().contains_key(&idx)) {
            Some(it) => scaled.push(it),
            None => fix(&mut whole, idx, it)?,
        }
    }
    let of_weights = scaled.iter_mut().map(|it| it as &mut dyn Trained);
    let of_norms = norms.iter_mut().map(|it| it as &mut dyn Trained);
    let mut trained: Vec<&mut dyn Trained> = of_weights.chain(of_norms).collect();
    let order = Samples::new(samples.len(), session.rng(INFO.name));
    let Some(steps) = steps_in_time(&mut whole, ctx, &trained, &order, steps)? else {
        return Ok(Vec::new());
    };
    held::note_few(ctx, INFO.name, samples.as_ref());
    train(&mut whole, ctx, &mut trained, order, steps)?;
    let mut patches = Vec::new();
    for it in &norms {
        patches.extend(it.finish(INFO.name)?);
    }
    ctx.count("tune-scales.norms", patches.len() as u64);
    for it in scaled {
        let weight = &weights[it.index()];
        let Some(found) = it.finish() else { continue };
        let (numbers, error) = choose::numbers(ctx, weight, &found)?;
        patches.push(choose::patch(graph, ctx, weight, numbers, error, INFO.name)?);
    }
    Ok(patches)
}

fn steps(ctx: &Ctx<'_>) -> u16 {
    u16::try_from(ctx.options.int("iters")).unwrap_or(u16::MAX)
}

fn batch(ctx: &Ctx<'_>) -> usize {
    usize::try_from(ctx.options.int("batch")).unwrap_or(1)
}

/// Whether the cap leaves room for the steps, as far as that can be told; says so, once, where it
/// does not, or where the machine may not have it.
fn has_room(whole: &Whole<'_>, ctx: &mut Ctx<'_>, weights: &[Weight]) -> Result<bool, PassError> {
    let Some(of_sample) = whole.memory(0)? else { return Ok(true) };
    let sizes = weights.iter().map(|it| it.tensor.len() as u64);
    // Codes, their scales now and before; gradients in the order of rows, one for each thread.
    let state = sizes.clone().sum::<u64>() * 3 / 2;
    let turned = sizes.max().unwrap_or(0) * 4 * rayon::current_num_threads() as u64;
    let bytes = PROGRAM + of_sample + state + turned;
    let help = "raise --max-mem, or take shorter samples with --seq-len";
    if let Some(cap) = ctx.session.max_mem.filter(|it| *it < bytes) {
        let text = format!(
            "the scales stay as they are: to train them takes {} MiB, and {} MiB may be used",
            bytes.div_ceil(1 << 20),
            cap >> 20
        );
        warn_once(ctx, Diagnostic::warning(codes::QCC0501, text).with_help(help));
        return Ok(false);
    }
    let free = ctx.session.free_mem.filter(|it| ctx.session.max_mem.is_none() && *it < bytes);
    if let Some(free) = free {
        let text = format!(
            "to train the scales takes {} MiB, and the machine has {} MiB to spare",
            bytes.div_ceil(1 << 20),
            free >> 20
        );
        let help = "with --max-mem they stay as they are; --seq-len takes shorter samples";
        warn_once(ctx, Diagnostic::warning(codes::QCC0501, text).with_help(help));
    }
    ctx.record.expect(Estimate { seconds: None, memory_bytes: bytes });
    Ok(true)
}

/// A warning of `tune-scales`, unless memory was told of before.
fn warn_once(ctx: &mut Ctx<'_>, warning: Diagnostic) {
    let warning = warning.at(format!("pass '{}'", INFO.name));
    let is_told = |it: &Diagnostic| it.code == warning.code && it.place == warning.place;
    if !ctx.record.notes.iter().any(is_told) {
        ctx.warn(warning);
    }
}

/// A weight whose scales stay is what its numbers stand for.
fn fix(whole: &mut Whole<'_>, index: usize, weight: &Weight) -> Result<(), PassError> {
    let Some(numbers) = &weight.quant.numbers else { return Ok(()) };
    let dims = weight.tensor.dims().into();
    let found = decoded(numbers, weight.quant.form.order, DType::F32, dims);
    whole.fix(index, found.map_err(|it| PassError::internal(it.to_string()))?);
    Ok(())
}

/// The constant that a weight is made of.
fn source(root: &Graph, weight: &Weight) -> Option<Tap> {
    let node = root.at(&weight.scope)?.node(weight.node)?;
    Some((weight.scope.clone(), node.inputs.first().copied().flatten()?))
}

/// The steps that there is time for; `None` where there is none, and says so.
fn steps_in_time(
    whole: &mut Whole<'_>,
    ctx: &mut Ctx<'_>,
    trained: &[&mut dyn Trained],
    order: &Samples,
    steps: u16,
) -> Result<Option<u16>, PassError> {
    let Some(seconds) = ctx.options.opt_float("budget") else { return Ok(Some(steps)) };
    let times = Times::measure(whole, trained)?;
    let work = Work::new(order, batch(ctx));
    let left = Duration::from_secs_f64(seconds).saturating_sub(ctx.session.began.elapsed());
    let chosen = times.steps_within(left, work, steps);
    ctx.record.steps.insert(INFO.name, chosen);
    if chosen == 0 {
        let text = "the scales stay as they are: no time is left to train them";
        let least = times.seconds(work, 1);
        ctx.note(
            Diagnostic::warning(codes::QCC0510, text)
                .at(format!("pass '{}'", INFO.name))
                .with_note(format!("one step takes about {least:.1} s, trials included"))
                .with_help("give more time with --budget, or leave it out"),
        );
        return Ok(None);
    }
    if chosen < steps {
        let text = format!("there is time for {chosen} of {steps} steps for the scales");
        ctx.note(
            Diagnostic::note(codes::QCC0610, text)
                .at(format!("pass '{}'", INFO.name))
                .with_help(format!("--tune-scales {chosen} gives the same again")),
        );
    }
    Ok(Some(chosen))
}

fn train(
    whole: &mut Whole<'_>,
    ctx: &mut Ctx<'_>,
    trained: &mut [&mut dyn Trained],
    mut order: Samples,
    steps: u16,
) -> Result<(), PassError> {
    let batch = batch(ctx);
    let rate = ctx.options.opt_float("rate").map(|it| it as f32);
    let start = loss(whole, trained, &order.tried)?;
    let (mut least, mut curve) = (start, vec![(0, 1.0)]);
    let mut made = steps;
    ctx.session.progress.start(INFO.name, steps.into());
    for step in 1..=steps {
        ctx.check_cancelled()?;
        let weights = tensors(trained)?;
        for sample in order.next(batch) {
            let pulled = whole.pull(sample, &weights, Target::Float)?;
            let mut found = pulled.gradients.into_iter().peekable();
            // Both are in the order of the weights.
            let pairs: Vec<(&mut &mut dyn Trained, Tensor)> = trained
                .iter_mut()
                .filter_map(|it| {
                    let index = it.index();
                    while found.next_if(|next| next.0 < index).is_some() {}
                    Some((it, found.next_if(|next| next.0 == index)?.1))
                })
                .collect();
            pairs.into_par_iter().try_for_each(|(it, gradient)| it.add(&gradient))?;
        }
        let part = f32::from(steps - step + 1) / f32::from(steps);
        let moved = trained.par_iter_mut().map(|it| {
            let rate = rate.unwrap_or_else(|| it.rate());
            it.step(rate * part, step.into())
        });
        if !moved.min().unwrap_or(true) {
            let text = "a gradient of the model is not finite: the best scales so far are kept";
            ctx.note(Diagnostic::warning(codes::QCC0606, text).at(format!("step {step}")));
            made = step - 1;
            break;
        }
        if step % steps.div_ceil(TRIALS) == 0 || step == steps {
            let loss = loss(whole, trained, &order.tried)?;
            curve.push((usize::from(step), if start > 0.0 { loss / start } else { 1.0 }));
            if loss < least {
                least = loss;
                trained.iter_mut().for_each(|it| it.keep());
            }
        }
        let ratio = if start > 0.0 { least / start } else { 1.0 };
        ctx.session.progress.step(1, &format!("loss {ratio:.3} of the start"));
    }
    ctx.session.progress.finish();
    let row = ctx.record.block(INFO.name);
    row.steps = made.into();
    row.objective = curve;
    Ok(())
}

fn tensors(trained: &[&mut dyn Trained]) -> Result<Vec<(usize, Tensor)>, PassError> {
    trained.par_iter().map(|it| Ok((it.index(), it.tensor()?))).collect()
}

/// The mean loss over some samples with the scales as they are now.
fn loss(
    whole: &mut Whole<'_>,
    trained: &[&mut dyn Trained],
    samples: &[usize],
) -> Result<f64, PassError> {
    let weights = tensors(trained)?;
    let (mut sum, mut tokens) = (0.0, 0.0);
    for sample in samples {
        let (loss, count) = whole.loss(*sample, &weights)?;
        sum += loss * count;
        tokens += count;
    }
    Ok(if tokens > 0.0 { sum / tokens } else { 0.0 })
}
