//! Runs a graph on low-bit kernels.
//!
//! [`weights`] finds the products of a graph whose weight is stored in 2 to 8 bits, whichever
//! operator stores it. [`lower()`] puts [`KernelProduct`]s in their place, which whatever runs
//! graphs then runs as any other operator. Nothing here knows LLVM: kernels come from a
//! [`KernelSource`](qcc_kernels::KernelSource).

#![warn(clippy::indexing_slicing, clippy::panic)]

mod ends;
mod fuse;
mod lower;
mod machine;
mod product;
pub mod weights;

pub use ends::{End, Standing, ends};
pub use lower::{LowerError, LowerOptions, Lowered, Report, Stays, lower};
pub use product::KernelProduct;
