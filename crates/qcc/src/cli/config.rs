//! `--config FILE`: options from a TOML file, put before those that were typed. What was typed wins.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use qcc::Error;
use qcc_diag::{Diagnostic, codes};
use toml::{Table, Value};

use super::argv::{is_switch, negation};
use super::command::OF_PASSES;
use super::exit;

/// Options of which only one may be given: one that was typed drops the others of the file.
const ONE_OF: &[&[&str]] =
    &[&["sym", "asym"], &["scheme", "bits"], &["bpw", "target_size", "bits"]];

/// The arguments with the options of the file that `--config` names.
///
/// # Errors
/// When the file cannot be read, or holds what is no option or no value of it.
pub(super) fn expand(args: Vec<OsString>, command: &Command) -> Result<Vec<OsString>, Error> {
    let lenient = command.clone().ignore_errors(true);
    let lenient = match args.get(1).and_then(|it| it.to_str()) {
        Some(name) if command.find_subcommand(name).is_some() => {
            lenient.mut_subcommand(name, |it| it.ignore_errors(true))
        }
        _ => return Ok(args),
    };
    let Ok(matches) = lenient.try_get_matches_from(&args) else { return Ok(args) };
    let Some((name, typed)) = matches.subcommand() else { return Ok(args) };
    let Some(sub) = command.find_subcommand(name) else { return Ok(args) };
    if !sub.get_arguments().any(|it| it.get_id() == "config") {
        return Ok(args);
    }
    let Some(mut paths) = typed.get_raw("config") else { return Ok(args) };
    let Some(path) = paths.next().map(Path::new) else { return Ok(args) };
    let mut options = Vec::new();
    for (key, value) in &read(path)? {
        let arg = find(sub.get_arguments(), key)
            .or_else(|| find(command.get_arguments().filter(|it| it.is_global_set()), key))
            .ok_or_else(|| unknown(sub, path, key))?;
        let tokens = tokens(arg, value).map_err(|what| wrong(path, key, what))?;
        check(command, name, &tokens).map_err(|it| it.at(place(path, key)))?;
        if !is_typed(typed, arg) {
            options.extend(tokens.into_iter().map(OsString::from));
        }
    }
    let (head, tail) = args.split_at(args.len().min(2));
    Ok([head, &options, tail].concat())
}

fn read(path: &Path) -> Result<Table, Error> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|it| {
        Diagnostic::error(codes::QCC0101, format!("'{shown}' cannot be read: {it}"))
            .at("option --config")
    })?;
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|it| text.get(..it.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let what = error.message();
        Diagnostic::error(codes::QCC0304, format!("'{shown}' is no TOML: {what}"))
            .at(format!("{shown}:{line}"))
            .with_help("write one option a line, as in: bits = 4")
            .into()
    })
}

/// The option among these that a key names; aliases are names too.
fn find<'a>(mut options: impl Iterator<Item = &'a Arg>, key: &str) -> Option<&'a Arg> {
    let name = key.replace('_', "-");
    let is_it = |it: &&Arg| {
        let is_alias = it.get_all_aliases().is_some_and(|list| list.contains(&name.as_str()));
        it.get_long() == Some(name.as_str()) || is_alias
    };
    options.find(is_it).filter(|it| it.get_id() != "config")
}

fn unknown(command: &Command, path: &Path, key: &str) -> Diagnostic {
    let names = command.get_arguments().filter(|it| !it.is_hide_set());
    let names: Vec<&str> = names.filter_map(Arg::get_long).filter(|it| *it != "config").collect();
    let error = Diagnostic::error(codes::QCC0304, format!("there is no option '{key}'"));
    let error = error.at(place(path, key));
    let name = key.replace('_', "-");
    match qcc_pass::nearest(&name, names) {
        Some(near) => error.with_help(format!("write '{near}'")),
        None => error.with_help(format!("qcc {} --help lists the options", command.get_name())),
    }
}

fn wrong(path: &Path, key: &str, what: &str) -> Diagnostic {
    let text = format!("option '{key}' takes {what}");
    Diagnostic::error(codes::QCC0304, text).at(place(path, key))
}

fn place(path: &Path, key: &str) -> String {
    format!("{}, key {key}", path.display())
}

/// A key and its value as they would be typed; or what the option takes.
fn tokens(arg: &Arg, value: &Value) -> Result<Vec<String>, &'static str> {
    let Some(long) = arg.get_long() else { return Err("no value here") };
    if is_switch(arg) {
        return match value {
            Value::Boolean(true) => Ok(vec![format!("--{long}")]),
            Value::Boolean(false) => Ok(vec![format!("--{}", negation(long))]),
            _ => Err("true or false"),
        };
    }
    let is_open = arg.get_num_args().is_some_and(|it| it.min_values() == 0);
    if let (true, Value::Boolean(is_on)) = (is_open, value) {
        return Ok(is_on.then(|| format!("--{long}")).into_iter().collect());
    }
    let one = |it: &Value| match it {
        Value::String(it) => Ok(it.clone()),
        Value::Integer(it) => Ok(it.to_string()),
        Value::Float(it) => Ok(it.to_string()),
        _ => Err("text or a number"),
    };
    let values = match value {
        Value::Array(list) => list.iter().map(one).collect::<Result<Vec<_>, _>>()?,
        other => vec![one(other)?],
    };
    let is_list = arg.get_value_delimiter().is_some();
    match arg.get_action() {
        ArgAction::Append if !is_list => {
            Ok(values.iter().map(|it| format!("--{long}={it}")).collect())
        }
        _ if is_list || values.len() == 1 => Ok(vec![format!("--{long}={}", values.join(","))]),
        _ => Err("one value"),
    }
}

/// Whether the option, or one that excludes it, was typed.
fn is_typed(typed: &ArgMatches, arg: &Arg) -> bool {
    let is_set = |id: &str| typed.value_source(id) == Some(ValueSource::CommandLine);
    let id = arg.get_id().as_str();
    let others = ONE_OF.iter().filter(|it| it.contains(&id)).flat_map(|it| it.iter());
    let is_in_text = OF_PASSES.contains(&id) && is_set("passes");
    let has_recipe = id == "passes" && is_set("recipe");
    is_set(id) || is_in_text || has_recipe || others.into_iter().any(|it| is_set(it))
}

/// Parses the tokens of one key alone, so that an error can say where they come from.
fn check(command: &Command, name: &str, tokens: &[String]) -> Result<(), Diagnostic> {
    let line = ["qcc", name].into_iter().chain(tokens.iter().map(String::as_str));
    match command.clone().try_get_matches_from(line) {
        Err(error)
            if matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) =>
        {
            Err(exit::of_usage(&error))
        }
        // Whatever else there is to say is said of all arguments together.
        _ => Ok(()),
    }
}
