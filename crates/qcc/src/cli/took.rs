//! What a run is expected to take, and what it took.

use std::time::{Duration, Instant};

use qcc_report::{Environment, RunRecord, bytes};

use super::memory::Memory;

/// The beginning of a run; its memory is watched from there on.
pub(super) struct Begin {
    start: Instant,
    memory: Memory,
}

impl Begin {
    /// A run begins.
    pub(super) fn now() -> Self {
        Self { start: Instant::now(), memory: Memory::watch() }
    }

    /// What the run took so far.
    pub(super) fn environment(&self, threads: Option<usize>) -> Environment {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        Environment {
            seconds: self.start.elapsed().as_secs_f64(),
            peak_memory_bytes: self.memory.peak(),
            threads: threads.unwrap_or_else(all),
        }
    }
}

/// Lines of a run that writes nothing: a label and its text.
pub(super) fn expected(record: &RunRecord, cap: Option<u64>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let at_most = cap.map_or(String::new(), |it| format!(", at most {}", bytes(it)));
    match &record.estimate {
        Some(it) => {
            let model = bytes(record.bytes_before);
            let memory = bytes(it.memory_bytes);
            lines.push(("memory", format!("{memory} beside the model of {model}{at_most}")));
            if let Some(seconds) = it.seconds {
                let time = Duration::from_secs(seconds.ceil() as u64);
                let time = humantime::format_duration(time);
                let has_probed = |name: &str| record.passes.iter().any(|it| it.name == name);
                let of = match (has_probed("probe-blocks"), has_probed("probe-scales")) {
                    (true, true) => "blocks and scales",
                    (false, true) => "scales",
                    _ => "blocks",
                };
                lines.push(("time", format!("{time} of tuning of {of}")));
            }
        }
        None if cap.is_some() => lines.push(("memory", at_most.replacen(", ", "", 1))),
        None => {}
    }
    lines
}

/// The end of a run: how long it took, and what memory, beside what was planned if anything was.
pub(super) fn line(record: &RunRecord, begin: &Begin) -> String {
    let seconds = begin.start.elapsed().as_secs_f64();
    let Some(peak) = begin.memory.peak() else { return format!("written in {seconds:.1} s") };
    let planned = record.estimate.as_ref().map_or(String::new(), |it| {
        format!(" (planned {} beside the model)", bytes(it.memory_bytes))
    });
    format!("written in {seconds:.1} s, {} of memory{planned}", bytes(peak))
}
