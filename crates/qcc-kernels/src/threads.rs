//! What shares the work of a product among threads.
//!
//! That is a [`Pool`], or the threads of a program that this library is part of.

use crate::pool::Pool;
use std::ops::Range;
use std::sync::Arc;

/// Does the parts of a job on some threads.
pub trait Threads: Sync {
    /// How many there are, with the caller. More parts than threads are worth nothing.
    fn threads(&self) -> usize;

    /// Does all of `0..total`, in ranges on several threads, each number once, and returns when
    /// all are done.
    ///
    /// # Panics
    /// If `work` does, on any thread, when all ranges are done.
    fn run(&self, total: usize, work: &(dyn Fn(Range<usize>) + Sync));
}

/// The calling thread.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Threads for Alone {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, total: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        work(0..total);
    }
}

impl Threads for Pool {
    fn threads(&self) -> usize {
        Pool::threads(self)
    }

    fn run(&self, total: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        Pool::run(self, total, work);
    }
}

impl<T: Threads + Send + ?Sized> Threads for Arc<T> {
    fn threads(&self) -> usize {
        T::threads(self)
    }

    fn run(&self, total: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        T::run(self, total, work);
    }
}

/// How much of a job of `total` parts a thread should claim when all before `at` is claimed: 15
/// of 16 parts are shared out equally, since each claim starts reading at a new place; the rest
/// goes to whoever is early.
#[must_use]
pub fn claim(total: usize, threads: usize, at: usize) -> usize {
    let rest = total.saturating_sub(at);
    let first = (15 * total / (16 * threads.max(1))).max(1);
    let count = if at < first.saturating_mul(threads) { first } else { rest / threads.max(1) };
    count.max(1).min(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_end_and_fall() {
        for (total, threads) in [(2, 2), (48, 2), (64, 2), (7, 3), (448, 16), (5, 64)] {
            let (mut at, mut claims) = (0, Vec::new());
            while at < total {
                claims.push(claim(total, threads, at));
                at += claim(total, threads, at);
            }
            assert_eq!(at, total);
            assert!(claims.is_sorted_by(|a, b| a >= b), "{claims:?}");
        }
        let of = |at| claim(64, 2, at);
        assert_eq!((of(0), of(30), of(60), of(62), of(64), of(99)), (30, 30, 2, 1, 0, 0));
    }

    #[test]
    fn all_parts_are_done() {
        let count = |threads: &dyn Threads| {
            let done = std::sync::atomic::AtomicUsize::new(0);
            threads.run(100, &|range| {
                done.fetch_add(range.sum(), std::sync::atomic::Ordering::Relaxed);
            });
            done.into_inner()
        };
        assert_eq!(
            [count(&Alone), count(&Pool::new(2)), count(&Arc::new(Pool::new(3)))],
            [4950; 3]
        );
        assert_eq!((Alone.threads(), Arc::new(Pool::new(3)).threads()), (1, 3));
    }
}
