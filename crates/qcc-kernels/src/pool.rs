//! Threads that share the work of one call at a time.
//!
//! A job is open while its caller works on it. Workers and caller claim parts of it from one
//! counter; a worker that comes late finds nothing to claim. The caller waits for claimed parts
//! only, never for a worker to wake up. Workers spin for half a millisecond, then sleep.
//!
//! A product of one row takes 10 to 100 microseconds, which is what pools for general use take to
//! start a job.

use crate::threads::claim;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};

/// State of a pool: jobs so far from bit 16, whether one is open, how many workers are in it.
const OPEN: u64 = 1 << 15;
const JOB: u64 = 1 << 16;

/// Looks at the state before a worker sleeps: about half a millisecond.
const SPINS: u32 = 40_000;

/// Of these so many without a look at who else wants the CPU. Between jobs other threads compute,
/// such as those of operators that are no products; from here on they go first.
const HARD: u32 = SPINS / 16;

/// Spins between two looks.
const YIELD: u32 = 32;

/// What is to be done with a range of a job.
type Work<'a> = dyn Fn(Range<usize>) + Sync + 'a;

/// Threads for jobs. Several callers may have a job at a time: one of them has the workers.
pub struct Pool {
    shared: Arc<Shared>,
    threads: usize,
    /// Started at the first job.
    workers: OnceLock<Vec<Worker>>,
    /// Held by the caller of the open job: the CPU that the workers keep away from.
    caller: Mutex<cpus::Home>,
}

struct Worker {
    handle: JoinHandle<()>,
    own: Arc<Own>,
}

/// What a worker tells of itself.
#[derive(Default)]
struct Own {
    asleep: AtomicBool,
    id: cpus::Id,
}

struct Shared {
    state: AtomicU64,
    next: AtomicUsize,
    job: UnsafeCell<Job>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// The open job.
#[derive(Clone, Copy)]
struct Job {
    total: usize,
    threads: usize,
    work: Option<*const Work<'static>>,
}

// SAFETY: `job` is written while no job is open and no worker is in one, and read by workers in
// an open job only.
#[allow(unsafe_code)]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

impl Pool {
    /// A pool of `threads`, the caller being one of them.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let job = Job { total: 0, threads: 1, work: None };
        Self {
            shared: Arc::new(Shared {
                state: AtomicU64::new(0),
                next: AtomicUsize::new(0),
                job: UnsafeCell::new(job),
                panicked: AtomicBool::new(false),
                stop: AtomicBool::new(false),
            }),
            // The state counts workers in 15 bits.
            threads: threads.clamp(1, 1 << 14),
            workers: OnceLock::new(),
            caller: Mutex::default(),
        }
    }

    /// Threads, with the caller.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Does all of `0..total`, in ranges on several threads. If the workers are with another
    /// caller, or this is within a job, then on this thread.
    ///
    /// # Panics
    /// If `work` does, on any thread, when all ranges are done.
    pub fn run(&self, total: usize, work: &Work<'_>) {
        if self.threads < 2 || total < 2 {
            return work(0..total);
        }
        let Ok(mut home) = self.caller.try_lock() else {
            return work(0..total);
        };
        let workers = self.workers.get_or_init(|| self.start());
        home.keep(workers.iter().map(|worker| &worker.own.id));
        let job = Job { total, threads: self.threads, work: Some(erase(work)) };
        let shared = &*self.shared;
        // SAFETY: no job is open, and the caller is the only one that opens them.
        #[allow(unsafe_code)]
        unsafe {
            *shared.job.get() = job;
        }
        shared.next.store(0, Ordering::Relaxed);
        let jobs = (shared.state.load(Ordering::Relaxed) / JOB).wrapping_add(1);
        shared.state.store(jobs.wrapping_mul(JOB) | OPEN, Ordering::SeqCst);
        for worker in workers {
            if worker.own.asleep.load(Ordering::SeqCst) {
                worker.handle.thread().unpark();
            }
        }
        // Closes the job also if the work panics here.
        let closed = Close(shared, jobs);
        shared.work(job, work);
        drop(closed);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a part of a job panicked");
    }

    fn start(&self) -> Vec<Worker> {
        let start = |number| {
            let (shared, own) = (Arc::clone(&self.shared), Arc::new(Own::default()));
            let its = Arc::clone(&own);
            let body = move || {
                its.id.tell();
                shared.serve(&its.asleep);
            };
            let handle = thread::Builder::new().name(format!("qcc-{number}")).spawn(body).ok()?;
            Some(Worker { handle, own })
        };
        // Without threads the caller does it all.
        (1..self.threads).map_while(start).collect()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.take().unwrap_or_default() {
            worker.handle.thread().unpark();
            // A worker catches panics of its work.
            let _ = worker.handle.join();
        }
    }
}

/// Hides that the work is borrowed.
fn erase(work: &Work<'_>) -> *const Work<'static> {
    // SAFETY: a change of a lifetime only. `Pool::run` does not return, nor unwind, before the
    // job is closed, and nobody calls the work later.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work)
    }
}

/// Closes job number `.1`: waits until no worker is in it.
struct Close<'a>(&'a Shared, u64);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let open = self.1.wrapping_mul(JOB) | OPEN;
        // Nothing is left to claim if this is a panic.
        self.0.next.store(usize::MAX, Ordering::Relaxed);
        while self
            .0
            .state
            .compare_exchange_weak(open, open & !OPEN, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            std::hint::spin_loop();
        }
    }
}

