//! `signround`: tunes rounding and scales.
//!
//! Replaces a `Quant` by one with numbers. With `objective=block`, the default where there are samples
//! or text of the model, all weights of a block are tuned together, by signs of gradients, for the error of what the block
//! gives: `blockwise`. With `objective=layer`, and for weights of blocks that cannot be differentiated, the objective is
//! `E H E^T` of one weight, with H the second moments of its inputs; each row keeps the best of its
//! candidates, so the result is never worse than searched scales.
//! Needs: `select`, and samples or pseudo samples. Keeps: the float weight beside its numbers.
//! Source: arXiv 2309.05516; for a single weight its objective and descent in Gram form. The
//! candidates that are on by default there measured better: see `qcc_quant::signround`.

use std::collections::BTreeMap;
use std::time::Duration;

use qcc_diag::{Diagnostic, codes};
use qcc_ir::{Graph, Patch};
use qcc_pass::{Ctx, OptionInfo, OptionKind, Options, PassError, PassInfo, SampleSource};
use qcc_quant::signround::{Moves, SignRoundOptions, signround_gram};
use qcc_quant::tuner::Scales;

use crate::activations::{self, Origin};
use crate::blockwise::{Inputs, Select, Start, Steps};
use crate::choose::{self, Weight};
use crate::{blockwise, by_gram};

/// The pass.
pub const INFO: PassInfo = PassInfo {
    name: "signround",
    summary: "tune rounding and scales for the error of the outputs of each block, or weight",
    options: &[
        OptionInfo {
            name: "objective",
            kind: OptionKind::Choice(&["auto", "layer", "block"]),
            default: "auto",
            help: "what is tuned together: one weight, or all of a block; auto is block with samples or text of the model",
        },
        OptionInfo {
            name: "preset",
            kind: OptionKind::Choice(&["fast", "light", "std", "best"]),
            default: "light",
            help: "how long: steps of each block times samples of a step are 20 x 1, 100 x 2, 200 x 4, 400 x 8",
        },
        OptionInfo {
            name: "iters",
            kind: OptionKind::Int { min: 0, max: 10_000 },
            default: "auto",
            help: "steps of sign descent: auto is that of the preset for a block, and for a layer 0, which leaves it out",
        },
        OptionInfo {
            name: "lr",
            kind: OptionKind::Float { min: 1e-6, max: 1.0 },
            default: "auto",
            help: "rate of the first step: an offset moves by so much of a code at most; it falls to 0; auto is 1 / iters",
        },
        OptionInfo {
            name: "budget",
            kind: OptionKind::Float { min: 0.0, max: 1e9 },
            default: "auto",
            help: "seconds in which all blocks are to be done, in place of iters; auto is no limit",
        },
        OptionInfo {
            name: "batch",
            kind: OptionKind::Int { min: 1, max: 1024 },
            default: "auto",
            help: "samples of a step of a block: auto is that of the preset",
        },
        OptionInfo {
            name: "inputs",
            kind: OptionKind::Choice(&["quantized", "float"]),
            default: "quantized",
            help: "what a block reads while it is tuned: the blocks before it as chosen, or in float",
        },
        OptionInfo {
            name: "scales",
            kind: OptionKind::Choice(&["factor", "ends", "frozen"]),
            default: "factor",
            help: "what of the scales is tuned: a factor of the searched one, both ends of the range, or nothing",
        },
        OptionInfo {
            name: "start",
            kind: OptionKind::Choice(&["searched", "given"]),
            default: "searched",
            help: "what the weights of a block start from: searched scales, or the numbers of a pass before",
        },
        OptionInfo {
            name: "select",
            kind: OptionKind::Choice(&["held", "last"]),
            default: "held",
            help: "which step of a block is kept: the one with the least error on samples that are held out, or the last",
        },
        OptionInfo {
            name: "moves",
            kind: OptionKind::Choice(&["pairs", "single"]),
            default: "pairs",
            help: "what the line searches change: one code, or also two at a time",
        },
        OptionInfo {
            name: "sweeps",
            kind: OptionKind::Int { min: 0, max: 1000 },
            default: "10",
            help: "line searches over all codes and scales, at most",
        },
        OptionInfo {
            name: "damp",
            kind: OptionKind::Float { min: 0.0, max: 1.0 },
            default: "auto",
            help: "part of the mean of diag(H) added to it; auto is 0.01, more for few tokens",
        },
    ],
    run,
};

