//! The memory that a run holds, watched as long as it runs.
//!
//! A plan and a cap count anonymous memory: pages with no file behind them, in RAM or swapped out.
//! The kernel keeps no peak of that; `VmHWM` is one of all resident pages, those of mapped models and
//! of shared libraries among them. So it is read again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::Builder;
use std::time::Duration;

/// How often memory is read: what is held for less time may be missed.
const EVERY: Duration = Duration::from_millis(10);

/// Watches until it is dropped.
pub(super) struct Memory {
    most: Arc<AtomicU64>,
    /// Closed at the end, which ends the thread.
    _end: Sender<()>,
}

impl Memory {
    /// Begins to watch.
    pub(super) fn watch() -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let (end, ended) = channel::<()>();
        let seen = Arc::clone(&most);
        let look = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(EVERY) {
                seen.fetch_max(anonymous().unwrap_or(0), Ordering::Relaxed);
            }
        };
        // Without the thread, what is held at the end is all that is known.
        let _ = Builder::new().name("memory".to_owned()).stack_size(64 << 10).spawn(look);
        Self { most, _end: end }
    }

    /// The most so far, in bytes; `None` where the system does not tell.
    pub(super) fn peak(&self) -> Option<u64> {
        let now = anonymous()?;
        Some(self.most.fetch_max(now, Ordering::Relaxed).max(now))
    }
}

/// Anonymous memory of this process, in bytes; known on Linux.
fn anonymous() -> Option<u64> {
    of_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// From `/proc/PID/status`: anonymous pages in RAM and in swap.
fn of_status(text: &str) -> Option<u64> {
    let of = |name: &str| -> Option<u64> {
        let rest = text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    of("RssAnon")?.checked_add(of("VmSwap").unwrap_or(0))?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_do_not_count_and_swapped_pages_do() {
        let text = "VmHWM:\t  900 kB\nRssAnon:\t   70 kB\nRssFile:\t  500 kB\nVmSwap:\t    3 kB\n";
        assert_eq!(of_status(text), Some(73 << 10));
        assert_eq!(of_status("RssAnon:\t 7 kB\n"), Some(7 << 10));
        for text in ["", "VmHWM:\t 900 kB\n", "RssAnon:\t x kB\n", "RssAnon:\t 7\n"] {
            assert_eq!(of_status(text), None, "{text:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_freed_is_remembered() {
        const SIZE: usize = 64 << 20;
        let memory = Memory::watch();
        let before = memory.peak().unwrap();
        let held = vec![1u8; SIZE];
        // A busy machine may take its time to run the thread.
        for _ in 0..1000 {
            if memory.most.load(Ordering::Relaxed) >= before + SIZE as u64 / 2 {
                break;
            }
            std::thread::sleep(EVERY);
        }
        assert_eq!(held.iter().map(|it| usize::from(*it)).sum::<usize>(), SIZE);
        drop(held);
        let peak = memory.peak().unwrap();
        assert!(peak >= before + SIZE as u64 / 2, "{before} {peak}");
    }
}
