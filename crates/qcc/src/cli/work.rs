//! The folder in which finished blocks are kept until the output is written.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use qcc::Error;
use qcc_diag::{Diagnostic, codes};

use super::command::QuantizeArgs;

/// Where finished blocks are.
pub(super) struct Work {
    folder: Option<PathBuf>,
    /// Whether the user named it: then it stays.
    is_named: bool,
}

impl Work {
    pub(super) fn of(args: &QuantizeArgs, output: &Path) -> Self {
        let beside = || {
            let mut name = OsString::from(output.file_name()?);
            name.push(".work");
            Some(output.with_file_name(name))
        };
        Self { folder: args.work_dir.clone().or_else(beside), is_named: args.work_dir.is_some() }
    }

    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Says of a run that was stopped how it goes on.
    pub(super) fn explain(&self, error: Error) -> Error {
        match &self.folder {
            Some(folder)
                if error.code() == codes::QCC0509 && self.files().iter().any(|it| is_entry(it)) =>
            {
                let text = format!("finished blocks are kept in '{}'", folder.display());
                let interrupted = Diagnostic::error(codes::QCC0509, "interrupted").with_note(text);
                interrupted.with_help("the same command goes on behind them").into()
            }
            _ => error,
        }
    }

    /// Removes the folder and what a run keeps there, unless the user named it.
    pub(super) fn remove(&self) {
        let Some(folder) = self.folder.as_ref().filter(|_| !self.is_named) else { return };
        for path in self.files().into_iter().filter(|it| is_entry(it) || is_part(it)) {
            let _ = std::fs::remove_file(path);
        }
        let _ = std::fs::remove_dir(folder);
    }

    fn files(&self) -> Vec<PathBuf> {
        let listed = self.folder.as_ref().and_then(|it| std::fs::read_dir(it).ok());
        listed.into_iter().flatten().flatten().map(|it| it.path()).collect()
    }
}

/// Whether a file is a finished block.
fn is_entry(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "safetensors")
}

/// Whether a file is a block that a run was stopped in the middle of writing.
fn is_part(path: &Path) -> bool {
    let is_temporary = |it: &OsStr| it.as_encoded_bytes().starts_with(b".tmp");
    path.extension().is_some_and(|it| it == "part") || path.file_name().is_some_and(is_temporary)
}
