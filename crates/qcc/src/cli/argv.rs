//! What was typed, before it is parsed: the default command, underscores in option names, switches
//! that are taken back, and options of other tools that take a value here or there.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use qcc_pass::nearest;

/// Puts `quantize` in front when the first argument names no command, makes `--group_size` into
/// `--group-size`, and rewrites what other tools spell in another way.
pub(super) fn normalize(args: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().map(dashes).collect();
    let Some(first) = args.get(1).map(|it| it.to_string_lossy().into_owned()) else { return args };
    let is_command = command
        .get_subcommands()
        .any(|it| it.get_name() == first || it.get_all_aliases().any(|alias| alias == first));
    let is_global = matches!(first.as_str(), "help" | "-h" | "--help" | "-V" | "--version");
    if !is_command && !is_global && !is_misspelled(&first, command) {
        args.insert(1, OsString::from("quantize"));
    }
    peers(args)
}

/// Whether a word is nearly a command, and no file. Saying so is for the parser.
fn is_misspelled(word: &str, command: &Command) -> bool {
    word.bytes().all(|it| it.is_ascii_lowercase())
        && nearest(word, command.get_subcommands().map(Command::get_name)).is_some()
        && !Path::new(word).exists()
}

fn dashes(arg: OsString) -> OsString {
    let Some(text) = arg.to_str().filter(|it| it.starts_with("--")) else { return arg };
    match text.split_once('=') {
        Some((name, value)) => OsString::from(format!("{}={value}", name.replace('_', "-"))),
        None => OsString::from(text.replace('_', "-")),
    }
}

/// `--symmetric` may be followed by a truth value, and `--use-external-data-format` has none.
fn peers(args: Vec<OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::with_capacity(args.len());
    for arg in args {
        let is_after = |name: &str, out: &[OsString]| out.last().is_some_and(|it| it == name);
        let text = arg.to_str().unwrap_or_default();
        let value = match text.strip_prefix("--symmetric=") {
            Some(value) => truth(value),
            None if is_after("--symmetric", &out) => truth(text).inspect(|_| {
                out.pop();
            }),
            None => None,
        };
        out.push(match (value, text) {
            (Some(true), _) => OsString::from("--sym"),
            (Some(false), _) => OsString::from("--asym"),
            (None, "--use-external-data-format") => OsString::from("--external-data=always"),
            (None, _) => arg,
        });
    }
    out
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Adds `--no-X` for each switch `--X`: the last of them wins. They are not shown in help.
pub(super) fn with_negations(mut command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|it| it.get_name().to_owned()).collect();
    for name in names {
        command = command.mut_subcommand(name, |mut sub| {
            let switches: Vec<(String, String)> = sub
                .get_arguments()
                .filter(|it| is_switch(it))
                .filter_map(|it| Some((it.get_id().to_string(), it.get_long()?.to_owned())))
                .collect();
            for (id, long) in switches {
                let (no, negated) = (negation_id(&id), negation(&long));
                sub = sub.mut_arg(&id, |it| it.overrides_with(no.clone()));
                let arg = Arg::new(no).long(negated).action(ArgAction::SetTrue).hide(true);
                sub = sub.arg(arg.overrides_with(id));
            }
            sub
        });
    }
    command
}

/// Whether an option takes no value.
pub(super) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The name that takes a switch back.
pub(super) fn negation(long: &str) -> String {
    match long.strip_prefix("no-") {
        Some(name) => name.to_owned(),
        None => format!("no-{long}"),
    }
}

fn negation_id(id: &str) -> String {
    format!("not {id}")
}

/// Options that do not change what is written: where it goes, and what is said meanwhile.
const SILENT: &[&str] = &[
    "input",
    "output",
    "emit",
    "target",
    "weights",
    "linker",
    "config",
    "force",
    "dry_run",
    "json",
    "record",
    "report",
    "quiet",
    "verbose",
    "threads",
    "color",
    "progress",
    "verify",
    "eval",
    "fail_above",
    "max_mem",
    "no_mmap",
    "work_dir",
    "fresh",
    "print_before",
    "print_before_all",
    "print_after",
    "print_after_all",
    "print_changed",
    "dump_ir",
    "verify_each",
    "time_passes",
    "statistics",
];

