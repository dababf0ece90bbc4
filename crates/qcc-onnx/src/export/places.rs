//! Where a model and its data file go, and what may not be there.

use std::path::{Path, PathBuf};

use super::External;
use super::file::{is_same_file, try_place};
use crate::{ReadOptions, Source, WriteError};

/// Whether [`write()`](crate::write()) will find a place for the model, and for the data file that a graph gets
/// that changes: to be asked before long work.
///
/// # Errors
/// When the output exists, is the input, or cannot be written.
pub fn check_places(
    source: &Source,
    path: &Path,
    external: External,
    overwrite: bool,
) -> Result<(), WriteError> {
    free_model(source, path, overwrite)?;
    try_place(path)?;
    let moves = match external {
        External::Always => true,
        External::Never => false,
        External::Auto => !source.0.data_files.is_empty(),
    };
    if !moves {
        return Ok(());
    }
    let data = data_beside(path);
    free_data(source, &data, path)?;
    try_place(&data)
}

/// Whether [`write_stream()`](crate::write_stream()) may be possible: to be asked before long work.
///
/// # Errors
/// When the model has data in other files, or is asked to.
pub fn check_stream(source: &Source, external: External) -> Result<(), WriteError> {
    let what = match (source.data_files().first(), external) {
        (Some((location, _)), _) => format!("the input has its data in '{location}'"),
        (None, External::Always) => "a data file is asked for".to_owned(),
        (None, External::Auto | External::Never) => return Ok(()),
    };
    Err(WriteError::OneFile { what })
}

/// Whether the model may go to `path`; with `overwrite` to the place of what is there.
///
/// # Errors
/// When the input is there, or something is and may not be replaced.
pub(super) fn free_model(source: &Source, path: &Path, overwrite: bool) -> Result<(), WriteError> {
    if is_same_file(path, &source.0.path) {
        return Err(WriteError::IsInput { path: path.to_owned() });
    }
    if path.symlink_metadata().is_ok() && !overwrite {
        return Err(WriteError::Exists { path: path.to_owned() });
    }
    Ok(())
}

/// Whether a data file of `model`, for which [`free_model`] found a place, may go to `path`. Of what
/// is there only data of the model that is replaced may go: other models may read the rest.
///
/// # Errors
/// When data of the input is there, or something that the replaced model does not read.
pub(super) fn free_data(source: &Source, path: &Path, model: &Path) -> Result<(), WriteError> {
    if source.has_data(path) {
        return Err(WriteError::IsInput { path: path.to_owned() });
    }
    if path.symlink_metadata().is_ok() && !reads(model, path) {
        return Err(WriteError::NotItsData { path: path.to_owned(), model: model.to_owned() });
    }
    Ok(())
}

/// Whether there is a model at `model` that has tensors in the file `data`.
fn reads(model: &Path, data: &Path) -> bool {
    let options = ReadOptions { allow_external_symlinks: true, ..ReadOptions::default() };
    crate::read(model, &options).is_ok_and(|it| it.source.has_data(data))
}

/// Place of the data file of a model that is written to `path`.
pub fn data_beside(path: &Path) -> PathBuf {
    path.with_file_name(data_name(path))
}

/// Name of the data file of a model.
pub(super) fn data_name(path: &Path) -> String {
    format!("{}.data", path.file_name().unwrap_or_default().to_string_lossy())
}
