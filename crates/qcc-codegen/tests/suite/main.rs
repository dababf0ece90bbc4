//! Kernels against their definition, and their instructions against what they should be.
#![cfg(feature = "llvm")]

mod case;
mod counts;
mod native;
mod oracle;
