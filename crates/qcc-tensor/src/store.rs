//! Memory for results that live until the end of a run: the codes of all weights, say.
//!
//! Up to a budget they lie in memory that the system gives in large pages; beyond it in files
//! without names, mapped, which the system writes out when it needs the memory. What is written
//! does not depend on where it lies.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fs4::FileExt as _;
use memmap2::MmapMut;

/// Where the buffers of a run come from. Clones share the budget.
#[derive(Clone, Debug)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes that may still be taken from memory.
    left: AtomicU64,
    folder: PathBuf,
}

impl Default for Store {
    /// 384 MiB of memory, then the folder for temporary files.
    fn default() -> Self {
        Self::new(Self::DEFAULT_BUDGET, std::env::temp_dir())
    }
}

impl Store {
    /// Bytes that may be in memory if nobody says otherwise: the numbers of a model of 2 GiB.
    pub const DEFAULT_BUDGET: u64 = 384 << 20;

    /// At most `budget` bytes in memory at one time, and the rest in files in `folder`.
    pub fn new(budget: u64, folder: PathBuf) -> Self {
        Self(Arc::new(Shared { left: AtomicU64::new(budget), folder }))
    }

    /// `len` bytes, all 0.
    ///
    /// # Errors
    /// What the system says when it has no memory, or the folder, which is named, no space.
    pub fn take(&self, len: usize) -> io::Result<Buffer> {
        if len == 0 {
            return Ok(Buffer { map: None, charge: None });
        }
        let charge = self.charge(len as u64);
        let map = match charge {
            Some(_) => in_memory(len)?,
            None => {
                let folder = &self.0.folder;
                let named = |it: io::Error| {
                    io::Error::new(it.kind(), format!("'{}': {it}", folder.display()))
                };
                in_file(len, folder).map_err(named)?
            }
        };
        Ok(Buffer { map: Some(map), charge })
    }

    fn charge(&self, len: u64) -> Option<Charge> {
        let left = &self.0.left;
        let take = |it: u64| it.checked_sub(len);
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Charge { shared: self.0.clone(), len })
    }
}

/// Part of the budget, given back when it is dropped.
#[derive(Debug)]
struct Charge {
    shared: Arc<Shared>,
    len: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shared.left.fetch_add(self.len, Ordering::Relaxed);
    }
}

/// Bytes that are being written. They start on a page.
#[derive(Debug)]
pub struct Buffer {
    map: Option<MmapMut>,
    charge: Option<Charge>,
}

impl Buffer {
    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }

    /// The bytes as floats.
    ///
    /// # Panics
    /// If their number is no multiple of 4.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.bytes_mut())
    }

    /// Whether they lie in a file.
    pub fn is_spilled(&self) -> bool {
        self.map.is_some() && self.charge.is_none()
    }

    /// Shares the bytes, which stay where they are.
    pub fn freeze(self) -> Bytes {
        if self.map.is_some() { Bytes::from_owner(self) } else { Bytes::new() }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

fn in_memory(len: usize) -> io::Result<MmapMut> {
    let map = MmapMut::map_anon(len)?;
    // Only a hint: a system without large pages works as well.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

#[allow(unsafe_code)]
fn in_file(len: usize, folder: &std::path::Path) -> io::Result<MmapMut> {
    let file: File = tempfile::tempfile_in(folder)?;
    // Space is taken now, when lack of it is an error; later it would be a signal.
    file.allocate(len as u64)?;
    // SAFETY: the file has no name, so nobody else can write or shorten it.
    unsafe { MmapMut::map_mut(&file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_budget_goes_to_a_file_and_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(10_000, folder.path().to_owned());
        let mut frozen = Vec::new();
        for (len, spilled) in [(6000, false), (6000, true), (4000, false), (1, true), (0, false)] {
            let mut buffer = store.take(len).unwrap();
            assert_eq!(buffer.is_spilled(), spilled, "{len}");
            assert!(buffer.bytes_mut().iter().all(|it| *it == 0));
            for (i, byte) in buffer.bytes_mut().iter_mut().enumerate() {
                *byte = (i % 251) as u8;
            }
            frozen.push(buffer.freeze());
        }
        for bytes in &frozen {
            assert!(bytes.iter().enumerate().all(|(i, it)| *it == (i % 251) as u8));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "files have no names");
        drop(frozen);
        assert!(!store.take(10_000).unwrap().is_spilled(), "the budget is free again");
    }

    #[test]
    fn floats_share_the_bytes() {
        let mut buffer = Store::default().take(8).unwrap();
        buffer.floats_mut()[1] = 1.5;
        assert_eq!(buffer.freeze()[4..], 1.5f32.to_le_bytes());
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let store = Store::new(0, "there/is/no/such/folder".into());
        assert!(store.take(1).is_err());
    }
}
