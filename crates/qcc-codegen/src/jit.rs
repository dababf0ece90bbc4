//! Kernels compiled while the program runs.

use crate::cache::KernelCache;
use crate::emit;
use crate::engine::Engine;
use crate::{CodegenError, Target};
use qcc_kernels::{Isa, Kernel, KernelError, KernelSource, KernelSpec};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Compiles kernels for the CPU at hand, each when it is first asked for, and keeps them.
///
/// Any number of threads may ask; different kernels are compiled at the same time. Pointers to
/// kernels are valid as long as the `Jit` is.
pub struct Jit {
    target: Target,
    isa: Isa,
    cache: Option<KernelCache>,
    kernels: Mutex<BTreeMap<KernelSpec, Arc<Slot>>>,
    engine: Engine,
}

type Slot = OnceLock<Result<Kernel, CodegenError>>;

impl Jit {
    /// For the CPU at hand, its fastest instruction set. Nothing is kept on disk.
    ///
    /// # Errors
    /// [`CodegenError::NoLlvm`] in a build without LLVM.
    pub fn new() -> Result<Self, CodegenError> {
        let target = Target::native()?;
        let isa = target.best();
        Ok(Jit { target, isa, cache: None, kernels: Mutex::default(), engine: Engine::new()? })
    }

    /// Keeps compiled kernels in a folder as well. A folder that cannot be used costs only time.
    #[must_use]
    pub fn with_cache(self, cache: KernelCache) -> Self {
        Jit { cache: Some(cache), ..self }
    }

    /// Names another instruction set as the one to use.
    ///
    /// # Errors
    /// [`CodegenError::MissingFeatures`] or [`CodegenError::WrongArchitecture`] if the CPU does
    /// not have it.
    pub fn with_isa(self, isa: Isa) -> Result<Self, CodegenError> {
        self.target.check(isa)?;
        Ok(Jit { isa, ..self })
    }

    /// The CPU at hand.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The instruction set that specs should name.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The kernel of a spec.
    ///
    /// # Errors
    /// An instruction set that the CPU lacks, a spec that there is no kernel for.
    pub fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, CodegenError> {
        let slot = {
            let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(kernels.entry(*spec).or_default())
        };
        slot.get_or_init(|| self.compile(spec)).clone()
    }

    fn compile(&self, spec: &KernelSpec) -> Result<Kernel, CodegenError> {
        let name = spec.to_string();
        let unit = emit::Unit::new(&self.target)?;
        let draft = unit.draft(std::slice::from_ref(spec))?;
        let Some(cache) = &self.cache else {
            return self.engine.load(&draft.object()?, &name);
        };
        let key = draft.key();
        if let Some(object) = cache.get(&key) {
            if let Ok(kernel) = self.engine.load(&object, &name) {
                return Ok(kernel);
            }
            cache.remove(&key);
        }
        let object = draft.object()?;
        // Without the file the next run compiles again.
        let _ = cache.put(&key, &object);
        self.engine.load(&object, &name)
    }
}

impl KernelSource for Jit {
    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, KernelError> {
        Jit::kernel(self, spec).map_err(|error| KernelError::Source(Arc::new(error)))
    }

    fn isa(&self) -> Isa {
        self.isa
    }
}
