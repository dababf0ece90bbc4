//! A slice that several threads write, each its own part.

use std::ops::Range;

/// Floats of a slice, without its borrow.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: `Shared::part` and `Shared::read` say who may use which floats.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(floats: &mut [f32]) -> Self {
        Self(floats.as_mut_ptr())
    }

    pub(crate) fn at(&self, first: usize) -> *mut f32 {
        self.0.wrapping_add(first)
    }

    /// # Safety
    /// The floats lie in the slice, which is borrowed for `'a`, and nobody else uses them then.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub(crate) unsafe fn part<'a>(&self, range: Range<usize>) -> &'a mut [f32] {
        // SAFETY: what the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }

    /// # Safety
    /// The floats lie in the slice, which is borrowed for `'a`, and nobody writes them then.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn read<'a>(&self, range: Range<usize>) -> &'a [f32] {
        // SAFETY: what the caller promises.
        unsafe { std::slice::from_raw_parts(self.0.add(range.start), range.len()) }
    }
}