impl Shared {
    /// The life of a worker.
    fn serve(&self, asleep: &AtomicBool) {
        let mut seen = u64::MAX;
        let fresh = |state: u64, seen| state & OPEN != 0 && state / JOB != seen;
        loop {
            let mut spins = 0;
            let mut state = self.state.load(Ordering::Acquire);
            while !fresh(state, seen) {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                if spins < SPINS {
                    spins += 1;
                    if spins > HARD && spins % YIELD == 0 {
                        thread::yield_now();
                    } else {
                        std::hint::spin_loop();
                    }
                } else {
                    asleep.store(true, Ordering::SeqCst);
                    // Whoever opens a job from here on sees that this worker sleeps.
                    let opened = fresh(self.state.load(Ordering::SeqCst), seen);
                    if !opened && !self.stop.load(Ordering::SeqCst) {
                        thread::park();
                    }
                    asleep.store(false, Ordering::SeqCst);
                    spins = 0;
                }
                state = self.state.load(Ordering::Acquire);
            }
            let entered = state + 1;
            let enter =
                self.state.compare_exchange(state, entered, Ordering::AcqRel, Ordering::Relaxed);
            if enter.is_err() {
                continue;
            }
            seen = state / JOB;
            // SAFETY: the job is open and stays so while this worker is in it.
            #[allow(unsafe_code)]
            let job = unsafe { *self.job.get() };
            if let Some(work) = job.work {
                // SAFETY: as above: the caller keeps the work.
                #[allow(unsafe_code)]
                let work = unsafe { &*work };
                if catch_unwind(AssertUnwindSafe(|| self.work(job, work))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.state.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Claims and does parts until none are left.
    fn work(&self, job: Job, work: &Work<'_>) {
        let mut at = self.next.load(Ordering::Relaxed);
        while at < job.total {
            let count = claim(job.total, job.threads, at);
            match self.next.compare_exchange_weak(
                at,
                at + count,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    work(at..at + count);
                    at = self.next.load(Ordering::Relaxed);
                }
                Err(now) => at = now,
            }
        }
    }
}

/// On which CPUs workers run: on those that the caller does not. A worker that wakes up beside the
/// caller would share a core with it for milliseconds.
#[cfg(target_os = "linux")]
mod cpus {
    use rustix::thread::{Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};
    use std::sync::OnceLock;

    /// The CPU that workers keep away from, and how many workers do.
    #[derive(Default)]
    pub(super) struct Home(Option<usize>, usize);

    /// A thread, once it has told.
    #[derive(Default)]
    pub(super) struct Id(OnceLock<Pid>);

    impl Id {
        /// Called by the thread itself.
        pub(super) fn tell(&self) {
            self.0.get_or_init(gettid);
        }
    }

    impl Home {
        /// Keeps the workers away from the CPU that this thread runs on.
        pub(super) fn keep<'a>(&mut self, workers: impl Iterator<Item = &'a Id> + Clone) {
            let here = sched_getcpu();
            let ids = workers.filter_map(|it| it.0.get());
            // Workers that have just started tell who they are a little later.
            let known = ids.clone().count();
            if self.0 == Some(here) && self.1 == known {
                return;
            }
            *self = Self(Some(here), known);
            let Ok(mut set) = sched_getaffinity(None) else { return };
            set.unset(here);
            if set.count() > 0 {
                for &id in ids {
                    // A worker that cannot be kept away is slower, no more.
                    let _ = sched_setaffinity(Some(id), &set);
                }
            }
        }
    }
}

/// Elsewhere threads run where the system puts them.
#[cfg(not(target_os = "linux"))]
mod cpus {
    #[derive(Default)]
    pub(super) struct Home;

    #[derive(Default)]
    pub(super) struct Id;

    impl Id {
        pub(super) fn tell(&self) {}
    }

    impl Home {
        pub(super) fn keep<'a>(&mut self, _: impl Iterator<Item = &'a Id> + Clone) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn count(pool: &Pool, total: usize) {
        let counts: Vec<AtomicUsize> = (0..total).map(|_| AtomicUsize::new(0)).collect();
        pool.run(total, &|range| {
            for count in &counts[range] {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(counts.iter().all(|it| it.load(Ordering::Relaxed) == 1), "{total}");
    }

    #[test]
    fn every_part_is_done_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads);
            for round in 0..200 {
                for total in [0, 1, 2, 3, 31, 32, 33, 1000] {
                    count(&pool, total);
                }
                if round % 100 == 0 {
                    // Let the workers fall asleep.
                    thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    #[test]
    fn callers_share_a_pool_and_jobs_nest() {
        let pool = Pool::new(2);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..200).for_each(|_| count(&pool, 100)));
            }
        });
        pool.run(10, &|_| count(&pool, 10));
    }

    #[test]
    fn a_late_worker_delays_nobody() {
        // 40 threads on few CPUs: most never get in.
        let pool = Pool::new(40);
        (0..50).for_each(|_| count(&pool, 500));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in [0, 99] {
            let run = || pool.run(100, &|range| assert!(!range.contains(&bad)));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            count(&pool, 100);
        }
    }
}
