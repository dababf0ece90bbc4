//! Where kernels come from: compiled for the CPU, or in plain Rust where that cannot be.

use crate::options::{Cache, Options};
use qcc_codegen::{CodegenError, Jit, KernelCache};
use qcc_kernels::{Isa, KernelSource, Scalar};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Kernels, and what to tell the user about them.
#[derive(Clone)]
pub(crate) struct Kernels {
    pub(crate) source: Arc<dyn KernelSource>,
    /// Why they are the slow ones, if they are.
    pub(crate) slow: Option<String>,
}

impl Kernels {
    /// Those that a session asks for. Sessions that ask for nothing share theirs.
    pub(crate) fn of(options: &Options) -> Self {
        static SHARED: Mutex<Option<Weak<dyn KernelSource>>> = Mutex::new(None);
        if options.isa.is_some() || options.cache != Cache::OfUser {
            return Self::new(options);
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = shared.as_ref().and_then(Weak::upgrade) {
            return Self { source, slow: None };
        }
        let kernels = Self::new(options);
        if kernels.slow.is_none() {
            *shared = Some(Arc::downgrade(&kernels.source));
        }
        kernels
    }

    fn new(options: &Options) -> Self {
        if options.isa == Some(Isa::Scalar) {
            return Self { source: Arc::new(Scalar), slow: None };
        }
        match compiled(options) {
            Ok(jit) => Self { source: Arc::new(jit), slow: None },
            Err(error) => Self { source: Arc::new(Scalar), slow: Some(error.to_string()) },
        }
    }
}

fn compiled(options: &Options) -> Result<Jit, CodegenError> {
    let jit = Jit::new()?;
    let jit = match options.isa {
        Some(isa) => jit.with_isa(isa)?,
        None => jit,
    };
    let cache = match &options.cache {
        Cache::OfUser => KernelCache::of_user(),
        Cache::Off => None,
        Cache::Folder(folder) => Some(KernelCache::new(folder)),
    };
    let jit = match cache {
        Some(cache) => jit.with_cache(cache),
        None => jit,
    };
    jit.ready()?;
    Ok(jit)
}
