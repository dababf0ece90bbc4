//! Files mapped into memory.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use memmap2::Mmap;

/// Where in a file the bytes of a tensor lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Name of the file, as the model spells it.
    pub file: Arc<str>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// A file that is mapped read-only; slices of it share the map and keep it alive.
#[derive(Clone, Debug)]
pub struct MappedFile {
    name: Arc<str>,
    bytes: Bytes,
}

impl MappedFile {
    /// Maps the whole file. `name` is what messages and [`Origin`] call it.
    ///
    /// # Errors
    /// What the system says when the file cannot be opened or mapped.
    pub fn open(path: &Path, name: &str) -> io::Result<Self> {
        // Before it is opened: a pipe would wait for a writer, and a device may do anything.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        let file = File::open(path)?;
        Ok(Self { name: name.into(), bytes: map(&file)? })
    }

    /// Wraps bytes that are in memory already.
    pub fn from_bytes(bytes: Bytes, name: &str) -> Self {
        Self { name: name.into(), bytes }
    }

    /// The name that was given.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// All bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// A part of the file, with its origin; `None` when the range leaves the file.
    pub fn slice(&self, range: Range<usize>) -> Option<(Bytes, Origin)> {
        if range.start > range.end || range.end > self.bytes.len() {
            return None;
        }
        let origin = Origin {
            file: self.name.clone(),
            offset: range.start as u64,
            len: (range.end - range.start) as u64,
        };
        Some((self.bytes.slice(range), origin))
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new()); // a map of no bytes is an error on some systems
    }
    // SAFETY: the map is private and read-only. Another process that shortens the file while it
    // is read makes the read fault, as with every mapped file; qcc itself never writes to its
    // input.
    let map = Arc::new(unsafe { memmap2::MmapOptions::new().map(file)? });
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|it| it.strong_count() > 0);
    maps.push(Arc::downgrade(&map));
    Ok(Bytes::from_owner(Map(map)))
}

/// The open maps. Slices do not know theirs, and memory of other kinds must not be released.
static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

/// What slices of a map keep alive.
struct Map(Arc<Mmap>);

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Takes bytes of a [`MappedFile`] out of the memory of this process; they come back from the file
/// when they are read. Does nothing with other bytes.
pub fn release(bytes: &[u8]) {
    let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    for map in maps.iter().filter_map(Weak::upgrade) {
        let offset = (bytes.as_ptr() as usize).checked_sub(map.as_ptr() as usize);
        let is_inside = |it: &usize| it.checked_add(bytes.len()).is_some_and(|it| it <= map.len());
        if let Some(offset) = offset.filter(is_inside) {
            drop_pages(&map, offset, bytes.len());
        }
    }
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn drop_pages(map: &Mmap, offset: usize, len: usize) {
    // SAFETY: the map is of a file, private, and never written to: its pages hold what the file
    // holds, before and after.
    let done =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
    drop(done); // what stays in memory does no harm
}

/// Elsewhere the system takes pages back by itself.
#[cfg(not(unix))]
fn drop_pages(_: &Mmap, _: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which pages of bytes this process has in its memory.
    #[cfg(target_os = "linux")]
    fn resident(bytes: &[u8]) -> Vec<bool> {
        use std::os::unix::fs::FileExt;
        let table = File::open("/proc/self/pagemap").unwrap();
        let first = bytes.as_ptr() as u64 / 4096;
        let pages = first..first + bytes.len() as u64 / 4096;
        let is_there = |page: u64| {
            let mut entry = [0; 8];
            table.read_exact_at(&mut entry, page * 8).unwrap();
            u64::from_le_bytes(entry) >> 63 == 1
        };
        pages.map(is_there).collect()
    }

    #[test]
    fn released_bytes_come_back() {
        let content: Vec<u8> = (0..64 * 4096u32).map(|it| (it % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &content).unwrap();
        let mapped = MappedFile::open(file.path(), "f").unwrap();
        let part = mapped.slice(100..40 * 4096).unwrap().0;
        assert_eq!(mapped.bytes()[..], content);
        #[cfg(target_os = "linux")]
        assert_eq!(resident(mapped.bytes()), [true; 64]);
        release(&part);
        #[cfg(target_os = "linux")]
        assert_eq!(resident(mapped.bytes()), std::array::from_fn::<_, 64, _>(|it| it >= 40));
        assert_eq!(mapped.bytes()[..], content);
    }

    #[test]
    fn other_bytes_stay() {
        let content = vec![7u8; 1 << 20];
        release(&content);
        release(&[]);
        assert_eq!(content, [7; 1 << 20]);
    }
}
