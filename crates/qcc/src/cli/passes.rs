//! `qcc passes`: what there is to name in a pipeline.

use std::fmt::Write as _;

use clap::Args;
use qcc::{Error, FORMATS, RECIPES};
use qcc_diag::{Diagnostic, codes};
use qcc_pass::{OptionInfo, PassInfo, nearest};
use serde_json::{Value, json};

use super::exit::{Ended, show};
use super::words::meant;

/// Options of `passes`.
#[derive(Args, Debug)]
pub(super) struct PassesArgs {
    /// A pass, recipe or format to show; all of them without it
    pub(super) name: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
pub(super) fn run(args: &PassesArgs) -> Result<Ended, Error> {
    let name = args.name.as_deref();
    let is_meant = |it: &str| name.is_none_or(|name| name == it);
    let mut passes = qcc::passes();
    passes.retain(|it| is_meant(it.name));
    // Recipe, summary and pipeline text.
    let recipes = RECIPES.iter().filter(|it| is_meant(it.name));
    let recipes: Vec<Named> = recipes.map(|it| (it.name, it.summary, it.passes)).collect();
    let formats = FORMATS.iter().filter(|it| is_meant(it.name));
    let formats: Vec<Named> = formats.map(|it| (it.name, it.summary, it.passes)).collect();
    if let Some(name) =
        name.filter(|_| passes.is_empty() && recipes.is_empty() && formats.is_empty())
    {
        let text = format!("there is no pass, recipe or format '{name}'");
        let all = qcc::passes().into_iter().map(|it| it.name);
        let all = all.chain(RECIPES.iter().map(|it| it.name));
        let near = nearest(name, all.chain(FORMATS.iter().map(|it| it.name)));
        return Err(meant(Diagnostic::error(codes::QCC0301, text), near)
            .with_help("qcc passes lists all of them")
            .into());
    }
    if args.json {
        let named = |list: &[Named]| -> Vec<Value> {
            let row = |it: &Named| json!({"name": it.0, "summary": it.1, "passes": it.2});
            list.iter().map(row).collect()
        };
        let passes: Vec<Value> = passes.iter().map(|it| pass_json(it)).collect();
        let all = json!({"passes": passes, "recipes": named(&recipes), "formats": named(&formats)});
        return show(&format!("{all:#}\n"));
    }
    let mut text = String::new();
    if name.is_none() {
        text.push_str("passes (qcc passes NAME shows options)\n");
        for pass in &passes {
            let _ = writeln!(text, "  {:<16} {}", pass.name, pass.summary);
        }
        text.push_str("\nrecipes (-O NAME)\n");
        for (name, summary, _) in &recipes {
            let _ = writeln!(text, "  {name:<16} {summary}");
        }
        text.push_str("\nformats (--format NAME)\n");
        for (name, summary, _) in &formats {
            let _ = writeln!(text, "  {name:<16} {summary}");
        }
        return show(&text);
    }
    for pass in &passes {
        let _ = writeln!(text, "pass {}: {}", pass.name, pass.summary);
        pass.options.iter().for_each(|it| option(&mut text, it));
    }
    for (kind, list) in [("recipe", &recipes), ("format", &formats)] {
        for (name, summary, passes) in list {
            let _ = writeln!(text, "{kind} {name}: {summary}");
            let passes = if passes.is_empty() { "none" } else { passes };
            let _ = writeln!(text, "  passes           {passes}");
        }
    }
    show(&text)
}

type Named = (&'static str, &'static str, &'static str);

fn option(text: &mut String, it: &OptionInfo) {
    let default = if it.default.is_empty() { "''" } else { it.default };
    let _ = writeln!(text, "  {:<16} {}", it.name, it.help);
    let _ = writeln!(text, "  {:<16} {}, default {default}", "", it.kind);
}

fn pass_json(pass: &PassInfo) -> Value {
    let option = |it: &OptionInfo| {
        json!({
            "name": it.name,
            "kind": it.kind.to_string(),
            "default": it.default,
            "help": it.help,
        })
    };
    let options: Vec<Value> = pass.options.iter().map(option).collect();
    json!({"name": pass.name, "summary": pass.summary, "options": options})
}
