//! The folder in which finished blocks are kept until the output is written.

use std::ffi::OsString;
use std::path::Path;

use qcc::Error;
use qcc_diag::{Diagnostic, codes};
use qcc_pass::WorkDir;

use super::command::QuantizeArgs;
use super::streams;

/// Where finished blocks are. What holds none is removed when it is dropped.
pub(super) struct Work {
    dir: Option<WorkDir>,
    /// Whether the user named it: then the blocks stay.
    is_named: bool,
    /// Whether the folder stays even when nothing is in it.
    stays: bool,
}

impl Work {
    pub(super) fn of(args: &QuantizeArgs, output: &Path) -> Self {
        let beside = || {
            if streams::is_stream(output) {
                return None;
            }
            let mut name = OsString::from(output.file_name()?);
            name.push(".work");
            Some(output.with_file_name(name))
        };
        let is_named = args.work_dir.is_some();
        let dir = args.work_dir.clone().or_else(beside).map(WorkDir::new);
        let stays = is_named && dir.as_ref().is_some_and(|it| it.folder().exists());
        Self { dir: dir.filter(|_| !args.dry_run), is_named, stays }
    }

    pub(super) fn dir(&self) -> Option<&WorkDir> {
        self.dir.as_ref()
    }

    /// Removes what earlier runs have left.
    pub(super) fn drop_earlier(&self) {
        self.dir.iter().for_each(WorkDir::remove_all);
    }

    /// Says of a run that was stopped how it goes on. What samples and model alone lead to, values
    /// that are not finite, comes again; with others, blocks are not those that were finished.
    pub(super) fn explain(&self, error: Error) -> Error {
        let Some(dir) = self.dir.as_ref().filter(|it| it.has_work()) else { return error };
        let text = format!("finished blocks are kept in '{}'", dir.folder().display());
        let message = error.diagnostic().clone().with_note(text);
        let comes_again = message.code == codes::QCC0408;
        let help = if comes_again {
            "the same command stops there again, and other samples begin anew: --fresh removes the blocks"
        } else {
            "the same command goes on behind them"
        };
        let message = message.with_help(help);
        if self.is_named || comes_again {
            return message.into();
        }
        let help =
            format!("so does one with another -o and --work-dir '{}'", dir.folder().display());
        message.with_help(help).into()
    }

    /// The output is written: what was kept for it goes, unless the user named the folder. What
    /// other runs have left stays, and is told.
    pub(super) fn finish(&self) -> Option<Diagnostic> {
        let dir = self.dir.as_ref()?;
        if self.is_named {
            dir.mark_finished();
        } else {
            dir.remove_begun();
        }
        let others = dir.unfinished();
        let folder = dir.folder().display().to_string();
        let text = format!("'{folder}' has unfinished work of another command, which stays there");
        let mut message =
            (!others.is_empty()).then(|| Diagnostic::warning(codes::QCC0507, text))?;
        for (_, plan) in &others {
            let differs = dir.begun().first().map(|it| it.1.differences(plan));
            message = message.with_note(match differs {
                Some(it) => format!("it differs in: {}", it.join(", ")),
                None => format!("it is of signround: {}", plan.lines().join(", ")),
            });
        }
        Some(message.with_help("that command goes on with it; --fresh removes it"))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let Some(dir) = &self.dir else { return };
        dir.sweep();
        if !self.stays {
            // One that holds anything is not removed.
            let _ = std::fs::remove_dir(dir.folder());
        }
    }
}
