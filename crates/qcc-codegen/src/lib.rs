//! Low-bit kernels through LLVM.
//!
//! A [`KernelSpec`](qcc_kernels::KernelSpec) goes in; out comes a function that multiplies
//! quantized activations by panels of packed weights: as a pointer into memory ([`Jit`]), or as
//! text or an object file for any [`Target`] ([`emit`]). [`emit_library`] puts the kernels of a
//! model, and what calls them, into an object file for programs in C ([`Library`]). Only this crate knows LLVM, and only
//! with its feature `llvm`; without it every call answers with [`CodegenError::NoLlvm`].

mod cache;
mod error;
#[cfg_attr(
    not(feature = "llvm"),
    allow(dead_code, reason = "where a feature is found is read by code")
)]
mod features;
mod host;
#[cfg(feature = "llvm")]
mod image;
mod isas;
#[cfg_attr(
    not(feature = "llvm"),
    allow(dead_code, unused_imports, reason = "what the driver reads is read by nobody else")
)]
mod library;
mod output;
mod target;
mod targets;

pub use cache::KernelCache;
pub use error::CodegenError;
pub use library::{Library, LibraryProduct, ProductEnd, Storage, identifier};
pub use output::Output;
pub use target::{Architecture, Target};
pub use targets::Targets;

#[cfg(not(feature = "llvm"))]
mod shell;
#[cfg(not(feature = "llvm"))]
pub use shell::{Jit, emit, emit_library, llvm_version};

#[cfg(feature = "llvm")]
mod code;
#[cfg(feature = "llvm")]
mod driver;
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
#[allow(unsafe_code, reason = "jumps into a library that is not linked")]
mod llvm;
#[cfg(feature = "llvm")]
mod math;
#[cfg(feature = "llvm")]
mod nest;
#[cfg(feature = "llvm")]
mod operands;
#[cfg(feature = "llvm")]
mod unpack;

#[cfg(feature = "llvm")]
pub use driver::emit_library;
#[cfg(feature = "llvm")]
pub use emit::{emit, llvm_version};
#[cfg(feature = "llvm")]
pub use jit::Jit;
