//! Grids, scale search, rounding, weight layouts and error measures over slices.

pub mod layout;
pub mod spec;
pub mod rows;
pub mod codes;
pub mod quantize;
mod cholesky;
mod chunks;
mod descent;
mod feedback;
mod pairs;
mod fused;
pub mod gptq;
pub mod gram;
mod matmul;
pub mod rtn;
pub mod search;
mod candidates;
mod exact;
pub mod kl;
pub mod adpq;
pub mod error;
pub mod signround;
mod simd;
pub mod tuner;
#[cfg(test)]
mod testing;
