//! Low-bit kernels through LLVM.
//!
//! A [`KernelSpec`] goes in; out comes a function that multiplies quantized activations by a
//! panel of packed weights: as a pointer into memory ([`Jit`]), or as text or an object file for
//! any target ([`emit`]). Only this crate knows LLVM, and only with its feature `llvm`; without
//! it every call answers with [`CodegenError::NoLlvm`].

mod cache;
mod error;
mod host;
mod output;
mod target;

#[cfg(feature = "llvm")]
mod code;
#[cfg(feature = "llvm")]
mod emit;
#[cfg(feature = "llvm")]
mod engine;
#[cfg(feature = "llvm")]
mod epilogue;
#[cfg(feature = "llvm")]
mod isa;
#[cfg(feature = "llvm")]
mod jit;
#[cfg(feature = "llvm")]
mod math;
#[cfg(feature = "llvm")]
mod nest;
#[cfg(feature = "llvm")]
mod operands;
#[cfg(feature = "llvm")]
mod unpack;

pub use cache::KernelCache;
pub use error::CodegenError;
#[cfg(feature = "llvm")]
pub use jit::Jit;
pub use output::Output;
pub use target::{Architecture, Target};

use qcc_kernels::KernelSpec;

/// Emits `specs` as one module for `target`. Each kernel is a function of the name that its spec
/// prints.
///
/// # Errors
/// An instruction set that the target lacks; [`CodegenError::NoLlvm`].
#[cfg(feature = "llvm")]
pub fn emit(
    specs: &[KernelSpec],
    target: &Target,
    output: Output,
) -> Result<Vec<u8>, CodegenError> {
    emit::emit(specs, target, output)
}

/// Emits nothing: this is a build without LLVM.
///
/// # Errors
/// [`CodegenError::NoLlvm`], always.
#[cfg(not(feature = "llvm"))]
pub fn emit(_: &[KernelSpec], _: &Target, _: Output) -> Result<Vec<u8>, CodegenError> {
    Err(CodegenError::NoLlvm)
}
