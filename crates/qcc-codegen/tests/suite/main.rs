//! Kernels against their definition, and their instructions against what they should be.
#![cfg(feature = "llvm")]

mod aarch64;
mod case;
mod counts;
mod jit;
mod native;
mod oracle;
