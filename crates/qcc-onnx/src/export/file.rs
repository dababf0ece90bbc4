//! Files that appear whole or not at all: written under a temporary name in the same folder,
//! synced, and renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::WriteError;

/// Writes a file with what `fill` gives. It appears whole or not at all; what was there before
/// stays until then.
///
/// # Errors
/// [`WriteError::Io`] with what the system says, or what `fill` said.
pub fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> Result<(), WriteError> {
    Pending::write(path, fill)?.finish()
}

/// A file that was written but does not have its name yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Pending {
    file: NamedTempFile,
    path: PathBuf,
}

impl Pending {
    /// Writes a file beside `path` with what `fill` gives, and syncs it.
    pub(super) fn write(
        path: &Path,
        fill: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
    ) -> Result<Self, WriteError> {
        let wrong = |source| WriteError::Io { path: path.to_owned(), source };
        let mut file = begin(path).map_err(wrong)?;
        let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
        fill(&mut out).and_then(|()| out.flush()).map_err(wrong)?;
        drop(out);
        file.as_file().sync_all().map_err(wrong)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Gives the file its name.
    pub(super) fn finish(self) -> Result<(), WriteError> {
        let path = self.path;
        match self.file.persist(&path) {
            Ok(_) => {
                // So that the name survives a crash; not every system can sync a folder.
                if let Some(folder) = path.parent()
                    && let Ok(folder) = File::open(folder)
                {
                    let _ = folder.sync_all();
                }
                Ok(())
            }
            Err(error) => Err(WriteError::Io { path, source: error.error }),
        }
    }
}

/// Whether a file of this name can be written, which is tried.
///
/// # Errors
/// What the system says.
pub(super) fn try_place(path: &Path) -> Result<(), WriteError> {
    begin(path).map(drop).map_err(|source| WriteError::Io { path: path.to_owned(), source })
}

/// An empty file beside `path`.
fn begin(path: &Path) -> io::Result<NamedTempFile> {
    // A rename would put a file in the place of a device.
    if fs::metadata(path).is_ok_and(|it| !it.is_file()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let folder = match path.parent() {
        Some(it) if !it.as_os_str().is_empty() => it,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".qcc-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o666)); // less what the umask takes
    }
    builder.tempfile_in(folder).map_err(|it| plain(&it, folder))
}

/// Why no file can be made in a folder, without the temporary name that nobody asked for.
fn plain(error: &io::Error, folder: &Path) -> io::Error {
    fs::read_dir(folder).err().unwrap_or_else(|| error.kind().into())
}

/// The path without links, of a file that need not be there.
fn place(path: &Path) -> Option<PathBuf> {
    let folder = |path: &Path| match path.parent() {
        Some(it) if !it.as_os_str().is_empty() => it.to_owned(),
        _ => PathBuf::from("."),
    };
    let real = || Some(fs::canonicalize(folder(path)).ok()?.join(path.file_name()?));
    fs::canonicalize(path).ok().or_else(real)
}

/// Whether two paths are one file, through links too; or would be, where there is none yet.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt as _;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    match (place(a), place(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}
