//! Runs a graph on low-bit kernels.
//!
//! [`weights`] finds the products of a graph whose weight is stored in 2 to 8 bits, whichever
//! operator stores it. Nothing here knows LLVM: kernels come from a
//! [`KernelSource`](qcc_kernels::KernelSource).

#![warn(clippy::indexing_slicing, clippy::panic)]

pub mod weights;
