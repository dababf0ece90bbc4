//! Threads of a session of ONNX Runtime.
//!
//! Products run on them rather than on threads of their own: those of the session spin for a
//! while after each of its operators, and would share cores with ours.

use crate::api::{Api, ort};
use ort_sys::OrtKernelContext;
use qcc_kernels::{Threads, claim};
use std::ffi::c_void;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The threads of the session that runs an operator.
pub(crate) struct Host<'a> {
    api: &'a Api,
    context: *const OrtKernelContext,
    threads: usize,
}

// SAFETY: the context is used by the thread that runs the operator, to start jobs.
unsafe impl Sync for Host<'_> {}

impl<'a> Host<'a> {
    /// Those of a running operator. `threads`: how many there may be; more than there are do no
    /// harm.
    pub(crate) fn new(api: &'a Api, context: *const OrtKernelContext, threads: usize) -> Self {
        Self { api, context, threads: threads.max(1) }
    }
}

/// A job; threads claim parts of it.
struct Job<'a> {
    total: usize,
    threads: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
    work: &'a (dyn Fn(Range<usize>) + Sync),
}

impl Job<'_> {
    fn work(&self) {
        let mut at = self.next.load(Ordering::Relaxed);
        while at < self.total {
            let end = at + claim(self.total, self.threads, at);
            match self.next.compare_exchange_weak(at, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    if catch_unwind(AssertUnwindSafe(|| (self.work)(at..end))).is_err() {
                        self.panicked.store(true, Ordering::Relaxed);
                    }
                    at = self.next.load(Ordering::Relaxed);
                }
                Err(now) => at = now,
            }
        }
    }
}

/// What each thread of the session calls.
unsafe extern "C" fn part(job: *mut c_void, _: usize) {
    // SAFETY: `Host::run` passes a job and outlives the calls.
    if let Some(job) = unsafe { job.cast::<Job<'_>>().as_ref() } {
        job.work();
    }
}

impl Threads for Host<'_> {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, total: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        let threads = self.threads.min(total);
        if threads < 2 {
            return work(0..total);
        }
        let (next, panicked) = (AtomicUsize::new(0), AtomicBool::new(false));
        let job = Job { total, threads, next, panicked, work };
        let data = (&raw const job).cast_mut().cast();
        // A session that does not lend its threads leaves all parts to this one.
        let _ = ort!(self.api, KernelContext_ParallelFor(self.context, part, threads, 0, data));
        job.work();
        assert!(!job.panicked.load(Ordering::Relaxed), "a part of a product panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn parts_of_a_job_are_done_once_and_panics_are_kept() {
        let done = Mutex::new(vec![0; 100]);
        let work = |range: Range<usize>| {
            assert!(!range.contains(&99), "the last part");
            done.lock().unwrap()[range].iter_mut().for_each(|it| *it += 1);
        };
        let (next, panicked) = (AtomicUsize::new(0), AtomicBool::new(false));
        let job = Job { total: 100, threads: 2, next, panicked, work: &work };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| job.work());
            }
        });
        assert!(job.panicked.load(Ordering::Relaxed));
        let done = done.lock().unwrap();
        assert!(done[..90].iter().all(|it| *it == 1) && done[99] == 0);
    }
}
