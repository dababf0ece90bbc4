//! Where kernels come from: compiled for the CPU, or in plain Rust where one cannot be.

use crate::api::Failure;
use crate::options::{Cache, Options};
use qcc_codegen::{CodegenError, Jit};
use qcc_kernels::{Isa, KernelSource, OrScalar, Scalar};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Kernels, and what to tell the user about them. Clones share both.
#[derive(Clone)]
pub(crate) struct Kernels(Arc<Shared>);

struct Shared {
    source: Arc<OrScalar>,
    /// Why nothing does, if that was wished for.
    why: Option<String>,
    /// Whether the user knows that they are slow.
    told: AtomicBool,
}

impl Kernels {
    /// Those that a session asks for. Sessions that ask for nothing share theirs.
    ///
    /// # Errors
    /// An instruction set that was asked for by name, and that there are no kernels of.
    pub(crate) fn of(options: &Options) -> Result<Self, Failure> {
        static SHARED: Mutex<Option<Weak<Shared>>> = Mutex::new(None);
        if options.isa.is_some() || options.cache != Cache::OfUser {
            let kernels = Self::new(options);
            return match kernels.0.why.as_ref().filter(|_| options.isa.is_some()) {
                Some(why) => Err(Failure::wrong(why.clone())),
                None => Ok(kernels),
            };
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = shared.as_ref().and_then(Weak::upgrade) {
            return Ok(Self(kernels));
        }
        let kernels = Self::new(options);
        *shared = Some(Arc::downgrade(&kernels.0));
        Ok(kernels)
    }

    fn new(options: &Options) -> Self {
        let made = match options.isa {
            Some(Isa::Scalar) => Ok(None),
            _ => jit(options).map(Some),
        };
        let (source, why): (Arc<dyn KernelSource>, _) = match made {
            Ok(Some(jit)) => (Arc::new(jit), None),
            Ok(None) => (Arc::new(Scalar), None),
            Err(error) => (Arc::new(Scalar), Some(error.to_string())),
        };
        let source = Arc::new(OrScalar::new(source));
        Self(Arc::new(Shared { source, why, told: AtomicBool::new(false) }))
    }

    /// Where products find them.
    pub(crate) fn source(&self) -> Arc<dyn KernelSource> {
        Arc::<OrScalar>::clone(&self.0.source)
    }

    /// The instruction set that they are for.
    pub(crate) fn isa(&self) -> Isa {
        self.0.source.isa()
    }

    /// A line for the log, once: that kernels in plain Rust run, and why.
    pub(crate) fn news(&self) -> Option<String> {
        let Shared { source, why, told, .. } = &*self.0;
        let why = why.clone().or_else(|| source.why().map(ToString::to_string))?;
        let is_news = !told.swap(true, Ordering::Relaxed);
        is_news.then(|| format!("qcc: slow kernels in plain Rust: {why}"))
    }
}

/// Without LLVM there is none.
#[cfg(not(feature = "llvm"))]
fn jit(_: &Options) -> Result<Jit, CodegenError> {
    Jit::new()
}

#[cfg(feature = "llvm")]
fn jit(options: &Options) -> Result<Jit, CodegenError> {
    use qcc_codegen::KernelCache;
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
    Ok(match cache {
        Some(cache) => jit.with_cache(cache),
        None => jit,
    })
}