fn run(graph: &Graph, ctx: &mut Ctx<'_>) -> Result<Vec<Patch>, PassError> {
    let weights = choose::weights(graph);
    start_fits(start(ctx), &weights)?;
    steps_fit(ctx)?;
    note_unread(ctx, &weights);
    let source = activations::source(ctx);
    let by_block = source.as_ref().is_some_and(|it| is_by_block(ctx, it.0.as_ref()));
    if !by_block {
        note_idle(ctx);
    }
    let (mut patches, weights) = match source {
        Some((samples, origin)) if by_block => {
            if origin == Origin::Pseudo {
                activations::note_pseudo(ctx, INFO.name, Some(samples.as_ref()));
            }
            let options = block_options(ctx);
            let tuned = blockwise::tune(graph, ctx, INFO.name, &weights, samples.as_ref(), options);
            match tuned {
                Ok(outcome) => (outcome.patches, left(ctx, weights, &outcome.left)),
                // A part of the model that does not run alone is no fault of the user's; if the
                // whole does not run, the samples of single weights will say so. Where there is no
                // room, the result must not depend on that.
                Err(PassError::Diagnostic(error)) if !stops(&error, origin) => {
                    let text =
                        "the model does not run block by block: each weight is tuned by itself";
                    let mut why =
                        Diagnostic::warning(codes::QCC0606, text).with_note(error.message);
                    why.place = error.place;
                    ctx.note(why);
                    (Vec::new(), weights)
                }
                Err(error) => return Err(error),
            }
        }
        _ => (Vec::new(), weights),
    };
    if weights.is_empty() {
        return Ok(patches);
    }
    let options = SignRoundOptions {
        // Steps that are asked for are those of blocks, where there are any.
        steps: iters(ctx).filter(|_| !by_block).unwrap_or(0),
        rate: rate(ctx),
        moves: if ctx.options.text("moves") == "single" { Moves::Single } else { Moves::Pairs },
        sweeps: usize::try_from(ctx.options.int("sweeps")).unwrap_or(0),
        damp: ctx.options.opt_float("damp"),
        scales: scales(ctx),
    };
    patches.extend(by_gram::for_each(graph, ctx, INFO.name, &weights, |weight, rows, gram| {
        signround_gram(rows, &weight.quant.spec, gram, &options)
    })?);
    Ok(patches)
}

/// Whether weights can start as asked. Outliers are no start: tuned codes have one scale for each
/// group.
fn start_fits(start: Start, weights: &[Weight]) -> Result<(), PassError> {
    if start == Start::Searched || weights.is_empty() {
        return Ok(());
    }
    let (text, help) = match weights.iter().find(|it| it.has_outliers()) {
        Some(weight) => (
            format!(
                "signround{{start=given}} cannot start from '{}': its outliers have scales of \
                 their own",
                weight.name
            ),
            "adpq{outliers=0} gives one scale for each group; start=searched takes none",
        ),
        None if weights.iter().all(|it| it.codes().is_none()) => (
            "signround{start=given} has nothing to start from: no pass before it has chosen numbers"
                .to_owned(),
            "put rtn, kl-precalibrate or gptq before it with --passes, or leave it out",
        ),
        None => return Ok(()),
    };
    let error = Diagnostic::error(codes::QCC0302, text).at("option start");
    Err(error.with_help(help).into())
}

/// Whether steps are given once.
fn steps_fit(ctx: &Ctx<'_>) -> Result<(), PassError> {
    if iters(ctx).is_none() || ctx.options.opt_float("budget").is_none() {
        return Ok(());
    }
    let text = "iters does nothing beside budget, which finds the steps";
    let error = Diagnostic::error(codes::QCC0304, text).at("option iters");
    Err(error.with_help("leave out one of the two").into())
}

/// Says which of the options that were given do nothing where each weight is tuned by itself.
fn note_idle(ctx: &mut Ctx<'_>) {
    const OF_BLOCKS: [&str; 6] = ["preset", "budget", "batch", "inputs", "start", "select"];
    let defaults = Options::of(&INFO);
    let given = ctx.options.iter().zip(defaults.iter()).filter(|(own, default)| own != default);
    let idle: Vec<&str> = given.map(|it| it.0.0).filter(|it| OF_BLOCKS.contains(it)).collect();
    if !idle.is_empty() {
        let text = format!("nothing reads {}: each weight is tuned by itself", idle.join(", "));
        let warning = Diagnostic::warning(codes::QCC0304, text);
        let help = "objective=block, the default with samples or text of the model, does";
        ctx.warn(warning.at(format!("pass '{}'", INFO.name)).with_help(help));
    }
}

