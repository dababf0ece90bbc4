//! Folders of test data as ONNX ships them with models: `test_data_set_0/input_0.pb` and so on,
//! one serialized tensor in each file. A folder that holds such files itself is one set.

use std::fs;
use std::path::{Path, PathBuf};

use qcc_tensor::Tensor;

use crate::samples::source_name;
use crate::{DataError, ModelInput};

/// Reads a serialized ONNX tensor: its name, which may be empty, and its value.
pub type ReadPb = fn(&[u8]) -> Result<(String, Tensor), String>;

/// What the names of folders of sets begin with.
const SET: &str = "test_data_set_";

/// The input files of each set, in order of their numbers.
pub(crate) fn find(folder: &Path) -> Result<Vec<Vec<PathBuf>>, DataError> {
    let mut sets = Vec::new();
    for set in numbered(folder, SET, "")? {
        let files = numbered(&set, "input_", ".pb")?;
        if files.is_empty() {
            let text = "the set holds no input_0.pb";
            return Err(DataError::unreadable(&source_name(&set), text));
        }
        sets.push(files);
    }
    if sets.is_empty() {
        let files = numbered(folder, "input_", ".pb")?;
        if files.is_empty() {
            let text = "the folder holds no test_data_set_0 with input_0.pb";
            return Err(DataError::unreadable(&source_name(folder), text));
        }
        sets.push(files);
    }
    Ok(sets)
}

/// Entries of a folder by the number in their names.
fn numbered(folder: &Path, before: &str, after: &str) -> Result<Vec<PathBuf>, DataError> {
    let failed = |it| DataError::unreadable(&source_name(folder), it);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
        let digits = name.strip_prefix(before).and_then(|it| it.strip_suffix(after));
        if let Some(number) = digits.and_then(|it| it.parse::<u64>().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|it| it.1).collect())
}

/// The name of a file as messages have it, with its set where it is in one of several.
fn in_set(path: &Path) -> String {
    let set = path.parent().map(source_name).filter(|it| it.starts_with(SET));
    let name = source_name(path);
    set.map_or(name.clone(), |set| format!("{set}/{name}"))
}

/// The tensors of one set by index of the input: by name, and without a name by place.
pub(crate) fn read(
    source: &str,
    files: &[PathBuf],
    inputs: &[ModelInput],
    read: ReadPb,
) -> Result<Vec<(usize, Tensor)>, DataError> {
    let mut found: Vec<(usize, Tensor)> = Vec::new();
    for (place, path) in files.iter().enumerate() {
        let file = in_set(path);
        let bytes = fs::read(path).map_err(|it| DataError::unreadable(&file, it))?;
        let (name, tensor) = read(&bytes).map_err(|it| DataError::unreadable(&file, it))?;
        let at = match inputs.iter().position(|it| it.name == name) {
            None if name.is_empty() && place < inputs.len() => place,
            Some(at) => at,
            None => {
                let text = format!("'{file}' holds '{name}', which is no input");
                let note = format!("the model takes {}", crate::input::list(inputs));
                return Err(DataError::mismatch(source, text).note(note));
            }
        };
        if found.iter().any(|it| it.0 == at) {
            let text = format!("'{file}' gives input {} a second time", inputs[at]);
            return Err(DataError::mismatch(source, text));
        }
        found.push((at, tensor));
    }
    found.sort_by_key(|it| it.0);
    Ok(found)
}
