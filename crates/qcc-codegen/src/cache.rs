//! A folder of compiled kernels.
//!
//! A file is named by a hash of all that its content follows from: the sources that emit kernels,
//! the name of LLVM's library, the CPU with its features, and the name of the kernel. It holds the
//! hash of the object file and the object file. A file that is not what it should be is as good as
//! none, and what another version of qcc has left there is never asked for.

use crate::CodegenError;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"qcc kernel 1\n";
const HASH: usize = 32;

/// A folder of compiled kernels; several processes may share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCache {
    folder: PathBuf,
}

impl KernelCache {
    /// Keeps kernels in `folder`, which is made when there is something to keep.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        KernelCache { folder: folder.into() }
    }

    /// The user's own: `$XDG_CACHE_HOME/qcc/kernels`, or `.cache/qcc/kernels` at home. None
    /// without either. A path that is not absolute counts for nothing, as the base directory
    /// specification of freedesktop.org asks.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        Self::of(|name| env::var_os(name).map(PathBuf::from))
    }

    fn of(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        let set = |name| variable(name).filter(|it| it.is_absolute());
        let root = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
        Some(Self::new(root.join("qcc").join("kernels")))
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The object file kept under `key`, if there is one and it is whole.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.file(key);
        // A pipe or a device has no end.
        fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        let bytes = fs::read(path).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (hash, object) = rest.split_at_checked(HASH)?;
        (blake3::hash(object).as_bytes() == hash).then(|| object.to_vec())
    }

    /// Keeps an object file. Others see all of it or nothing.
    ///
    /// # Errors
    /// [`CodegenError::Cache`] with what the system says.
    pub fn put(&self, key: &str, object: &[u8]) -> Result<(), CodegenError> {
        let failed = |error: std::io::Error| CodegenError::Cache {
            path: self.folder.clone(),
            reason: error.to_string(),
        };
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed)?;
        for part in [MAGIC, blake3::hash(object).as_bytes(), object] {
            file.write_all(part).map_err(failed)?;
        }
        file.persist(self.file(key)).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Forgets what is kept under `key`.
    pub fn remove(&self, key: &str) {
        // What cannot be removed is overwritten by the next `put`, or reported by it.
        let _ = fs::remove_file(self.file(key));
    }

    fn file(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.qcck"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = KernelCache::new(folder.path().join("new"));
        assert_eq!(cache.get("key"), None);
        cache.put("key", b"code").expect("kept");
        assert_eq!(cache.get("key").as_deref(), Some(&b"code"[..]));
        cache.put("key", b"other").expect("kept");
        assert_eq!(cache.get("key").as_deref(), Some(&b"other"[..]));
        cache.remove("key");
        assert_eq!(cache.get("key"), None);
    }

    #[test]
    fn only_absolute_paths_of_the_environment_count() {
        let folder = |cache: &'static str, home: &'static str| {
            let variable = |name: &str| match name {
                "XDG_CACHE_HOME" => Some(cache.into()),
                _ => Some(home.into()),
            };
            KernelCache::of(variable).map(|it| it.folder().to_owned())
        };
        assert_eq!(folder("/a", "/h"), Some("/a/qcc/kernels".into()));
        for not_absolute in ["", "a", "./a"] {
            assert_eq!(folder(not_absolute, "/h"), Some("/h/.cache/qcc/kernels".into()));
            assert_eq!(folder(not_absolute, "h"), None);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = KernelCache::new(folder.path());
        cache.put("key", b"code of a kernel").expect("kept");
        let whole = fs::read(cache.file("key")).expect("a file");
        for cut in 0..whole.len() {
            fs::write(cache.file("key"), &whole[..cut]).expect("written");
            assert_eq!(cache.get("key"), None, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(cache.file("key"), bytes).expect("written");
            assert_eq!(cache.get("key"), None, "byte {at}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = KernelCache::new(folder.path());
        std::os::unix::fs::symlink("/dev/zero", cache.file("key")).expect("a link");
        assert_eq!(cache.get("key"), None);
        cache.put("key", b"code").expect("kept in its place");
        assert_eq!(cache.get("key").as_deref(), Some(&b"code"[..]));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let cache = KernelCache::new(file.path().join("below"));
        let error = cache.put("key", b"code").expect_err("below a file").to_string();
        assert!(error.starts_with("cannot use the kernel cache "), "{error}");
    }
}
