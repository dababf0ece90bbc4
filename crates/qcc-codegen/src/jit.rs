//! Kernels compiled while the program runs.

use crate::cache::KernelCache;
use crate::emit;
use crate::engine::Engine;
use crate::image::Image;
use crate::{CodegenError, Target};
use qcc_kernels::{Isa, Kernel, KernelError, KernelSource, KernelSpec};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Compiles kernels for the CPU at hand, each when it is first asked for, and keeps them.
///
/// Any number of threads may ask; different kernels are compiled at the same time. Pointers to
/// kernels are valid as long as the `Jit` is. LLVM is loaded when the first kernel is asked for
/// that is not on disk.
pub struct Jit {
    /// The CPU at hand, as far as it is known without LLVM.
    here: Target,
    isa: Isa,
    cache: Option<KernelCache>,
    kernels: Mutex<BTreeMap<KernelSpec, Arc<Slot>>>,
    images: Mutex<Vec<Image>>,
    /// The CPU at hand, as LLVM knows it.
    target: Once<Target>,
    engine: Once<Engine>,
}

type Once<T> = OnceLock<Result<T, CodegenError>>;

type Slot = Once<Kernel>;

impl Jit {
    /// For the CPU at hand, its fastest instruction set. Nothing is kept on disk.
    ///
    /// # Errors
    /// [`CodegenError::NoLlvm`] in a build without LLVM; [`CodegenError::UnknownTarget`] if qcc
    /// has no kernels for this architecture.
    pub fn new() -> Result<Self, CodegenError> {
        let here = Target::here()?;
        let isa = here.best();
        let (kernels, images) = (Mutex::default(), Mutex::default());
        let (target, engine) = (OnceLock::new(), OnceLock::new());
        Ok(Jit { here, isa, cache: None, kernels, images, target, engine })
    }

    /// Keeps compiled kernels in a folder as well. A folder that cannot be used costs only time.
    #[must_use]
    pub fn with_cache(self, cache: KernelCache) -> Self {
        Jit { cache: Some(cache), ..self }
    }

    /// Names another instruction set as the one to use.
    ///
    /// # Errors
    /// Those of [`Self::check`].
    pub fn with_isa(self, isa: Isa) -> Result<Self, CodegenError> {
        self.check(isa)?;
        Ok(Jit { isa, ..self })
    }

    /// Whether the CPU at hand has an instruction set.
    ///
    /// # Errors
    /// [`CodegenError::MissingFeatures`] or [`CodegenError::WrongArchitecture`] if it does not.
    pub fn check(&self, isa: Isa) -> Result<(), CodegenError> {
        self.here.check(isa)
    }

    /// The instruction set that specs should name.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The kernel of a spec.
    ///
    /// # Errors
    /// An instruction set that the CPU lacks, a spec that there is no kernel for;
    /// [`CodegenError::Load`].
    pub fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, CodegenError> {
        let slot = {
            let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(kernels.entry(*spec).or_default())
        };
        slot.get_or_init(|| self.find(spec)).clone()
    }

    fn find(&self, spec: &KernelSpec) -> Result<Kernel, CodegenError> {
        self.check(spec.isa)?;
        let name = spec.to_string();
        let Some(cache) = &self.cache else {
            return self.load(&self.compile(spec)?, &name);
        };
        let key = self.key(&name)?;
        if let Some(object) = cache.get(&key) {
            if let Ok(kernel) = self.load(&object, &name) {
                return Ok(kernel);
            }
            cache.remove(&key);
        }
        let object = self.compile(spec)?;
        // Without the file the next run compiles again.
        let _ = cache.put(&key, &object);
        self.load(&object, &name)
    }

    /// A name for all that the code of a kernel follows from.
    fn key(&self, name: &str) -> Result<String, CodegenError> {
        let cpu = match crate::host::signature() {
            Some(cpu) => cpu,
            None => {
                let target = self.target()?;
                format!("{}={}", target.cpu(), target.features())
            }
        };
        let mut hash = blake3::Hasher::new();
        for part in [env!("QCC_KERNEL_SOURCES"), crate::llvm::LIBRARIES[0], &cpu, name] {
            hash.update(part.as_bytes()).update(&[0]);
        }
        Ok(hash.finalize().to_hex().to_string())
    }

    fn target(&self) -> Result<&Target, CodegenError> {
        self.target.get_or_init(Target::native).as_ref().map_err(Clone::clone)
    }

    fn compile(&self, spec: &KernelSpec) -> Result<Vec<u8>, CodegenError> {
        let unit = emit::Unit::new(self.target()?)?;
        unit.draft(std::slice::from_ref(spec))?.object()
    }

    fn load(&self, object: &[u8], name: &str) -> Result<Kernel, CodegenError> {
        if let Some(image) = Image::new(object, name) {
            let kernel = image.kernel();
            self.images.lock().unwrap_or_else(PoisonError::into_inner).push(image);
            return Ok(kernel);
        }
        let engine = self.engine.get_or_init(Engine::new).as_ref().map_err(Clone::clone)?;
        engine.load(object, name)
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
