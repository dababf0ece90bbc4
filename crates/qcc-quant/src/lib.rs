//! Grids, scale search, rounding, weight layouts and error measures over slices.

pub mod layout;
pub mod spec;
pub mod rows;
pub mod codes;
pub mod quantize;
mod cholesky;
mod descent;
pub mod gptq;
pub mod gram;
mod matmul;
pub mod rtn;
mod simd;
#[cfg(test)]
mod testing;
