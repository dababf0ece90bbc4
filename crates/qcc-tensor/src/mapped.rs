//! Files mapped into memory.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

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
    let map = unsafe { memmap2::MmapOptions::new().map(file)? };
    Ok(Bytes::from_owner(map))
}
