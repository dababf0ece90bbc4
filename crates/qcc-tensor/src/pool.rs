//! Buffers that are used again.
//!
//! A result of an operator lives until its last reader has run. Giving its memory to the next
//! result keeps the pages warm and the peak at the largest set that is alive at one time.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::{DType, Tensor, TensorError};

/// A set of free f32 buffers. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Free>>);

#[derive(Debug, Default)]
struct Free {
    /// By capacity.
    buffers: BTreeMap<usize, Vec<Vec<f32>>>,
    alive_bytes: usize,
    peak_bytes: usize,
}

impl Pool {
    /// A buffer of `len` elements whose contents are arbitrary but initialised.
    pub fn take(&self, len: usize) -> Vec<f32> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.alive_bytes += 4 * len;
        free.peak_bytes = free.peak_bytes.max(free.alive_bytes);
        // The smallest that fits, unless it wastes more than half of itself.
        let fit = free.buffers.range(len..=len.saturating_mul(2)).next().map(|it| *it.0);
        let Some(capacity) = fit else {
            drop(free);
            return vec![0.0; len];
        };
        let mut last = None;
        if let Some(list) = free.buffers.get_mut(&capacity) {
            last = list.pop();
            if list.is_empty() {
                free.buffers.remove(&capacity);
            }
        }
        drop(free);
        let mut buffer = last.unwrap_or_default();
        buffer.resize(len, 0.0);
        buffer
    }

    /// A tensor over a buffer, which comes back to the pool when its last clone is dropped.
    ///
    /// # Errors
    /// When the shape has another number of elements.
    pub fn tensor(&self, dims: Vec<usize>, buffer: Vec<f32>) -> Result<Tensor, TensorError> {
        let bytes = if buffer.is_empty() {
            Bytes::new()
        } else {
            Bytes::from_owner(Lent { buffer, pool: self.clone() })
        };
        Tensor::new(DType::F32, dims, bytes)
    }

    /// The most bytes that were in use at one time.
    pub fn peak_bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).peak_bytes
    }

    fn give_back(&self, buffer: Vec<f32>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.alive_bytes = free.alive_bytes.saturating_sub(4 * buffer.len());
        free.buffers.entry(buffer.capacity()).or_default().push(buffer);
    }
}

struct Lent {
    buffer: Vec<f32>,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.buffer)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_tensor_gives_its_buffer_to_the_next() {
        let pool = Pool::default();
        let buffer = pool.take(100);
        let start = buffer.as_ptr();
        let tensor = pool.tensor(vec![10, 10], buffer).unwrap();
        let other = tensor.clone();
        drop(tensor);
        let second = pool.take(90);
        assert_ne!(second.as_ptr(), start, "a clone still holds it");
        drop(other);
        let third = pool.take(90);
        assert_eq!(third.as_ptr(), start);
    }

    #[test]
    fn peak_counts_what_is_alive_together() {
        let pool = Pool::default();
        for _ in 0..3 {
            let buffer = pool.take(1000);
            drop(pool.tensor(vec![1000], buffer).unwrap());
        }
        assert_eq!(pool.peak_bytes(), 4000);
    }
}