/// Says that what a pass before has chosen is not read.
fn note_unread(ctx: &mut Ctx<'_>, weights: &[Weight]) {
    let chosen = weights.iter().find(|it| it.quant.numbers.is_some());
    let Some(weight) = chosen.filter(|_| start(ctx) == Start::Searched) else { return };
    let text = format!("what {} has chosen is not read: weights start anew", weight.quant.by);
    let warning = Diagnostic::warning(codes::QCC0304, text).at(format!("pass '{}'", INFO.name));
    ctx.warn(warning.with_help("signround{start=given} begins with it; or leave that pass out"));
}

/// Whether an error of blocks ends the run: room that is too small, and samples of the user on
/// which the float model overflows.
fn stops(error: &Diagnostic, origin: Origin) -> bool {
    let is_overflow = error.code == codes::QCC0408;
    error.code.family() == "05" || is_overflow && origin == Origin::Measured
}

/// Whether blocks are tuned, not weights. Random tokens tell too little of what a block does: with
/// them it measured worse at 4 bits.
pub(crate) fn is_by_block(ctx: &Ctx<'_>, samples: &dyn SampleSource) -> bool {
    match ctx.options.text("objective") {
        "block" => true,
        "layer" => false,
        _ => samples.is_text(),
    }
}

fn iters(ctx: &Ctx<'_>) -> Option<u16> {
    ctx.options.opt_int("iters").map(|it| u16::try_from(it).unwrap_or(u16::MAX))
}

fn rate(ctx: &Ctx<'_>) -> Option<f32> {
    ctx.options.opt_float("lr").map(|it| it as f32)
}

/// How blocks are tuned, by the options.
pub(crate) fn block_options(ctx: &Ctx<'_>) -> blockwise::Options {
    let steps = match ctx.options.opt_float("budget") {
        Some(seconds) => Steps::Within(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))),
        None => Steps::Count(iters(ctx).unwrap_or(preset(ctx).0)),
    };
    let batch = ctx.options.opt_int("batch").and_then(|it| usize::try_from(it).ok());
    let batch = batch.unwrap_or(preset(ctx).1);
    let (inputs, scales, start, select) = (inputs(ctx), scales(ctx), start(ctx), select(ctx));
    let rate = rate(ctx);
    blockwise::Options { steps, rate, batch, inputs, scales, start, select }
}

fn select(ctx: &Ctx<'_>) -> Select {
    if ctx.options.text("select") == "last" { Select::Last } else { Select::Held }
}

fn inputs(ctx: &Ctx<'_>) -> Inputs {
    if ctx.options.text("inputs") == "float" { Inputs::Float } else { Inputs::Quantized }
}

fn start(ctx: &Ctx<'_>) -> Start {
    if ctx.options.text("start") == "given" { Start::Given } else { Start::Searched }
}

fn scales(ctx: &Ctx<'_>) -> Scales {
    match ctx.options.text("scales") {
        "ends" => Scales::Ends,
        "frozen" => Scales::Frozen,
        _ => Scales::Tuned,
    }
}

/// Steps of a block and samples of a step where nobody says otherwise. Many steps of few samples
/// measured better than few of many, for the same number of gradients.
fn preset(ctx: &Ctx<'_>) -> (u16, usize) {
    match ctx.options.text("preset") {
        "fast" => (20, 1),
        "std" => (200, 4),
        "best" => (400, 8),
        _ => (100, 2),
    }
}

/// The weights that were not tuned in a block; says so.
fn left(ctx: &mut Ctx<'_>, weights: Vec<Weight>, why: &BTreeMap<usize, String>) -> Vec<Weight> {
    let mut left = Vec::new();
    for (idx, weight) in weights.into_iter().enumerate() {
        let Some(why) = why.get(&idx) else { continue };
        let text = format!("'{}' was tuned by itself: {why}", weight.name);
        ctx.note(
            Diagnostic::note(codes::QCC0606, text)
                .with_help("qcc inspect --blocks shows the blocks"),
        );
        left.push(weight);
    }
    left
}
