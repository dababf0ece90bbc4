//! What a run brings along: passed in, never global.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use qcc_ir::Graph;
use qcc_tensor::{Pool, Store};

use crate::{PassError, Pipeline, Progress, Record, Rng, SampleSource, Silent, WorkDir};

/// What a run brings along. Two runs with equal sessions give equal bytes; `threads`, `progress`,
/// `pool`, `store` and `work_dir` never change the result.
#[derive(Clone)]
pub struct Session {
    /// Seed of all random numbers.
    pub seed: u64,
    /// How many threads may work.
    pub threads: usize,
    /// Cap on memory, in bytes.
    pub max_mem: Option<u64>,
    /// Memory that the machine has to spare, in bytes; `None` where it does not tell.
    pub free_mem: Option<u64>,
    /// When the run began: a time that is given for all of it counts from here.
    pub began: Instant,
    /// Largest constant that folding may make where it makes the model grow, in bytes.
    pub fold_limit: usize,
    /// Calibration samples.
    pub samples: Option<Arc<dyn SampleSource>>,
    /// Samples made without data, random token ids say, for passes that need activations when there
    /// are no calibration samples. `None` for a model that qcc cannot make them for.
    pub pseudo_samples: Option<Arc<dyn SampleSource>>,
    /// Text that the model writes itself, made when first asked for, or what stands in for it. To
    /// make it costs more than to run it. `None` as above, and where nobody wants it.
    pub own_text: Option<Arc<dyn SampleSource>>,
    /// Passes over the copy of a graph that is made to be run; none leave it as it is. See
    /// [`WorkingCopy`](crate::WorkingCopy).
    pub working_copy: Pipeline,
    /// What a graph goes through before it is differentiated, beside the one that is written.
    pub tuning_copy: Pipeline,
    /// Tells how large the file of a graph would be, for passes that choose what fits in a size.
    /// `None` where nobody can tell.
    pub file_size: Option<Arc<dyn FileSize>>,
    /// Who is told how far the run is.
    pub progress: Arc<dyn Progress>,
    /// Set when the run is to stop.
    pub cancel: Cancel,
    /// Version of the default operator set that the model imports.
    pub opset: i64,
    /// Name and version of the tool that wrote the model; empty where it does not tell.
    pub producer: String,
    /// Where work that can be taken up again is kept.
    pub work_dir: Option<WorkDir>,
    /// Where buffers for results come from.
    pub pool: Pool,
    /// Where results that stay until the end of the run are kept.
    pub store: Store,
}

impl Session {
    /// Random numbers for one purpose. They depend on the seed and the purpose only, so that one
    /// pass more does not shift the numbers of another; the same purpose gives the same numbers.
    pub fn rng(&self, purpose: &str) -> Rng {
        Rng::new(self.seed, purpose)
    }
}

impl Default for Session {
    /// One thread, seed 0, no samples, no cap, opset 21, and folding of constants up to 64 KiB.
    fn default() -> Self {
        Self {
            seed: 0,
            threads: 1,
            max_mem: None,
            free_mem: None,
            began: Instant::now(),
            fold_limit: 64 << 10,
            samples: None,
            pseudo_samples: None,
            own_text: None,
            working_copy: Pipeline::default(),
            tuning_copy: Pipeline::default(),
            file_size: None,
            progress: Arc::new(Silent),
            cancel: Cancel::default(),
            opset: 21,
            producer: String::new(),
            work_dir: None,
            pool: Pool::default(),
            store: Store::default(),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("seed", &self.seed)
            .field("threads", &self.threads)
            .field("max_mem", &self.max_mem)
            .field("fold_limit", &self.fold_limit)
            .field("samples", &self.samples.as_ref().map(|it| it.describe()))
            .field("opset", &self.opset)
            .field("work_dir", &self.work_dir.as_ref().map(WorkDir::folder))
            .finish_non_exhaustive()
    }
}

/// How large the file of a graph would be.
pub trait FileSize: Send + Sync {
    /// Bytes of the file and its data files if the rest of the pipeline ran over `graph`, of which
    /// `record` tells so far. Numbers are chosen by the quickest means: the size does not depend on
    /// them.
    ///
    /// # Errors
    /// When the rest of the pipeline fails.
    fn size_bytes(&self, graph: &Graph, record: &Record) -> Result<u64, PassError>;
}

/// A flag that asks a run to stop. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the run to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl From<Arc<AtomicBool>> for Cancel {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_go_to_any_thread() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Session>();
        is_shared::<crate::Pipeline>();
        is_shared::<crate::Record>();
    }

    #[test]
    fn clones_share_the_flag() {
        let flag = Arc::new(AtomicBool::new(false));
        let session = Session { cancel: Cancel::from(flag.clone()), ..Session::default() };
        let clone = session.clone();
        assert!(!clone.cancel.is_set());
        flag.store(true, Ordering::Relaxed);
        assert!(clone.cancel.is_set() && session.cancel.is_set());
    }

    #[test]
    fn purposes_have_their_own_numbers() {
        let session = Session { seed: 5, threads: 8, ..Session::default() };
        let other = Session { seed: 5, threads: 1, ..Session::default() };
        assert_eq!(session.rng("a").u64(), other.rng("a").u64());
        assert_ne!(session.rng("a").u64(), session.rng("b").u64());
    }
}
