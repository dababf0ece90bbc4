//! Models on low-bit kernels: where kernels come from, and the graph that they run in.

use std::sync::Arc;

use qcc_codegen::{CodegenError, Jit};
use qcc_diag::{Diagnostic, codes};
use qcc_engine::{LowerError, LowerOptions, Report};
use qcc_kernels::{KernelSource, Planes, Pool, Scalar};
use qcc_pass::Cancel;

use crate::runner::Runner;
use crate::{Error, Model};

/// Kernels and threads for models that run.
#[derive(Clone)]
pub struct Kernels {
    /// Where kernels come from.
    pub source: Arc<dyn KernelSource>,
    /// Threads that products are shared among.
    pub threads: Arc<Pool>,
    /// What the user should know about them.
    pub notes: Vec<Diagnostic>,
}

impl Kernels {
    /// Kernels compiled for the CPU at hand and kept in the user's cache, on so many threads.
    /// Where they cannot be compiled, those in plain Rust, and a note.
    pub fn new(threads: usize) -> Self {
        let threads = Arc::new(Pool::new(threads.max(1)));
        match compiled() {
            Ok(jit) => Self { source: Arc::new(jit), threads, notes: Vec::new() },
            Err(error) => {
                let text = "products run on kernels in plain Rust, which are slow";
                let note = Diagnostic::warning(codes::QCC0609, text).with_note(error.to_string());
                Self { source: Arc::new(Scalar), threads, notes: vec![note] }
            }
        }
    }
}

/// Without LLVM there are none.
#[cfg(not(feature = "llvm"))]
fn compiled() -> Result<Jit, CodegenError> {
    Jit::new()
}

#[cfg(feature = "llvm")]
fn compiled() -> Result<Jit, CodegenError> {
    let jit = match qcc_codegen::KernelCache::of_user() {
        Some(cache) => Jit::new()?.with_cache(cache),
        None => Jit::new()?,
    };
    jit.ready()?;
    Ok(jit)
}

/// Makes a copy of a model that runs on kernels, and says what became of its products.
pub(crate) fn lowered(
    model: &Model,
    kernels: &Kernels,
    planes: Option<Planes>,
    cancel: &Cancel,
) -> Result<(Runner, Report), Error> {
    let mut runner = Runner::new(model, cancel)?.typed(cancel)?;
    let mut options = LowerOptions::new(Arc::clone(&kernels.source), kernels.threads.clone());
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
