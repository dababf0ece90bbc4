//! Tensors whose bytes lie in other files.
//!
//! A model from a stranger must not read other files of the machine: only a relative path without
//! `..` is followed, and what it leads to must lie in the folder of the model.

use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use indexmap::IndexMap;
use onnx_protobuf::TensorProto;
use prost::bytes::Bytes;
use qcc_tensor::{MappedFile, Origin};

use crate::ReadError;

/// Maps a file, or reads all of it.
///
/// # Errors
/// What the system says.
pub(super) fn open_file(path: &Path, name: &str, no_mmap: bool) -> io::Result<MappedFile> {
    if !no_mmap {
        return MappedFile::open(path, name);
    }
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    Ok(MappedFile::from_bytes(Bytes::from(fs::read(path)?), name))
}

/// The data files that were opened.
#[derive(Default)]
pub(super) struct DataFiles {
    /// `None` where a model has no files beside it.
    folder: Option<PathBuf>,
    allow_symlinks: bool,
    no_mmap: bool,
    open: IndexMap<String, MappedFile>,
}

impl DataFiles {
    pub(super) fn new(model: &Path, allow_symlinks: bool) -> Self {
        let folder = model.parent().unwrap_or(Path::new(".")).to_owned();
        Self { folder: Some(folder), allow_symlinks, ..Self::default() }
    }

    /// Those of a model that came from a stream: there are none.
    pub(super) fn of_stream() -> Self {
        Self::default()
    }

    /// Reads files instead of mapping them.
    pub(super) fn without_mmap(self, no_mmap: bool) -> Self {
        Self { no_mmap, ..self }
    }

    pub(super) fn into_files(self) -> Vec<(String, MappedFile)> {
        self.open.into_iter().collect()
    }

    /// The bytes that a tensor says it has in another file; `want` is what its shape needs.
    pub(super) fn slice(
        &mut self,
        tensor: &TensorProto,
        want: usize,
    ) -> Result<(Bytes, Origin), ReadError> {
        let entry = |key: &str| tensor.external_data.iter().find(|it| it.key() == key);
        let location = entry("location").map(|it| it.value().to_owned()).unwrap_or_default();
        let wrong = |what: String| ReadError::External {
            tensor: tensor.name().to_owned(),
            location: location.clone(),
            what,
        };
        let Some(folder) = self.folder.clone() else {
            let tensor = tensor.name().to_owned();
            return Err(ReadError::NoFolder { tensor, location });
        };
        let number = |key: &str| -> Result<Option<usize>, ReadError> {
            let Some(entry) = entry(key) else { return Ok(None) };
            let text = entry.value().trim();
            text.parse().map(Some).map_err(|_| wrong(format!("{key} '{text}' is no number")))
        };
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?;
        if length.is_some_and(|it| it != want) {
            let length = length.unwrap_or_default();
            return Err(wrong(format!("length is {length}, but the shape needs {want} bytes")));
        }
        let file = self.open(&folder, &location).map_err(wrong)?;
        let size = file.bytes().len();
        let end = offset.checked_add(want).filter(|&it| it <= size);
        end.and_then(|end| file.slice(offset..end)).ok_or_else(|| {
            wrong(format!("bytes {offset} to {offset} + {want} are outside of its {size} bytes"))
        })
    }

    fn open(&mut self, folder: &Path, location: &str) -> Result<&MappedFile, String> {
        if !self.open.contains_key(location) {
            let path = self.resolve(folder, location)?;
            let file = open_file(&path, location, self.no_mmap)
                .map_err(|error| format!("'{location}' cannot be read: {error}"))?;
            self.open.insert(location.to_owned(), file);
        }
        self.open.get(location).ok_or_else(|| "it is not open".to_owned())
    }

    fn resolve(&self, folder: &Path, location: &str) -> Result<PathBuf, String> {
        if location.is_empty() {
            return Err("no location is given".to_owned());
        }
        let relative = Path::new(location);
        let is_plain =
            relative.components().all(|it| matches!(it, Component::Normal(_) | Component::CurDir));
        if !is_plain || location.contains('\\') || location.contains('\0') {
            return Err(format!("'{location}' is not a plain path below the model"));
        }
        let path = folder.join(relative);
        let real = fs::canonicalize(&path)
            .map_err(|error| format!("'{location}' cannot be read: {error}"))?;
        if real.starts_with(folder) || self.allow_symlinks {
            Ok(real)
        } else {
            Err(format!("'{location}' leads out of the folder of the model"))
        }
    }
}
