//! Buffers that are used again.
//!
//! A result of an operator lives until its last reader has run. Giving its memory to the next
//! result keeps the pages warm and the peak at the largest set that is alive at one time. Buffers
//! that fit nothing any more are dropped: those that are free hold at most what was alive at one
//! time, and the one that lay longest goes first.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::{DType, Tensor, TensorError};

/// A set of free f32 buffers. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<Free>>);

/// A free buffer, and the number of the return that brought it.
type Returned = (u64, Vec<f32>);

#[derive(Debug, Default)]
struct Free {
    /// By capacity, in the order of their returns.
    buffers: BTreeMap<usize, VecDeque<Returned>>,
    free_bytes: usize,
    returns: u64,
    alive_bytes: usize,
    peak_bytes: usize,
}

impl Pool {
    /// A buffer of `len` elements whose contents are arbitrary but initialised.
    ///
    /// # Errors
    /// When the system does not give that much memory.
    pub fn take(&self, len: usize) -> Result<Vec<f32>, TensorError> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that fits, unless it wastes more than half of itself.
        let fit = free.buffers.range(len..=len.saturating_mul(2)).next().map(|it| *it.0);
        if let Some(capacity) = fit {
            let mut buffer = free.remove(capacity, VecDeque::pop_back);
            free.lend(len);
            drop(free);
            buffer.resize(len, 0.0);
            return Ok(buffer);
        }
        drop(free);
        let full = |()| TensorError::Memory(len.saturating_mul(4));
        let buffer = bytemuck::allocation::try_zeroed_vec(len).map_err(full)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lend(len);
        Ok(buffer)
    }

    /// A tensor over a buffer, which comes back to the pool when its last clone is dropped.
    ///
    /// # Errors
    /// When the shape has another number of elements.
    pub fn tensor(&self, dims: Vec<usize>, buffer: Vec<f32>) -> Result<Tensor, TensorError> {
        if buffer.is_empty() {
            return Tensor::new(DType::F32, dims, Bytes::new());
        }
        let lease = Lease(Arc::new(Lent { buffer, pool: self.clone() }));
        Ok(Tensor::new(DType::F32, dims, lease.bytes())?.with_lease(lease))
    }

    /// The most bytes that were in use at one time.
    pub fn peak_bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).peak_bytes
    }

    fn give_back(&self, buffer: Vec<f32>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.alive_bytes = free.alive_bytes.saturating_sub(4 * buffer.len());
        free.free_bytes += 4 * buffer.capacity();
        free.returns += 1;
        let number = free.returns;
        free.buffers.entry(buffer.capacity()).or_default().push_back((number, buffer));
        let mut dropped = Vec::new();
        while free.free_bytes > free.peak_bytes {
            let oldest = |it: (&usize, &VecDeque<Returned>)| Some((it.1.front()?.0, *it.0));
            let Some((_, capacity)) = free.buffers.iter().filter_map(oldest).min() else { break };
            dropped.push(free.remove(capacity, VecDeque::pop_front));
        }
        drop(free);
        drop(dropped);
    }
}

impl Free {
    /// Counts a buffer of so many elements that is given out.
    fn lend(&mut self, len: usize) {
        self.alive_bytes = self.alive_bytes.saturating_add(4 * len);
        self.peak_bytes = self.peak_bytes.max(self.alive_bytes);
    }

    /// Takes one of the buffers of a capacity out.
    fn remove(
        &mut self,
        capacity: usize,
        which: fn(&mut VecDeque<Returned>) -> Option<Returned>,
    ) -> Vec<f32> {
        let Some(list) = self.buffers.get_mut(&capacity) else { return Vec::new() };
        let buffer = which(list).map(|it| it.1).unwrap_or_default();
        if list.is_empty() {
            self.buffers.remove(&capacity);
        }
        self.free_bytes = self.free_bytes.saturating_sub(4 * buffer.capacity());
        buffer
    }
}

