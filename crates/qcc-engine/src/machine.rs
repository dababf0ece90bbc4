//! What all products of a graph share: threads, and room for activations.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use qcc_kernels::{Activations, Threads};

/// Threads that do the work of products, and rooms for quantized activations, which are used again:
/// as many as there were runs at one time.
pub(crate) struct Machine {
    pub(crate) threads: Arc<dyn Threads + Send + Sync>,
    rooms: Mutex<Vec<Activations>>,
}

impl Machine {
    pub(crate) fn new(threads: Arc<dyn Threads + Send + Sync>) -> Self {
        Self { threads, rooms: Mutex::default() }
    }

    /// Calls `work` with a room that nobody else has meanwhile.
    pub(crate) fn with_room<R>(&self, work: impl FnOnce(&mut Activations) -> R) -> R {
        let free = self.rooms.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut room = free.unwrap_or_default();
        let result = work(&mut room);
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner).push(room);
        result
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("threads", &self.threads.threads()).finish_non_exhaustive()
    }
}
