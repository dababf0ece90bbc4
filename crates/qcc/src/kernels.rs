//! Models on low-bit kernels: where kernels come from, and the graph that they run in.

use std::sync::Arc;

use qcc_codegen::{CodegenError, Jit};
use qcc_diag::{Diagnostic, codes};
use qcc_engine::{LowerError, LowerOptions, Report};
use qcc_kernels::{KernelSource, OrScalar, Planes, Pool, Scalar};
use qcc_pass::Cancel;

use crate::runner::Runner;
use crate::{Error, Model};

/// Kernels and threads for models that run.
#[derive(Clone)]
pub struct Kernels {
    /// Where kernels come from.
    pub source: Arc<OrScalar>,
    /// Threads that products are shared among.
    pub threads: Arc<Pool>,
    /// Why none can be compiled at all.
    why: Option<CodegenError>,
}

impl Kernels {
    /// Kernels compiled for the CPU at hand and kept in the user's cache, on so many threads.
    /// Where one cannot be compiled, that in plain Rust, and a note.
    pub fn new(threads: usize) -> Self {
        match compiled() {
            Ok(jit) => Self::of(Arc::new(jit), threads),
            Err(error) => Self { why: Some(error), ..Self::scalar(threads) },
        }
    }

    /// Kernels in plain Rust, on so many threads.
    pub fn scalar(threads: usize) -> Self {
        Self::of(Arc::new(Scalar), threads)
    }

    fn of(source: Arc<dyn KernelSource>, threads: usize) -> Self {
        let threads = Arc::new(Pool::new(threads.max(1)));
        Self { source: Arc::new(OrScalar::new(source)), threads, why: None }
    }

    /// What the user should know about them so far: that a kernel cannot be compiled shows when it
    /// is first needed, which may be in the middle of a run. There is one note at most.
    pub fn notes(&self) -> Vec<Diagnostic> {
        let early = self.why.as_ref().map(ToString::to_string);
        let why = early.or_else(|| self.source.why().map(ToString::to_string));
        let text = "products run on kernels in plain Rust, which are slow";
        let note = |why| Diagnostic::warning(codes::QCC0609, text).with_note(why);
        why.map(note).into_iter().collect()
    }

    /// The instruction sets of the kernels that were used so far: `avx2`, say.
    pub fn isa(&self) -> String {
        self.source.isas().iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    }
}

/// Without LLVM there are none.
#[cfg(not(feature = "llvm"))]
fn compiled() -> Result<Jit, CodegenError> {
    Jit::new()
}

#[cfg(feature = "llvm")]
fn compiled() -> Result<Jit, CodegenError> {
    let jit = Jit::new()?;
    Ok(match qcc_codegen::KernelCache::of_user() {
        Some(cache) => jit.with_cache(cache),
        None => jit,
    })
}

/// Makes a copy of a model that runs on kernels, and says what became of its products.
pub(crate) fn lowered(
    model: &Model,
    kernels: &Kernels,
    planes: Option<Planes>,
    cancel: &Cancel,
) -> Result<(Runner, Report), Error> {
    let mut runner = Runner::new(model, cancel)?.typed(cancel)?;
    let mut options = LowerOptions::new(kernels.source.clone(), kernels.threads.clone());
    options.planes = planes;
    let report = runner.lower(&options).map_err(|it| failed(&it))?;
    Ok((runner, report))
}

fn failed(error: &LowerError) -> Error {
    let code = match error {
        LowerError::Pack { .. } => codes::QCC0502,
        LowerError::Patch(_) => codes::QCC0901,
    };
    Diagnostic::error(code, error.to_string()).into()
}
