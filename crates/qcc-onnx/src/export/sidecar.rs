//! The data file beside a model: where each tensor goes in it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use prost::bytes::Bytes;

/// Smaller tensors stay in the model.
const MIN_BYTES: usize = 1024;
/// Tensors of this size start at a page, so that a runtime can map them.
const PAGE_FROM_BYTES: usize = 1 << 20;
const PAGE: u64 = 4096;
const LINE: u64 = 64;

/// Tensors in order of first use, each once.
#[derive(Debug)]
pub(super) struct Sidecar {
    location: String,
    parts: Vec<(u64, Bytes)>,
    /// By address and length: tensors that share bytes share their place.
    places: BTreeMap<(usize, usize), u64>,
    end: u64,
}

impl Sidecar {
    pub(super) fn new(location: String) -> Self {
        Self { location, parts: Vec::new(), places: BTreeMap::new(), end: 0 }
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn takes(&self, len: usize) -> bool {
        len >= MIN_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        self.end
    }

    /// The offset of the bytes, which are added when they are not there yet.
    pub(super) fn add(&mut self, bytes: &Bytes) -> u64 {
        let key = (bytes.as_ptr() as usize, bytes.len());
        if let Some(&offset) = self.places.get(&key) {
            return offset;
        }
        let align = if bytes.len() >= PAGE_FROM_BYTES { PAGE } else { LINE };
        let offset = self.end.next_multiple_of(align);
        self.end = offset + bytes.len() as u64;
        self.parts.push((offset, bytes.clone()));
        self.places.insert(key, offset);
        offset
    }

    pub(super) fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut at = 0;
        for (offset, bytes) in &self.parts {
            let gap = usize::try_from(offset - at).unwrap_or(0);
            out.write_all(&vec![0; gap])?;
            out.write_all(bytes)?;
            qcc_tensor::release(bytes);
            at = offset + bytes.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tensors_start_at_pages_and_shared_ones_are_written_once() {
        let mut sidecar = Sidecar::new("m.data".into());
        let (small, large) = (Bytes::from(vec![1; 1100]), Bytes::from(vec![2; 1 << 20]));
        assert_eq!(sidecar.add(&small), 0);
        assert_eq!(sidecar.add(&large), 4096);
        assert_eq!(sidecar.add(&small.clone()), 0);
        let mut out = Vec::new();
        sidecar.write_to(&mut out).unwrap();
        assert_eq!(out.len() as u64, sidecar.len());
        assert_eq!((out[1099], out[1100], out[4096]), (1, 0, 2));
    }
}
