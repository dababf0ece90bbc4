//! Options of the passes that tune, and of others that only some pipelines have.

use qcc::{Compiler, Error, PRESETS};
use qcc_diag::{Diagnostic, codes};
use qcc_pass::{Pipeline, Step};

use super::super::command::QuantizeArgs;
use super::super::words::ScaleType;

/// Steps for the scales of the whole model where only norms are asked for.
const NORM_STEPS: u16 = 50;

/// The part of `--budget` that is for blocks where scales of the whole model are trained as well.
const FOR_BLOCKS: f64 = 0.75;

/// Gives the compiler what was asked for.
///
/// # Errors
/// When a pass does not take a value.
pub(super) fn add(mut compiler: Compiler, args: &QuantizeArgs) -> Result<Compiler, Error> {
    if let Some(preset) = &args.preset {
        compiler = compiler.preset(preset)?;
    }
    let set = |compiler: Compiler, name: &str, value: Option<String>| match value {
        Some(value) => compiler.setting("signround", name, &value),
        None => Ok(compiler),
    };
    compiler = set(compiler, "iters", args.iters.map(|it| it.to_string()))?;
    compiler = set(compiler, "lr", args.lr.map(|it| it.to_string()))?;
    compiler = set(compiler, "batch", args.batch_size.map(|it| it.to_string()))?;
    if args.tune_norms {
        compiler = compiler.setting("tune-scales", "norms", "true")?;
    }
    let needs_steps = args.tune_norms && !trains_scales(args);
    let steps = args.tune_scales.or(needs_steps.then_some(NORM_STEPS));
    if let Some(steps) = steps {
        compiler = compiler.setting("tune-scales", "iters", &steps.to_string())?;
    }
    if let Some(time) = args.budget {
        // What blocks do not need is for the scales of the whole model as well.
        let trains = steps.map_or_else(|| trains_scales(args), |it| it > 0);
        let part = if trains { FOR_BLOCKS } else { 1.0 };
        let seconds = time.as_secs_f64();
        compiler = compiler
            .setting("signround", "budget", &(seconds * part).to_string())?
            .setting("tune-scales", "budget", &seconds.to_string())?;
    }
    Ok(compiler)
}

/// Whether the preset, or the level of the recipe, trains the scales of the whole model already.
fn trains_scales(args: &QuantizeArgs) -> bool {
    let is_best =
        args.recipe.as_deref().is_some_and(|it| it.starts_with('3') && !it.contains("preset"));
    match args.preset.as_deref() {
        Some(name) => PRESETS.iter().any(|it| it.name == name && it.scale_steps > 0),
        None => is_best,
    }
}

/// Whether a pass runs the model on samples.
fn reads_samples(step: &Step) -> bool {
    match step.pass.name {
        "kl-precalibrate" => step.options.text("weights") != "none",
        "gptq" | "signround" | "tune-scales" | "allocate-bits" => true,
        _ => false,
    }
}

/// Whether the options of samples do something.
fn check_samples(args: &QuantizeArgs, are_read: bool) -> Result<(), Error> {
    let sizes = [("--samples", args.samples.is_some()), ("--seq-len", args.seq_len.is_some())];
    let given = [("--calib", args.calib.is_some())].into_iter().chain(sizes).find(|it| it.1);
    let Some((option, _)) = given else { return Ok(()) };
    let (why, help) = if !are_read {
        let help = "-O kl, gptq and signround read them; so do --bpw and --target-size";
        (": no pass reads samples", help)
    } else if args.calib.is_none() {
        (" without --calib", "--calib FILE gives samples; with --calib self the model writes them")
    } else {
        return Ok(());
    };
    Err(Diagnostic::error(codes::QCC0304, format!("{option} does nothing{why}"))
        .at(format!("option {option}"))
        .with_help(help)
        .into())
}

/// Whether the pipeline has a pass for each option that was given: what does nothing is not taken
/// in silence.
///
/// # Errors
/// QCC0304 with the option and the recipe or format that takes it.
pub(super) fn check(args: &QuantizeArgs, pipeline: &Pipeline) -> Result<(), Error> {
    let given = [
        ("--preset", "signround", args.preset.is_some()),
        ("--budget", "signround", args.budget.is_some()),
        ("--iters", "signround", args.iters.is_some()),
        ("--lr", "signround", args.lr.is_some()),
        ("--batch-size", "signround", args.batch_size.is_some()),
        ("--work-dir", "signround", args.work_dir.is_some()),
        ("--tune-scales", "tune-scales", args.tune_scales.is_some()),
        ("--tune-norms", "tune-scales", args.tune_norms),
        ("--accuracy-level", "to-nbits", args.accuracy_level.is_some()),
        ("--group-size", "select", args.group_size.is_some()),
        ("--sym", "select", args.sym),
        ("--asym", "select", args.asym),
        ("--scale-type", "select", args.scale_type != ScaleType::Auto),
        ("--embeddings", "select", args.embeddings.is_some()),
        ("--lm-head", "select", args.lm_head.is_some()),
        ("--include", "select", !args.include.is_empty()),
        ("--exclude", "select", !args.exclude.is_empty()),
        ("--set", "select", !args.set.is_empty()),
    ];
    let has = |pass: &str| pipeline.steps().iter().any(|it| it.pass.name == pass);
    if let Some((option, pass, _)) = given.iter().find(|it| it.2 && !has(it.1)) {
        let (why, help) = match *pass {
            "to-nbits" => ("the format has no such attribute", "--format nbits takes it"),
            "select" => ("the recipe chooses no weights", "all recipes but none take it"),
            _ => ("the recipe does not tune", "-O signround takes it"),
        };
        return Err(Diagnostic::error(codes::QCC0304, format!("{option} does nothing: {why}"))
            .at(format!("option {option}"))
            .with_note(format!("no pass '{pass}' is in the pipeline"))
            .with_help(help)
            .into());
    }
    check_samples(args, pipeline.steps().iter().any(reads_samples))?;
    if args.iters.is_some() && args.budget.is_some() {
        let text = "--iters does nothing beside --budget, which finds the steps";
        return Err(Diagnostic::error(codes::QCC0304, text)
            .at("option --iters")
            .with_help("leave out one of the two")
            .into());
    }
    if args.tune_norms && args.tune_scales == Some(0) {
        let text = "--tune-norms does nothing in 0 steps of --tune-scales";
        return Err(Diagnostic::error(codes::QCC0304, text)
            .at("option --tune-norms")
            .with_help("leave out one of the two, or give steps")
            .into());
    }
    Ok(())
}
