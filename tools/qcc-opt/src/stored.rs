//! Bytes that a text names but does not hold.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use qcc_ir::text::Stored;
use qcc_tensor::MappedFile;

/// The folder beside a text with constants that it knows by hash alone, as `--dump-ir` writes it.
const BY_HASH: &str = "bytes";

/// Where the bytes of a text are.
pub(crate) struct Files {
    /// Beside the text; `None` for a text of a stream.
    folder: Option<PathBuf>,
    /// Where the files are that are named in it; beside the text if that is not said.
    named: Option<PathBuf>,
    open: RefCell<BTreeMap<PathBuf, MappedFile>>,
}

impl Files {
    /// Those of the text at `path`, with files that it names in the folder `named`.
    pub(crate) fn of(path: Option<&Path>, named: Option<&Path>) -> Self {
        let folder = path.map(|it| it.parent().unwrap_or(Path::new("")).to_owned());
        let named = named.map(Path::to_owned).or_else(|| folder.clone());
        Self { folder, named, open: RefCell::default() }
    }

    /// The bytes; the parser checks their number and hash.
    ///
    /// # Errors
    /// Why there are none, and what would help.
    pub(crate) fn load(&self, stored: &Stored<'_>) -> Result<Bytes, String> {
        let Some(origin) = stored.origin else {
            let hash = stored.blake3.unwrap_or_default();
            let folder = self.folder.as_ref().ok_or("a text of a stream has no files beside it")?;
            return self.range(&folder.join(BY_HASH).join(hash), 0, stored.len);
        };
        let relative = Path::new(&*origin.file);
        if !relative.components().all(|it| matches!(it, Component::Normal(_) | Component::CurDir)) {
            return Err(format!("'{}' is not a plain path", origin.file));
        }
        let folder = self.named.as_ref().ok_or("name its folder with --files")?;
        let start = usize::try_from(origin.offset).map_err(|it| it.to_string())?;
        self.range(&folder.join(relative), start, stored.len)
            .map_err(|it| format!("{it}; --files names the folder of the model"))
    }

    fn range(&self, path: &Path, start: usize, len: usize) -> Result<Bytes, String> {
        let shown = path.display();
        let mut open = self.open.borrow_mut();
        if !open.contains_key(path) {
            let file = MappedFile::open(path, &shown.to_string());
            let file = file.map_err(|it| format!("'{shown}' cannot be read: {it}"))?;
            open.insert(path.to_owned(), file);
        }
        let slice = open.get(path).and_then(|it| it.slice(start..start.checked_add(len)?));
        Ok(slice.ok_or_else(|| format!("'{shown}' ends before byte {start} + {len}"))?.0)
    }
}
