//! What a command writes never takes the place of what it reads.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use qcc::Error;
use qcc_diag::{Diagnostic, codes};
use qcc_onnx::is_same_file;

use super::command::Cli;
use super::exit::Json;
use super::{argv, config};

/// Whether the file of `--json` is new or may be replaced, and is not one that another argument
/// names. Asked of the plain arguments, since an error in one of them is written there.
///
/// # Errors
/// QCC0106 when it exists, QCC0107 with the argument that names it too.
pub(super) fn check_json(args: &[OsString], json: Option<&Json>) -> Result<(), Error> {
    let Some(Json::File(path)) = json else { return Ok(()) };
    let words = args.iter().skip(1).filter_map(|it| it.to_str());
    for arg in words.filter(|it| !it.starts_with("--json")) {
        if named(arg).into_iter().any(|it| is_same_file(path, Path::new(it))) {
            return Err(refused("--json", path, &format!("'{arg}' names it too")));
        }
    }
    if is_forced(args) { Ok(()) } else { must_be_new(path) }
}

/// Whether `--force` is among the arguments, whatever is wrong with others.
fn is_forced(args: &[OsString]) -> bool {
    let command = argv::with_negations(Cli::command());
    let args = argv::normalize(args.to_vec(), &command);
    let args = config::expand(args.clone(), &command).unwrap_or(args);
    let lenient = command.ignore_errors(true);
    let lenient = lenient.mut_subcommand("quantize", |it| it.ignore_errors(true));
    let matches = lenient.try_get_matches_from(args).ok();
    matches
        .is_some_and(|it| it.subcommand_matches("quantize").is_some_and(|it| it.get_flag("force")))
}

/// Whether there is nothing at a path that would be lost. A pipe takes whatever comes.
///
/// # Errors
/// QCC0106 when there is.
pub(super) fn must_be_new(path: &Path) -> Result<(), Error> {
    if path.symlink_metadata().is_err() || path.metadata().is_ok_and(|it| !it.is_file()) {
        return Ok(());
    }
    Err(Diagnostic::error(codes::QCC0106, format!("'{}' exists", path.display()))
        .at(path.display().to_string())
        .with_help("add -f to replace it, or choose another name")
        .into())
}

/// What an argument may name: itself, the value behind `=`, the value that is joined to a letter.
fn named(arg: &str) -> Vec<&str> {
    let joined = match arg.strip_prefix('-') {
        Some(short) if !short.starts_with('-') => short.get(1..),
        _ => None,
    };
    [Some(arg), arg.split_once('=').map(|it| it.1), joined].into_iter().flatten().collect()
}

/// Whether no file is written that is read, and none is written twice.
///
/// # Errors
/// QCC0107 for the first that is.
pub(super) fn check(writes: &[(&str, PathBuf)], reads: &[(&str, PathBuf)]) -> Result<(), Error> {
    for (at, (option, path)) in writes.iter().enumerate() {
        if let Some((reader, read)) = reads.iter().find(|it| is_part(path, &it.1)) {
            let what = match read.is_dir() {
                true => format!("{reader} reads that folder"),
                false => format!("{reader} reads it"),
            };
            return Err(refused(option, path, &what));
        }
        if let Some((other, _)) = writes[..at].iter().find(|it| is_same_file(path, &it.1)) {
            return Err(refused(option, path, &format!("{other} writes it too")));
        }
    }
    Ok(())
}

/// Whether a file is this one, or lies in this folder.
fn is_part(path: &Path, read: &Path) -> bool {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let inside = || is_same_file(folder.unwrap_or(Path::new(".")), read);
    is_same_file(path, read) || (read.is_dir() && inside())
}

fn refused(option: &str, path: &Path, why: &str) -> Error {
    let text = format!("{option} would replace '{}': {why}", path.display());
    Diagnostic::error(codes::QCC0107, text)
        .at(format!("option {option}"))
        .with_help("choose another name")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_takes_the_place_of_no_argument() {
        let dir = tempfile::tempdir().unwrap();
        let [model, other] = ["m.onnx", "new"].map(|it| dir.path().join(it));
        std::fs::write(&model, "precious").unwrap();
        let check = |json: &Path, args: &[String]| {
            let args: Vec<OsString> =
                [&["qcc".to_owned()], args].concat().iter().map(OsString::from).collect();
            check_json(&args, Some(&Json::File(json.to_owned()))).is_ok()
        };
        let name = model.display();
        assert!(!check(&model, &[format!("{name}")]));
        assert!(!check(&model, &[format!("--calib={name}")]));
        assert!(!check(&model, &[format!("-o{name}")]));
        assert!(check(&other, &[format!("{name}"), "-b4".into(), format!("--json={name}")]));
        assert!(!check(&other, &["-o".into(), format!("{}", other.display())]), "not there yet");
    }

    #[test]
    fn outputs_are_apart_from_inputs_and_from_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("data")).unwrap();
        std::fs::write(path("model"), "").unwrap();
        let is_right = |writes: [&str; 2]| {
            let writes = writes.map(|it| ("--record", path(it)));
            let reads = [("the input", path("model")), ("--calib", path("data"))];
            check(&writes, &reads).is_ok()
        };
        assert!(is_right(["a", "b"]));
        assert!(!is_right(["a", "a"]));
        assert!(!is_right(["a", "model"]));
        assert!(!is_right(["data/b", "a"]));
        assert!(is_right(["b", "data2"]));
    }
}