#[derive(Debug)]
struct Lent {
    buffer: Vec<f32>,
    pool: Pool,
}

/// A buffer that is lent to a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Lease(Arc<Lent>);

impl Lease {
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }

    /// The buffer, if this is the only lease of it. It counts as in use until it is back.
    pub(crate) fn take(self) -> Result<Vec<f32>, Self> {
        let mut lent = Arc::try_unwrap(self.0).map_err(Self)?;
        Ok(mem::take(&mut lent.buffer))
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0.buffer)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.buffer.is_empty() {
            self.pool.give_back(mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_tensor_gives_its_buffer_to_the_next() {
        let pool = Pool::default();
        let buffer = pool.take(100).unwrap();
        let start = buffer.as_ptr();
        let tensor = pool.tensor(vec![10, 10], buffer).unwrap();
        let other = tensor.clone();
        drop(tensor);
        let second = pool.take(90).unwrap();
        assert_ne!(second.as_ptr(), start, "a clone still holds it");
        drop(other);
        let third = pool.take(90).unwrap();
        assert_eq!(third.as_ptr(), start);
    }

    #[test]
    fn the_only_owner_gets_the_buffer_back() {
        let pool = Pool::default();
        let mut buffer = pool.take(6).unwrap();
        buffer.fill(2.0);
        let start = buffer.as_ptr();
        let tensor = pool.tensor(vec![6], buffer).unwrap();
        let (other, bytes) = (tensor.reshape(vec![2, 3]).unwrap(), tensor.bytes().slice(4..8));
        let tensor = tensor.into_buffer().unwrap_err();
        assert_eq!(tensor, Tensor::vector(vec![2f32; 6]));
        drop(other);
        let tensor = tensor.into_buffer().unwrap_err();
        drop(bytes);
        let mut buffer = tensor.into_buffer().unwrap();
        assert_eq!((buffer.as_ptr(), buffer.len()), (start, 6));
        buffer[0] = 3.0;
        drop(pool.tensor(vec![6], buffer).unwrap());
        let again = pool.take(6).unwrap();
        assert_eq!(again.as_ptr(), start, "it went back to the pool");
        assert_eq!(pool.peak_bytes(), 24);
        assert!(Tensor::vector(vec![1f32]).into_buffer().is_err(), "it comes from no pool");
    }

    #[test]
    fn what_is_free_is_bounded_by_the_peak() {
        let pool = Pool::default();
        // A result that grows fits none of the buffers before it.
        for len in (1000..200_000).step_by(1000) {
            let buffer = pool.take(len).unwrap();
            drop(pool.tensor(vec![len], buffer).unwrap());
            let free = pool.0.lock().unwrap();
            assert!(free.free_bytes <= free.peak_bytes, "{} {}", free.free_bytes, free.peak_bytes);
            let held = free.buffers.values().flatten().map(|it| 4 * it.1.capacity());
            assert_eq!(held.sum::<usize>(), free.free_bytes);
        }
        // The last one is still there.
        assert!(pool.0.lock().unwrap().buffers.contains_key(&199_000));
    }

    #[test]
    fn what_the_system_does_not_give_is_an_error() {
        let pool = Pool::default();
        drop(pool.tensor(vec![100], pool.take(100).unwrap()).unwrap());
        for len in [usize::MAX, usize::MAX / 4, 1 << 60] {
            assert_eq!(pool.take(len), Err(TensorError::Memory(len.saturating_mul(4))));
        }
        assert_eq!(pool.peak_bytes(), 400, "nothing was lent");
        assert!(pool.take(100).is_ok());
    }

    #[test]
    fn peak_counts_what_is_alive_together() {
        let pool = Pool::default();
        for _ in 0..3 {
            let buffer = pool.take(1000).unwrap();
            drop(pool.tensor(vec![1000], buffer).unwrap());
        }
        assert_eq!(pool.peak_bytes(), 4000);
    }
}
