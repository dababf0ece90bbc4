//! How a run tells that it goes on.

/// Who is told how far a run is. Calls may come from any thread.
pub trait Progress: Send + Sync {
    /// A stage of `total` steps begins; 0 when their number is not known.
    fn start(&self, stage: &str, total: u64);

    /// `n` more steps are done; `detail` names the last one.
    fn step(&self, n: u64, detail: &str);

    /// The stage is over.
    fn finish(&self);

    /// What is worth reading while the run goes on; `stage` is what it is about.
    fn say(&self, _stage: &str, _text: &str) {}
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _stage: &str, _total: u64) {}

    fn step(&self, _n: u64, _detail: &str) {}

    fn finish(&self) {}
}
