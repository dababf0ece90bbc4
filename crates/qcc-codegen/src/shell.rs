//! What a build without LLVM has in place of kernels: calls that say so.

use crate::{CodegenError, KernelCache, Library, Output, Target};
use qcc_kernels::{Isa, Kernel, KernelError, KernelSource, KernelSpec};

/// Emits nothing: this is a build without LLVM.
///
/// # Errors
/// [`CodegenError::NoLlvm`], always.
pub fn emit(_: &[KernelSpec], _: &Target, _: Output) -> Result<Vec<u8>, CodegenError> {
    Err(CodegenError::NoLlvm)
}

/// Emits nothing: this is a build without LLVM.
///
/// # Errors
/// [`CodegenError::NoLlvm`], always.
pub fn emit_library(_: &Library, _: Output) -> Result<Vec<u8>, CodegenError> {
    Err(CodegenError::NoLlvm)
}

/// There is none in a build without LLVM.
#[must_use]
pub fn llvm_version() -> Option<String> {
    None
}

/// Compiles kernels while the program runs; there are no values of it in a build without LLVM.
#[derive(Debug)]
pub enum Jit {}

impl Jit {
    /// Says that there is no LLVM.
    ///
    /// # Errors
    /// [`CodegenError::NoLlvm`], always.
    pub fn new() -> Result<Self, CodegenError> {
        Err(CodegenError::NoLlvm)
    }

    /// Keeps compiled kernels in a folder as well.
    #[must_use]
    pub fn with_cache(self, _: KernelCache) -> Self {
        self
    }

    /// Names another instruction set as the one to use.
    ///
    /// # Errors
    /// None: there is nothing to call it on.
    pub fn with_isa(self, _: Isa) -> Result<Self, CodegenError> {
        Ok(self)
    }

    /// Whether the CPU at hand has an instruction set.
    ///
    /// # Errors
    /// None: there is nothing to call it on.
    pub fn check(&self, _: Isa) -> Result<(), CodegenError> {
        match *self {}
    }

    /// The instruction set that specs should name.
    #[must_use]
    pub fn isa(&self) -> Isa {
        match *self {}
    }

    /// The kernel of a spec.
    ///
    /// # Errors
    /// None: there is nothing to call it on.
    pub fn kernel(&self, _: &KernelSpec) -> Result<Kernel, CodegenError> {
        match *self {}
    }
}

impl KernelSource for Jit {
    fn kernel(&self, _: &KernelSpec) -> Result<Kernel, KernelError> {
        match *self {}
    }

    fn isa(&self) -> Isa {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_says_why() {
        let target = Target::parse("aarch64").expect("a target");
        assert_eq!(emit(&[], &target, Output::Asm), Err(CodegenError::NoLlvm));
        assert_eq!(Jit::new().map(|_| ()), Err(CodegenError::NoLlvm));
        assert_eq!(Target::native(), Err(CodegenError::NoLlvm));
        assert_eq!(llvm_version(), None);
        let text = CodegenError::NoLlvm.to_string();
        assert_eq!(text, "this qcc was built without LLVM, so it cannot emit kernels");
    }
}
