//! What was typed, before it is parsed: the default command, and underscores in option names.

use std::ffi::OsString;

use clap::Command;

/// Puts `quantize` in front when the first argument names no command, and makes `--group_size`
/// into `--group-size`.
pub(super) fn normalize(args: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().map(dashes).collect();
    let Some(first) = args.get(1).map(|it| it.to_string_lossy().into_owned()) else { return args };
    let is_command = command
        .get_subcommands()
        .any(|it| it.get_name() == first || it.get_all_aliases().any(|alias| alias == first));
    let is_global = matches!(first.as_str(), "help" | "-h" | "--help" | "-V" | "--version");
    if !is_command && !is_global {
        args.insert(1, OsString::from("quantize"));
    }
    args
}

fn dashes(arg: OsString) -> OsString {
    let Some(text) = arg.to_str().filter(|it| it.starts_with("--")) else { return arg };
    match text.split_once('=') {
        Some((name, value)) => OsString::from(format!("{}={value}", name.replace('_', "-"))),
        None => OsString::from(text.replace('_', "-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: &str) {
        let command = Command::new("qcc").subcommand(Command::new("quantize"));
        let args = line.split(' ').map(OsString::from).collect();
        let args: Vec<String> = normalize(args, &command)
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
    }

    #[test]
    fn underscores_in_names_are_dashes() {
        check(
            "qcc m --group_size 32 --set=a_b:skip",
            "qcc quantize m --group-size 32 --set=a_b:skip",
        );
    }
}
