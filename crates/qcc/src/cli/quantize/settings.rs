//! What the options of a run say together, and the compiler that they give.

use std::collections::BTreeMap;

use qcc::{Compiler, Error, OwnTextSize};
use qcc_diag::{Diagnostic, codes};
use qcc_pass::Pipeline;

use super::super::budget;
use super::super::command::{OF_PASSES, QuantizeArgs};
use super::super::words;
use super::tuning;

/// Weights that share a scale where nobody says otherwise.
const GROUP: &str = "32";

/// What several options say together.
pub(super) struct Settings {
    /// Bits of a code.
    pub(super) bits: u8,
    accuracy_level: u8,
}

impl Settings {
    /// Reads the options.
    ///
    /// # Errors
    /// When two of them exclude each other.
    pub(super) fn of(args: &QuantizeArgs) -> Result<Self, Error> {
        let asked = args.accuracy_level;
        let Some(scheme) = args.scheme else {
            return Ok(Self { bits: args.bits, accuracy_level: asked.unwrap_or(4) });
        };
        if let Some(level) = asked.filter(|&it| scheme.is_int8 && it != 4) {
            let text = format!("--scheme with A8 is accuracy level 4, not {level}");
            return Err(Diagnostic::error(codes::QCC0304, text)
                .at("option --accuracy-level")
                .with_help("leave out one of the two options")
                .into());
        }
        Ok(Self { bits: scheme.bits, accuracy_level: asked.unwrap_or(4) })
    }

    /// The options of the record, with what a shorthand stands for in its place, and those that are
    /// not given where they do something: with all of them the same command is made again.
    pub(super) fn resolve(
        &self,
        mut options: BTreeMap<String, String>,
        args: &QuantizeArgs,
        pipeline: &Pipeline,
        steps: &BTreeMap<&'static str, u16>,
    ) -> BTreeMap<String, String> {
        options.remove("scheme");
        // What there was time for, in place of the time.
        if let Some(count) = steps.get("signround").filter(|_| args.budget.is_some()) {
            options.remove("budget");
            options.insert("iters".to_owned(), count.to_string());
            let scales = steps.get("tune-scales").map(u16::to_string);
            options.extend(scales.map(|it| ("tune-scales".to_owned(), it)));
        }
        if args.passes.is_some() {
            options.retain(|name, _| !OF_PASSES.contains(&name.replace('-', "_").as_str()));
        }
        let has = |pass: &str| {
            args.passes.is_none() && pipeline.steps().iter().any(|it| it.pass.name == pass)
        };
        if has("to-nbits") {
            options.insert("accuracy-level".to_owned(), self.accuracy_level.to_string());
        }
        if has("select") && budget::is_asked(args) {
            options.remove("bits");
        } else if has("select") {
            options.insert("bits".to_owned(), self.bits.to_string());
            options.entry("group-size".to_owned()).or_insert_with(|| GROUP.to_owned());
        }
        options
    }
}

/// The compiler, but for samples and budgets.
///
/// # Errors
/// When an option has a value that its pass does not take.
pub(super) fn compiler(args: &QuantizeArgs, settings: &Settings) -> Result<Compiler, Error> {
    let mut compiler = Compiler::new().seed(args.seed);
    if let Some(text) = &args.passes {
        compiler = compiler.pipeline(text);
    } else {
        compiler = compiler.format(words::format(&args.format))?;
        if let Some(recipe) = &args.recipe {
            compiler = compiler.recipe(recipe)?;
        }
        if args.inline_functions {
            compiler = compiler.prepare("inline-functions,infer-types,dce")?;
        }
        if args.requantize {
            compiler = compiler.prepare("dequantize-weights,dce")?;
            let has_tables = args.embeddings.is_some() || !args.set.is_empty();
            compiler = compiler.setting("dequantize-weights", "tables", &has_tables.to_string())?;
        }
        if args.merge_equal {
            compiler = compiler.prepare("cse{merge-equal=true},dce")?;
        }
        let op_types: Vec<&str> = args.op_types.iter().map(|it| it.name()).collect();
        compiler = compiler
            .bits(settings.bits.into())?
            .group_size(args.group_size.as_deref().unwrap_or(GROUP))?
            .setting("select", "sym", if args.sym { "true" } else { "false" })?
            .setting("select", "scale", args.scale_type.name())?
            .setting("select", "embeddings", &args.embeddings.unwrap_or(0).to_string())?
            .setting("select", "head", &args.lm_head.unwrap_or(0).to_string())?
            .setting("select", "op-types", &op_types.join(","))?
            .setting("select", "include", &args.include.join("\n"))?
            .setting("select", "exclude", &args.exclude.join("\n"))?
            .setting("select", "set", &args.set.join("\n"))?
            .setting("select", "strict", if args.strict { "true" } else { "false" })?
            .setting("to-nbits", "accuracy-level", &settings.accuracy_level.to_string())?;
    }
    compiler = tuning::add(compiler, args)?;
    if let Some(threads) = args.threads {
        compiler = compiler.threads(threads);
    }
    if let Some(cap) = args.max_mem {
        compiler = compiler.max_memory(cap);
    }
    Ok(compiler)
}

/// What stands in for samples: `--calib self` is text of the model, `--calib random` is none of it;
/// `None` when samples are named, or nothing is asked for.
pub(super) fn made(args: &QuantizeArgs) -> Result<Option<Option<OwnTextSize>>, Error> {
    let size = OwnTextSize { samples: args.samples, length: args.seq_len };
    match args.calib.as_ref().and_then(|it| it.to_str()) {
        Some("self") => Ok(Some(Some(size))),
        Some("random") if args.samples.or(args.seq_len).is_some() => {
            let text = "the number and length of random tokens are fixed";
            Err(Diagnostic::error(codes::QCC0304, text)
                .at("option --calib random")
                .with_help("leave out --samples and --seq-len, or write --calib self")
                .into())
        }
        Some("random") => Ok(Some(None)),
        _ => Ok(None),
    }
}