/// Names and values of the options of a command that may change what is written, wherever they come
/// from.
pub(super) fn effective(command: &Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    let is_meant = |it: &&Arg| !it.is_hide_set() && !SILENT.contains(&it.get_id().as_str());
    for arg in command.get_arguments().filter(is_meant) {
        let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        if is_switch(arg) {
            if matches.get_flag(id) {
                options.insert(long.to_owned(), "true".to_owned());
            }
            continue;
        }
        let Some(values) = matches.get_raw(id) else { continue };
        let values: Vec<_> = values.map(|it| it.to_string_lossy()).collect();
        let between = if arg.get_value_delimiter().is_some() { "," } else { "\n" };
        options.insert(long.to_owned(), values.join(between));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let switch = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
        let quantize = Command::new("quantize").args([
            switch("force").short('f'),
            switch("no-provenance"),
            Arg::new("bits").long("bits").default_value("4"),
            Arg::new("exclude").long("exclude").action(ArgAction::Append),
        ]);
        Command::new("qcc").subcommand(quantize)
    }

    fn check(line: &str, want: &str) {
        let args = line.split(' ').map(OsString::from).collect();
        let args: Vec<String> = normalize(args, &command())
            .into_iter()
            .map(|it| it.to_string_lossy().into_owned())
            .collect();
        assert_eq!(args.join(" "), want);
    }

    #[test]
    fn quantize_is_the_default_command() {
        check("qcc m.onnx -O rtn", "qcc quantize m.onnx -O rtn");
        check("qcc quantize m.onnx", "qcc quantize m.onnx");
        check("qcc -b4 m.onnx", "qcc quantize -b4 m.onnx");
        check("qcc --help", "qcc --help");
        check("qcc quantise m.onnx", "qcc quantise m.onnx");
        check("qcc gpt m.onnx", "qcc quantize gpt m.onnx");
    }

    #[test]
    fn underscores_in_names_are_dashes() {
        check(
            "qcc m --group_size 32 --set=a_b:skip",
            "qcc quantize m --group-size 32 --set=a_b:skip",
        );
    }

    #[test]
    fn switches_of_other_tools() {
        check("qcc --symmetric m", "qcc quantize --symmetric m");
        check("qcc m --symmetric True -f", "qcc quantize m --sym -f");
        check("qcc m --symmetric=false", "qcc quantize m --asym");
        check("qcc --use_external_data_format m", "qcc quantize --external-data=always m");
    }

    #[test]
    fn the_last_of_a_switch_and_its_negation_wins() {
        let is_set = |line: &str, name: &str| {
            let command = with_negations(command());
            let matches = command.try_get_matches_from(line.split(' ')).unwrap();
            matches.subcommand_matches("quantize").unwrap().get_flag(name)
        };
        assert!(is_set("qcc quantize --no-force -f", "force"));
        assert!(!is_set("qcc quantize -f --no-force", "force"));
        assert!(!is_set("qcc quantize --no-provenance --provenance", "no-provenance"));
        assert!(is_set("qcc quantize --provenance --no-provenance", "no-provenance"));
    }

    #[test]
    fn effective_options_are_those_that_matter() {
        let command = with_negations(command());
        let line = "qcc quantize -f --no-provenance --exclude a --exclude b";
        let matches = command.clone().try_get_matches_from(line.split(' ')).unwrap();
        let matches = matches.subcommand_matches("quantize").unwrap();
        let found = effective(command.find_subcommand("quantize").unwrap(), matches);
        let want = [("bits", "4"), ("exclude", "a\nb"), ("no-provenance", "true")];
        let want = want.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, BTreeMap::from(want));
    }
}
