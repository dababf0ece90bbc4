//! Memory for packed weights.
//!
//! A product of one row reads every byte of a matrix once. With pages of 4 KiB it then waits for
//! address translation; with those of 2 MiB it runs at the speed of the memory. Matrices of less
//! than that share pages.

use memmap2::{Mmap, MmapMut, MmapOptions};
use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// What regions are aligned to, and the least distance between two.
const ALIGN: usize = 4096;

/// Larger regions have pages of their own.
const SHARED: usize = HUGE / 2;

/// Most pages that are looked through for room.
const MOST_OPEN: usize = 64;

/// Whole huge pages, where the system has them.
struct Pages {
    /// Keeps the memory mapped.
    _map: MmapMut,
    /// First byte that is aligned to a huge page.
    start: NonNull<u8>,
}

// SAFETY: a `Region` is the only one to use its part of the pages.
#[allow(unsafe_code)]
unsafe impl Send for Pages {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Pages {}

impl Pages {
    fn map(len: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let len = len.checked_next_multiple_of(HUGE).ok_or_else(too_large)?;
        let mut map = MmapMut::map_anon(len.checked_add(HUGE).ok_or_else(too_large)?)?;
        let skip = map.as_ptr().align_offset(HUGE);
        // Without huge pages it is slower, no more.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, skip, len);
        let start = map.get_mut(skip..).and_then(|it| NonNull::new(it.as_mut_ptr()));
        Ok(Self { start: start.ok_or_else(too_large)?, _map: map })
    }
}

/// What keeps bytes mapped.
enum Held {
    Pages { _pages: Arc<Pages> },
    File { _map: Mmap },
}

/// Bytes that are zero at first, aligned to 4096, or those of a file. Not cloned: there is one
/// owner of the bytes.
pub(crate) struct Region {
    held: Held,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: as an owned slice of bytes is.
#[allow(unsafe_code)]
unsafe impl Send for Region {}
// SAFETY: as an owned slice of bytes is.
#[allow(unsafe_code)]
unsafe impl Sync for Region {}

impl Region {
    /// So many bytes.
    ///
    /// # Errors
    /// If the system has no more memory.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        /// Pages that have room, and how much of them is taken. What was given back is not used
        /// again; pages go when all of their regions have.
        static OPEN: Mutex<Vec<(Weak<Pages>, usize)>> = Mutex::new(Vec::new());
        let (pages, at) = if len > SHARED {
            (Arc::new(Pages::map(len)?), 0)
        } else {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|it| it.0.strong_count() > 0);
            // Where the least is left over, so that much of a size leaves little unused.
            let fits = open.iter_mut().filter(|it| it.1 + len <= HUGE);
            let found = fits.max_by_key(|it| it.1).and_then(|it| Some((it.0.upgrade()?, it)));
            match found {
                Some((pages, place)) => {
                    let at = place.1;
                    place.1 = (at + len).next_multiple_of(ALIGN);
                    (pages, at)
                }
                None => {
                    let pages = Arc::new(Pages::map(HUGE)?);
                    if open.len() >= MOST_OPEN {
                        let fullest = (0..open.len()).max_by_key(|&it| open[it].1);
                        fullest.map(|it| open.swap_remove(it));
                    }
                    open.push((Arc::downgrade(&pages), len.next_multiple_of(ALIGN)));
                    (pages, 0)
                }
            }
        };
        // SAFETY: the pages have `len` bytes from `at` on.
        #[allow(unsafe_code)]
        let start = unsafe { pages.start.add(at) };
        Ok(Self { held: Held::Pages { _pages: pages }, start, len })
    }

    /// So many bytes of a file, from a byte on that begins a page; to be read only, and the file
    /// stays as it is meanwhile.
    ///
    /// # Errors
    /// If the system does not map them.
    pub(crate) fn map(file: &File, at: u64, len: usize) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.offset(at).len(len);
        // SAFETY: that the file stays as it is, is asked of the caller.
        #[allow(unsafe_code)]
        let map = unsafe { options.map(file) }?;
        let start = NonNull::from(&map[..]).cast();
        Ok(Self { held: Held::File { _map: map }, start, len })
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped as long as the pages are kept, written through `bytes_mut` only.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.len)
        }
    }

    /// The bytes, to be written; none of a file.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        if matches!(self.held, Held::File { .. }) {
            return &mut [];
        }
        // SAFETY: as above; no other region has these bytes.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Others may take room of the same pages meanwhile.
    #[test]
    fn small_regions_fill_what_larger_ones_leave() {
        let count = |regions: &[Region]| {
            let mut pages: Vec<usize> =
                regions.iter().map(|it| it.start.addr().get() / HUGE).collect();
            pages.sort_unstable();
            pages.dedup();
            pages.len()
        };
        let region = |len: usize| Region::new(len).unwrap();
        let mut regions: Vec<Region> = (0..30).map(|_| region(540 << 10)).collect();
        let large = count(&regions);
        regions.extend((0..10).map(|_| region(338 << 10)));
        assert!(large >= 10 && count(&regions) <= large + 1, "{large} {}", count(&regions));
    }

    #[test]
    fn regions_are_aligned_zero_and_apart() {
        let sizes = [1, 5000, SHARED, SHARED, 100, SHARED + 1, 3 * HUGE];
        let mut regions: Vec<Region> = sizes.iter().map(|&it| Region::new(it).unwrap()).collect();
        for (i, region) in regions.iter_mut().enumerate() {
            assert!(region.start.addr().get().is_multiple_of(ALIGN), "{i}");
            assert!(region.bytes().iter().all(|&it| it == 0), "{i}");
            region.bytes_mut().fill(i as u8 + 1);
        }
        for (i, (region, len)) in regions.iter().zip(sizes).enumerate() {
            assert_eq!(region.bytes().len(), len);
            assert!(region.bytes().iter().all(|&it| usize::from(it) == i + 1), "{i}");
        }
        assert!(regions[6].start.addr().get().is_multiple_of(HUGE));
        assert!(Region::new(usize::MAX).is_err() && Region::new(usize::MAX - HUGE).is_err());
    }
}
