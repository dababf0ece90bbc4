//! Kernels compiled before they are needed, by a thread beside all others.
//!
//! Opening a session waits for no compiler. Kernels that are not in the folder come into a line,
//! those for one row first, and a thread asks for one after the other until the line is empty. A
//! run that needs one asks for it itself: it gets what is there, waits for what the thread is
//! at, or compiles what still is in the line. Which of them it is changes no bit of a result.
//!
//! A line serves all sessions. When a session goes, its kernels are still compiled, for the
//! folder. When the process ends, the thread ends before what it uses does, with the first kernel
//! at the earliest: so short processes fill the folder as well, one after the other.

use qcc_kernels::{KernelSource, KernelSpec, OrScalar};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

static LINE: Mutex<Line> =
    Mutex::new(Line { jobs: BTreeMap::new(), asked: 0, begun: 0, worker: None, closed: false });

/// A tenth of the share of a thread that competes with this one: whoever waits for a kernel on a
/// machine that is busy still gets it.
#[cfg(target_os = "linux")]
const NICE: c_int = 10;

/// The thread has ended.
static ENDED: Condvar = Condvar::new();

struct Line {
    /// By their turn.
    jobs: BTreeMap<Turn, Job>,
    /// So many jobs there were.
    asked: u64,
    /// So many of them the thread has taken.
    begun: u64,
    /// The process that has a thread for it. A fork has the number and no thread.
    worker: Option<u32>,
    /// The process ends.
    closed: bool,
}

/// One row is first needed, then whole blocks, then rests; what was asked for first comes first.
type Turn = (u8, u64);

struct Job {
    source: Arc<OrScalar>,
    spec: KernelSpec,
}

/// Has a kernel compiled. Whoever needs it hears of an error.
pub(crate) fn ask(source: &Arc<OrScalar>, spec: KernelSpec) {
    let mut line = line();
    if line.closed {
        return;
    }
    let turn = (turn(spec.rows), line.asked);
    line.asked += 1;
    line.jobs.insert(turn, Job { source: Arc::clone(source), spec });
    if line.worker.is_none() {
        // Without a thread kernels are compiled when they are needed.
        match thread::Builder::new().name("qcc-kernels".into()).spawn(work) {
            Ok(_) => line.worker = Some(process::id()),
            Err(_) => line.jobs.clear(),
        }
    }
}

fn turn(rows: u8) -> u8 {
    if rows == 1 { 0 } else { KernelSpec::MOST_ROWS - rows + 1 }
}

fn line() -> MutexGuard<'static, Line> {
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work() {
    /// Also behind a panic somebody may have to wait no longer.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            line().worker = None;
            ENDED.notify_all();
        }
    }
    let end = End;
    give_way();
    // What is loaded now is there when the process is told to wait.
    let _ = qcc_codegen::llvm_version();
    wait_at_exit();
    while let Some(Job { source, spec }) = next() {
        let _ = source.kernel(&spec);
        wait_at_exit();
    }
    // `next` has seen to it that there is another thread for what comes.
    std::mem::forget(end);
}

/// Lets the session be opened and run first: this thread takes what cores others leave.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        #[allow(unsafe_code)]
        unsafe extern "C" {
            safe fn setpriority(which: c_uint, who: c_uint, nice: c_int) -> c_int;
        }
        // PRIO_PROCESS of 0 is the calling thread, here only.
        setpriority(0, 0, NICE);
    }
}

/// The next job. When there is none, the thread counts no more.
fn next() -> Option<Job> {
    let mut line = line();
    let job = line.jobs.pop_first().map(|it| it.1);
    match job {
        Some(_) => line.begun += 1,
        None => {
            line.worker = None;
            ENDED.notify_all();
        }
    }
    job
}

/// Has the process wait for the thread before it takes down what has been set up so far: that
/// goes from the last to the first. LLVM sets up more with each thing it does for the first time.
fn wait_at_exit() {
    #[allow(unsafe_code)]
    unsafe extern "C" {
        safe fn atexit(call: extern "C" fn()) -> c_int;
    }
    atexit(close);
}

extern "C" fn close() {
    let mut line = line();
    line.closed = true;
    let left = usize::from(line.begun == 0);
    while line.jobs.len() > left {
        line.jobs.pop_last();
    }
    while line.worker == Some(process::id()) {
        line = ENDED.wait(line).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_kernels::{Isa, Kernel, KernelError, Scalar};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// Says what it is asked for, and then waits until it may answer.
    struct Told(SyncSender<u8>, Mutex<Receiver<()>>);

    impl KernelSource for Told {
        fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, KernelError> {
            self.0.send(spec.rows).expect("somebody listens");
            let _ = self.1.lock().expect("one thread").recv();
            Scalar.kernel(spec)
        }

        fn isa(&self) -> Isa {
            Isa::Scalar
        }
    }

    #[test]
    fn one_row_comes_first_and_the_thread_ends_before_the_process() {
        let spec = |rows: u8| -> KernelSpec {
            format!("qcc_mm_b4_g32_m{rows}_t1_f32_a8_scalar").parse().expect("a spec")
        };
        let ((tell, told), (go, may)) = (sync_channel(9), sync_channel(9));
        let source = Arc::new(OrScalar::new(Arc::new(Told(tell, Mutex::new(may)))));
        ask(&source, spec(2));
        assert_eq!(told.recv(), Ok(2), "nothing else is there yet");
        (1..=6).for_each(|rows| ask(&source, spec(rows)));
        drop((source, go));
        let rest: Vec<u8> = told.iter().collect();
        assert_eq!(rest, [1, 6, 5, 4, 3, 2], "until nobody has the source any more");
        let (tell, told) = sync_channel(9);
        let (go, may) = sync_channel(9);
        let source = Arc::new(OrScalar::new(Arc::new(Told(tell, Mutex::new(may)))));
        (1..=6).for_each(|rows| ask(&source, spec(rows)));
        assert_eq!(told.recv(), Ok(1));
        thread::scope(|scope| {
            let ends = scope.spawn(|| close());
            while !line().closed {
                thread::yield_now();
            }
            assert!(!ends.is_finished(), "it waits for what the thread is at");
            drop(go);
        });
        assert!(line().worker.is_none() && line().jobs.is_empty());
        ask(&source, spec(1));
        assert!(line().jobs.is_empty(), "a process that ends begins nothing");
        drop(source);
        assert_eq!(told.iter().count(), 0, "what was left is left");
    }
}
